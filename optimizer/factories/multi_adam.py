"""`multi_adam`: several Adams by name, over several sets of parameters."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, ValidationError, field_validator
from torch import nn

from ..config.messages import nearest
from ..config.validation import Beta, Config, NonNegativeNumber, nest
from ..schedules.base import AnySchedule
from ..schedules.basic import Constant
from ..schedules.horizon import Horizon
from ..scheduling.optimizer import ScheduledOptimizer
from .base import OPTIMIZER_BUILDER_REGISTRY
from .parameter_groups import Params


@OPTIMIZER_BUILDER_REGISTRY.register("multi_adam")
class MultiAdamFactory(Config):
    """LeRobot's MultiAdamConfig: an Adam for each of several named sets of parameters, each with its own schedule."""

    builds_multiple_optimizers: ClassVar[bool] = True

    optimizer_groups: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """What is different for a set, by its name: any parameter of `adam`. The other sets take the shared options."""
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
    def _check_groups(cls, groups: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
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
            params: sets of parameters by name, or a module whose children with trainable parameters are the sets.
            horizon: the length of the run.

        Raises:
            ValueError: if `optimizer_groups` has a name that no set of parameters has.
        """
        if isinstance(params, nn.Module):
            _refuse_own_parameters(params)
            children = dict(params.named_children())
            params = {
                name: child for name, child in children.items() if name in self.optimizer_groups or _trains(child)
            }
        if not isinstance(params, Mapping):
            raise ValueError("multi_adam takes parameters by name: a dict, or a module whose children have the names")
        self._check_names(list(params))
        return {name: self._adam(name).build(of_name, horizon=horizon) for name, of_name in params.items()}

    def _adam(self, name: str) -> Any:
        shared = {field: getattr(self, field) for field in type(self).model_fields if field != "optimizer_groups"}
        return OPTIMIZER_BUILDER_REGISTRY["adam"](**{**shared, **self.optimizer_groups.get(name, {})})

    def _check_names(self, given: list[str]) -> None:
        for name in self.optimizer_groups:
            if name not in given:
                raise ValueError(
                    f"optimizer_groups: there are no parameters of {name!r}{nearest(name, given)}"
                    f" Given: {', '.join(given) or 'none'}."
                )


def _trains(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def _refuse_own_parameters(module: nn.Module) -> None:
    own = [name for name, _ in module.named_parameters(recurse=False)]
    if own:
        raise ValueError(f"the module has parameters that belong to no child: {', '.join(own)}")
