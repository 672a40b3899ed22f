"""The package itself: what importing it brings, and what it does not."""

import subprocess
import sys

import trellect


def run(code: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], check=True, text=True, capture_output=True).stdout


def test_importing_takes_neither_numpy_nor_torch():
    code = "import sys, trellect; print([m for m in ('numpy', 'torch') if m in sys.modules])"
    assert run(code).strip() == "[]"


def test_every_public_name_exists():
    assert [name for name in trellect.__all__ if not hasattr(trellect, name)] == []
