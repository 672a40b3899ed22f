"""The compiled part of `trellect`; import that."""

__version__: str

def get_available_kernels(lib: object | None = None) -> set[str]: ...
