"""`adamw_warmup_cosine_decay`: AdamW with a linear warm-up and a cosine decay inside."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch.optim import AdamW, Optimizer

from .config.validation import Config
from .factories.adamw_options import AdamWOptions
from .factories.base import OPTIMIZER_BUILDER_REGISTRY
from .factories.inline_schedule import InlineScheduleFactory
from .schedules.base import Schedule
from .schedules.basic import WarmupCosineDecay, WarmupCosineFields
from .scheduling.optimizer import ScheduledOptimizer
from .transforms.step_options import StepOptions
from .types import ParamGroup


class AdamWWithWarmupCosine(ScheduledOptimizer, AdamW):
    """torch.optim.AdamW with `WarmupCosineDecay` inside.

    Args:
        params: Parameters, named parameters or parameter groups. A group's own lr is a share of `peak_lr`.
        peak_lr: The lr at the end of the warm-up.
        total_steps: Updates in the run.
        warmup_steps: Updates of the warm-up.
        start_lr: The lr of update 0, if there is a warm-up.
        end_lr: The lr of the last update, and after it.
        step_options: Clipping, caution and the type of the moments.
        option_schedules: Schedules of options other than the lr, by option.
        **adamw_options: AdamW's other options.

    Raises:
        ValidationError: The values of the schedule do not fit together.
    """

    def __init__(
        self,
        params: Any,
        *,
        peak_lr: float,
        total_steps: int,
        warmup_steps: int = 0,
        start_lr: float = 0.0,
        end_lr: float = 0.0,
        step_options: StepOptions | None = None,
        option_schedules: Mapping[str, Schedule] | None = None,
        **adamw_options: Any,
    ) -> None:
        schedule = WarmupCosineDecay(
            peak_lr=peak_lr, start_lr=start_lr, end_lr=end_lr, total_steps=total_steps, warmup_steps=warmup_steps
        )
        super().__init__(params, lr=peak_lr, **adamw_options)
        self.embed(schedule, step_options, option_schedules)


@OPTIMIZER_BUILDER_REGISTRY.register("adamw_warmup_cosine_decay")
class AdamWWithWarmupCosineFactory(WarmupCosineFields, AdamWOptions, InlineScheduleFactory):
    """AdamW whose lr rises linearly from start_lr to peak_lr and falls on half a cosine to end_lr.

    Examples:
        >>> import torch
        >>> from optimizer import OPTIMIZER_BUILDER_REGISTRY
        >>> key = "adamw_warmup_cosine_decay"
        >>> factory = OPTIMIZER_BUILDER_REGISTRY[key](peak_lr=1e-3, warmup_steps=2, total_steps=5)
        >>> optimizer = factory.build(torch.nn.Linear(2, 1))
        >>> lrs = []
        >>> for _ in range(6):
        ...     lrs += optimizer.scheduler.get_last_lr()
        ...     optimizer.step()
        >>> [round(lr, 6) for lr in lrs]
        [0.0, 0.0005, 0.001, 0.0005, 0.0, 0.0]
    """

    optimizer_class: ClassVar[type[Optimizer]] = AdamW
    fused_by_default: ClassVar[bool] = True
    schedule_class: ClassVar[type[Schedule]] = WarmupCosineDecay
    schedule_fields: ClassVar[type[Config]] = WarmupCosineFields

    @property
    def base_lr(self) -> float:
        return self.peak_lr

    def _make(self, groups: list[ParamGroup], options: dict[str, Any]) -> ScheduledOptimizer:
        return AdamWWithWarmupCosine(groups, **self.schedule_values(), **self._embedded(), **options)
