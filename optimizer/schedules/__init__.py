"""The built-in schedules, by family. Each module registers its schedules when the registry first needs them."""

from pkgutil import iter_modules

from .base import SCHEDULE_REGISTRY
from .durations import updates_of
from .sampling import sample_steps

__all__ = ["sample_steps", "updates_of"]

SCHEDULE_REGISTRY.add_modules(f"{__name__}.{module.name}" for module in iter_modules(__path__))
