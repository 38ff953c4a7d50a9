"""Schedules that a metric moves: metrics for them, and a check that each one will come."""

from collections.abc import Iterable, Mapping
from typing import Protocol, runtime_checkable

from torch.optim import Optimizer

from optimizer.config import counted, nearest
from optimizer.types import HasSchedule

from ..config.schema import ExperimentConfig
from ..errors import ConfigError
from ..interfaces.objective import HELD_OUT_PREFIX


@runtime_checkable
class _ObservesMetrics(Protocol):
    """An optimizer with a schedule, or another one that takes metrics."""

    def report_metric(self, name: str, value: float) -> None:
        """Report a metric."""
        ...


def observe(optimizers: Iterable[Optimizer], metrics: Mapping[str, float]) -> None:
    """Report the metrics of an evaluation to every optimizer that takes them."""
    for optimizer in optimizers:
        if isinstance(optimizer, _ObservesMetrics):
            for name, value in metrics.items():
                optimizer.report_metric(HELD_OUT_PREFIX + name, value)


def check_monitors(
    config: ExperimentConfig,
    optimizers: Mapping[str, Optimizer],
    metrics: Iterable[str],
    evaluates: bool,
    total_steps: int,
) -> None:
    """Check that each metric comes for which a schedule, or the choice of the best checkpoint, waits.

    Args:
        optimizers: By component.
        metrics: The names of an evaluation's metrics.
        evaluates: Whether there is held-out data.
        total_steps: Updates in the run.

    Raises:
        ConfigError: One of them will never come.
    """
    reported = [HELD_OUT_PREFIX + name for name in metrics]
    waiting = [
        (f"model.component_optims.{name}.params.{field}", monitor)
        for name, optimizer in optimizers.items()
        for field, monitor in _monitors(optimizer)
    ]
    if config.train.keep_best is not None:
        waiting.append(("train.keep_best.monitor", config.train.keep_best.monitor))
    for path, monitor in waiting:
        if not evaluates:
            raise ConfigError(f"{path}: waits for {monitor!r}, but the data has no held-out split to evaluate on.")
        if monitor not in reported:
            raise ConfigError(
                f"{path}: waits for {monitor!r}, which is never reported{nearest(monitor, reported)}"
                f" Reported after each evaluation: {', '.join(reported)}."
            )
        every = config.train.eval_every
        if every is None or every >= total_steps:
            raise ConfigError(
                f"{path}: waits for {monitor!r}, but evaluations come at the end only. Set train.eval_every to less"
                f" than the {counted(total_steps, 'update')} of the run."
            )


def _monitors(optimizer: Optimizer) -> list[tuple[str, str]]:
    """Return each schedule that waits for a metric, by its field in the config, and the metric."""
    if not isinstance(optimizer, HasSchedule):
        return []
    scheduler = optimizer.scheduler
    others = {f"option_schedules.{option}": schedule for option, schedule in scheduler.option_schedules.items()}
    schedules = {"schedule": scheduler.schedule, **others}
    return [(field, monitor) for field, schedule in schedules.items() for monitor in sorted(schedule.bind().monitors())]
