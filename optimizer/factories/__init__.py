"""Factories: validated hyperparameters of an optimizer class, and `build`.

Each module registers its factories when the registry first needs them.
"""

from pkgutil import iter_modules

from .base import OPTIMIZER_BUILDER_REGISTRY
from .parameter_groups import trainable_parameters

__all__ = ["trainable_parameters"]

_ABOVE = ("adamw_onecyclelr", "schedule_free_radam", "adamw_cosine_decay")
OPTIMIZER_BUILDER_REGISTRY.add_modules(f"{__name__}.{module.name}" for module in iter_modules(__path__))
OPTIMIZER_BUILDER_REGISTRY.add_modules(f"{__package__.partition('.')[0]}.{name}" for name in _ABOVE)
from . import torch_optim  # noqa: E402, F401  the keys that are asked for most
