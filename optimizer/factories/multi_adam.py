"""`multi_adam`: several Adams by name, over several sets of parameters."""

from collections.abc import Mapping
from typing import ClassVar, cast

from pydantic import Field, ValidationError, field_validator
from torch import nn

from ..config.errors import nest
from ..config.fields import Beta, NonNegativeNumber
from ..config.messages import nearest
from ..config.validation import Config
from ..schedules.base import AnySchedule
from ..schedules.basic import Constant
from ..schedules.horizon import Horizon
from ..scheduling.optimizer import ScheduledOptimizer
from ..types import Options
from .base import OPTIMIZER_BUILDER_REGISTRY, ScheduledFactory
from .parameter_groups import Params, trainable_parameters


@OPTIMIZER_BUILDER_REGISTRY.register("multi_adam")
class MultiAdamFactory(Config):
    """LeRobot's MultiAdamConfig: an Adam for each of several named sets of parameters, each with its own schedule."""

    builds_multiple_optimizers: ClassVar[bool] = True

    optimizer_groups: dict[str, Options] = Field(default_factory=dict)
    """Options of `adam` that are different for a set, by its name. The other sets have the shared options."""
    lr: NonNegativeNumber = 1e-3
    """Learning rate."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Decay rates of the running means of the gradient and of its square."""
    eps: NonNegativeNumber = 1e-5
    """Added to the denominator."""
    weight_decay: NonNegativeNumber = 0.0
    """L2 penalty."""
    grad_clip_norm: NonNegativeNumber | None = 10.0
    """Joint L2 norm that each Adam's gradients are scaled down to; 0 or null: no clipping."""
    schedule: AnySchedule = Field(Constant(), json_schema_extra={"default": {"type": "constant"}})
    """The curve: {type: KEY, …}."""

    @field_validator("optimizer_groups")
    @classmethod
    def _check_groups(cls, groups: dict[str, Options]) -> dict[str, Options]:
        for name, options in groups.items():
            try:
                OPTIMIZER_BUILDER_REGISTRY["adam"](**options)
            except ValidationError as error:
                raise nest(error, (name,)) from None
        return groups

    def build(
        self, params: nn.Module | Mapping[str, Params], horizon: Horizon | None = None
    ) -> dict[str, ScheduledOptimizer]:
        """Return the optimizers by name, one for each set of parameters.

        Args:
            params: Sets of parameters by name, or a module whose children with trainable parameters are the sets.
            horizon: The length of the run.

        Raises:
            ValueError: `optimizer_groups` has a name that no set of parameters has.
        """
        if isinstance(params, nn.Module):
            _refuse_own_parameters(params)
            children = dict(params.named_children())
            params = {
                name: child
                for name, child in children.items()
                if name in self.optimizer_groups or trainable_parameters(child)
            }
        if not isinstance(params, Mapping):
            raise ValueError("multi_adam takes parameters by name: a dict, or a module whose children have the names")
        self._check_names(list(params))
        return {name: self._adam(name).build(set_params, horizon=horizon) for name, set_params in params.items()}

    def _adam(self, name: str) -> ScheduledFactory:
        shared = {field: getattr(self, field) for field in type(self).model_fields if field != "optimizer_groups"}
        factory = OPTIMIZER_BUILDER_REGISTRY["adam"](**{**shared, **self.optimizer_groups.get(name, {})})
        return cast(ScheduledFactory, factory)  # as torch_optim.py registers it

    def _check_names(self, given: list[str]) -> None:
        for name in self.optimizer_groups:
            if name not in given:
                raise ValueError(
                    f"optimizer_groups: there are no parameters of {name!r}{nearest(name, given)}"
                    f" Given: {', '.join(given) or 'none'}."
                )


def _refuse_own_parameters(module: nn.Module) -> None:
    own = [name for name, _ in module.named_parameters(recurse=False)]
    if own:
        raise ValueError(f"the module has parameters that belong to no child: {', '.join(own)}")
