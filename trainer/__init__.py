"""An offline trainer for models made of named components, driven by one YAML file.

The public names are those in `__init__.pyi`. Each is imported on first use: `innerstep --help` imports this package,
and must not import torch.
"""

import ast
import os
from pathlib import Path


def _make_mkl_reproducible() -> None:
    """Let MKL sum in the same order in each process, so that a resumed run is the uninterrupted one bit for bit.

    By default the order may differ between processes, and so may the number of threads. MKL reads these variables when
    it is first used.
    """
    os.environ.setdefault("MKL_CBWR", "AUTO")
    os.environ.setdefault("MKL_DYNAMIC", "FALSE")


def _modules_of_names() -> dict[str, str]:
    """Return the module of each public name, relative to this package."""
    stub = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = [statement for statement in stub.body if isinstance(statement, ast.ImportFrom)]
    return {alias.name: statement.module or "" for statement in imports for alias in statement.names}


_make_mkl_reproducible()
_MODULES = _modules_of_names()
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'trainer' has no attribute {name!r}")
    import importlib

    try:
        module = importlib.import_module(f".{_MODULES[name]}", __name__)
    except AttributeError as error:  # it would mean that there is no such name, without the cause
        raise ImportError(f"trainer.{name} cannot be imported: AttributeError: {error}", name=__name__) from error
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
