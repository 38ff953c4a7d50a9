"""The options of an optimizer class, as fields of a config."""

import inspect
from typing import ClassVar

from torch.optim import Optimizer

from ..config.validation import Config
from ..types import Options


class OptimizerOptions(Config):
    """Base of configs for an optimizer class, whose fields are the class's arguments, and others.

    Attributes:
        optimizer_class: The class.
    """

    optimizer_class: ClassVar[type[Optimizer]]

    @property
    def base_lr(self) -> float:
        """The lr of a parameter group without its own."""
        return float(self.options()["lr"])

    def option_names(self) -> list[str]:
        """Return the fields that are arguments of the optimizer class."""
        accepted = inspect.signature(self.optimizer_class).parameters
        return [name for name in type(self).model_fields if name in accepted]

    def options(self) -> Options:
        """Return the keyword arguments for the optimizer class."""
        return {name: getattr(self, name) for name in self.option_names()}

    def usual_options(self) -> Options:
        """Return the defaults of those options of the optimizer class that have one."""
        fields = type(self).model_fields
        return {name: fields[name].default for name in self.option_names() if not fields[name].is_required()}
