"""The compiled part of `trellect`; import that."""

__all__ = ["__version__", "get_available_kernels"]

__version__: str

def get_available_kernels(lib: object | None = None) -> set[str]: ...
