"""The built-in schedules, by family. Importing this package imports its modules, which register their schedules."""

from importlib import import_module
from pkgutil import iter_modules

from .durations import updates_of
from .sampling import sample_steps

__all__ = ["sample_steps", "updates_of"]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
