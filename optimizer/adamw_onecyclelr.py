"""`adamw_cosine_schedule`: AdamW with PyTorch's OneCycleLR inside."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch.optim import AdamW, Optimizer

from .config.fields import PositiveNumber
from .config.validation import Config
from .factories.adamw_options import AdamWOptions
from .factories.base import OPTIMIZER_BUILDER_REGISTRY
from .factories.inline_schedule import InlineScheduleFactory
from .schedules.base import Schedule
from .schedules.basic import OneCycle, OneCycleFields
from .scheduling.optimizer import ScheduledOptimizer
from .transforms.step_options import StepOptions
from .types import ParamGroup


class AdamWWithOneCycle(ScheduledOptimizer, AdamW):
    """torch.optim.AdamW with PyTorch's OneCycleLR inside.

    Args:
        params: Parameters, named parameters or parameter groups.
        max_lr: The highest lr of the cycle.
        total_steps: Updates in the cycle.
        lr: The lr of which a parameter group's own lr is a share; None: `max_lr`. The cycle sets the lr itself.
        step_options: Clipping, caution and the type of the moments.
        option_schedules: Schedules of options other than the lr, by option.
        **options: OneCycleLR's other options (`cycle_momentum` is off by default), and AdamW's.

    Raises:
        ValidationError: The values of the cycle do not fit together.
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
class AdamWWithOneCycleFactory(OneCycleFields, AdamWOptions, InlineScheduleFactory):
    """AdamW whose lr follows PyTorch's OneCycleLR and holds its last value after the cycle.

    Examples:
        >>> import torch
        >>> from optimizer import OPTIMIZER_BUILDER_REGISTRY
        >>> factory = OPTIMIZER_BUILDER_REGISTRY["adamw_cosine_schedule"](max_lr=1e-2, total_steps=5, pct_start=0.6)
        >>> optimizer = factory.build(torch.nn.Linear(2, 1))
        >>> lrs = []
        >>> for _ in range(6):
        ...     lrs += optimizer.scheduler.get_last_lr()
        ...     optimizer.step()
        >>> [round(lr, 6) for lr in lrs]
        [0.0004, 0.0052, 0.01, 0.005, 0.0, 0.0]
    """

    optimizer_class: ClassVar[type[Optimizer]] = AdamW
    fused_by_default: ClassVar[bool] = True
    schedule_class: ClassVar[type[Schedule]] = OneCycle
    schedule_fields: ClassVar[type[Config]] = OneCycleFields

    lr: PositiveNumber | None = None
    """The lr of which a parameter group's own lr is a share (left out: max_lr); the cycle sets the lr itself."""
    cycle_momentum: bool = False
    """Whether beta1 moves against the lr, between base_momentum and max_momentum."""

    @property
    def base_lr(self) -> float:
        return self.max_lr if self.lr is None else self.lr

    def _make(self, groups: list[ParamGroup], options: dict[str, Any]) -> ScheduledOptimizer:
        return AdamWWithOneCycle(groups, **self.schedule_values(), **self._embedded(), **options)
