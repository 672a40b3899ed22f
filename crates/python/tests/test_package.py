"""The package itself: what importing it brings and does not, and what becomes of a defect."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

import trellect
from trellect import _trellect


def run(code: str) -> str:
    """What a fresh interpreter prints."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, text=True, capture_output=True).stdout


def test_importing_takes_neither_numpy_nor_torch():
    code = "import sys, trellect; print([m for m in ('numpy', 'torch') if m in sys.modules])"
    assert run(code).strip() == "[]"


def test_every_public_name_exists_and_is_documented():
    assert sorted(trellect.__all__) == trellect.__all__
    for name in trellect.__all__:
        assert getattr(trellect, name).__doc__, name


def test_the_version_is_the_distributions():
    assert trellect.__version__ == importlib.metadata.version("trellect")


def test_its_types_are_known_to_checkers():
    folder = Path(trellect.__file__).parent
    assert (folder / "py.typed").exists()
    assert (folder / "_trellect.pyi").exists()


def test_a_panic_is_an_exception_and_the_process_lives():
    for _ in range(3):
        with pytest.raises(BaseException, match="a defect") as raised:
            _trellect._panic("a defect")
        assert raised.type.__name__ == "PanicException"
    assert trellect.get_mixed_kernel(64, [4])
