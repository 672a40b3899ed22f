"""The documents' snippets and the examples run as printed."""

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("name", ["README.md", "docs/python.md"])
def test_snippets(name, tmp_path, monkeypatch):
    """A document's snippets, one after the other; a block of text after one is what it prints."""
    document = (ROOT / name).read_text(encoding="utf-8")
    for module in re.findall(r"^import (numpy|torch|transformers)", document, re.MULTILINE):
        pytest.importorskip(module)
    blocks = list(BLOCK.finditer(document))
    names: dict[str, object] = {}
    snippets = 0
    monkeypatch.chdir(tmp_path)
    for place, block in enumerate(blocks):
        language, code = block.groups()
        if language != "python":
            continue
        snippets += 1
        line = document.count("\n", 0, block.start()) + 1
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("\n" * line + code, str(ROOT / name), "exec"), names)
        following = blocks[place + 1] if place + 1 < len(blocks) else None
        if following and following[1] == "text" and not document[block.end() : following.start()].strip():
            assert printed.getvalue() == following[2], f"{name}:{line}"
    assert snippets


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples(path, tmp_path):
    for module in re.findall(r"^import (numpy|torch|transformers)", path.read_text(), re.MULTILINE):
        pytest.importorskip(module)
    command = [sys.executable, path]
    run = subprocess.run(command, cwd=tmp_path, env=os.environ, text=True, capture_output=True, timeout=600)
    assert run.returncode == 0, run.stderr
    assert run.stdout


def test_there_are_examples():
    assert ROOT / "examples/selection.py" in EXAMPLES
