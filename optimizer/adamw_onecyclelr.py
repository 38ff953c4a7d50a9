"""`adamw_cosine_schedule`: AdamW with PyTorch's OneCycleLR inside."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from torch.optim import AdamW, Optimizer

from .config.validation import PositiveNumber
from .factories.adamw_options import AdamWOptions
from .factories.base import OPTIMIZER_BUILDER_REGISTRY, ScheduledFactory
from .scheduled.optimizer import ScheduledOptimizer
from .schedules.base import Schedule
from .schedules.basic import OneCycle, OneCycleFields
from .schedules.horizon import Horizon
from .transforms.step_options import StepOptions
from .types import ParamGroup


class AdamWWithOneCycle(ScheduledOptimizer, AdamW):
    """torch.optim.AdamW with PyTorch's OneCycleLR inside.

    Args:
        params: as for any optimizer of PyTorch's.
        max_lr: the lr at the top of the cycle.
        total_steps: the length of the cycle in updates.
        lr: the base that a parameter group's own lr is compared with (left out: max_lr); the cycle sets the lr itself.
        step_options: clipping, caution and the type of the moments.
        option_schedules: schedules of other options than the lr, by option.
        options: OneCycleLR's (with cycle_momentum off by default) and AdamW's.

    Raises:
        ValidationError: if the cycle's values do not fit together.
    """

    def __init__(
        self,
        params: Any,
        *,
        max_lr: float,
        total_steps: int,
        lr: float | None = None,
        step_options: StepOptions | None = None,
        option_schedules: Mapping[str, Schedule] | None = None,
        **options: Any,
    ) -> None:
        cycle = {name: options.pop(name) for name in OneCycleFields.model_fields if name in options}
        schedule = OneCycle(**{"cycle_momentum": False, **cycle, "max_lr": max_lr, "total_steps": total_steps})
        super().__init__(params, lr=max_lr if lr is None else lr, **options)
        self.embed(schedule, step_options, option_schedules)


@OPTIMIZER_BUILDER_REGISTRY.register("adamw_cosine_schedule")
class AdamWWithOneCycleFactory(OneCycleFields, AdamWOptions, ScheduledFactory):
    """AdamW whose lr follows PyTorch's OneCycleLR and holds its last value after it."""

    optimizer_class: ClassVar[type[Optimizer]] = AdamW
    fused_by_default: ClassVar[bool] = True

    lr: PositiveNumber | None = None
    """What a parameter group's own lr is compared with (left out: max_lr); the cycle sets the lr itself."""
    cycle_momentum: bool = False
    """Whether beta1 moves against the lr, between base_momentum and max_momentum."""

    @property
    def curve(self) -> OneCycle:
        return OneCycle(**{name: getattr(self, name) for name in OneCycleFields.model_fields})

    @property
    def base_lr(self) -> float:
        return self.max_lr if self.lr is None else self.lr

    def resolved(self, horizon: Horizon | None = None) -> Self:
        known = super().resolved(horizon)
        return known.replaced(**self.curve.resolved(horizon).model_dump(include=set(OneCycleFields.model_fields)))

    def _make(self, groups: list[ParamGroup], options: dict[str, Any]) -> ScheduledOptimizer:
        cycle = self.curve.model_dump(include=set(OneCycleFields.model_fields))
        return AdamWWithOneCycle(groups, **cycle, **self._embedded(), **options)
