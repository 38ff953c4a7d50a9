"""Factories: validated hyperparameters of an optimizer class, and `build`. Importing the package registers them."""

from importlib import import_module
from pkgutil import iter_modules

from .parameter_groups import trainable_parameters

for _module in iter_modules(__path__):
    import_module(f".{_module.name}", __name__)
for _name in ("adamw_cosine_decay", "adamw_onecyclelr", "schedule_free_radam"):
    import_module(f"..{_name}", __name__)  # they stand above, and whoever imports the registry alone needs them, too

__all__ = ["trainable_parameters"]
