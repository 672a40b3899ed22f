"""Mixture-of-experts layers of EXL3 models, each call on the fastest kernel that is legal for it."""

from trellect._trellect import __version__, get_available_kernels

__all__ = ["__version__", "get_available_kernels"]
