"""Optimizers with their learning-rate schedule inside, built from a key and validated parameters.

The public names are those in `__init__.pyi`. They are imported on first use: reading a config needs `optimizer.config`,
and must not import torch.
"""

import ast
import gc
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path


def _modules_of_names() -> dict[str, str]:
    """Return the module of each public name, relative to this package."""
    stub = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = [statement for statement in stub.body if isinstance(statement, ast.ImportFrom)]
    return {alias.name: statement.module or "" for statement in imports for alias in statement.names}


_MODULES = _modules_of_names()
__all__ = sorted(_MODULES)


def _import(names: Iterable[str]) -> None:
    """Import public names.

    Meanwhile no garbage is looked for. What is imported stays, and each search would go through all of torch.

    Raises:
        ImportError: A module fails. An AttributeError would mean that `optimizer` has no such name, without the cause.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        public = {name: getattr(import_module(f".{_MODULES[name]}", __name__), name) for name in names}
    except AttributeError as error:
        raise ImportError(f"optimizer cannot be imported: AttributeError: {error}", name=__name__) from error
    finally:
        if collects:
            gc.enable()
    globals().update(public)


def __getattr__(name: str) -> object:
    if not name.startswith("__"):
        _import([name] if name in _MODULES else _MODULES)
    if name in globals():  # or a package in this one, which the imports have added
        return globals()[name]
    raise AttributeError(f"module 'optimizer' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
