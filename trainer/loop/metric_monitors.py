"""Schedules that a metric moves: metrics for them, and a check that each one will come."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class MetricSource:
    """A kind of evaluation."""

    metrics: Collection[str]
    """The names of its metrics."""
    every: int | None
    """Updates from one to the next; None: only at the end."""
    field: str
    """The field of the config that sets `every`."""


def observe(optimizers: Iterable[Optimizer], metrics: Mapping[str, float]) -> None:
    """Report metrics, as a `monitor` has their names, to every optimizer that takes them."""
    for optimizer in optimizers:
        if isinstance(optimizer, _ObservesMetrics):
            for name, value in metrics.items():
                optimizer.report_metric(name, value)


def monitored(config: ExperimentConfig, optimizers: Mapping[str, Optimizer]) -> list[tuple[str, str]]:
    """Return each metric that is waited for, with the path in the config of the schedule or rule that waits.

    Args:
        optimizers: By component.
    """
    waiting = [
        (f"model.component_optims.{name}.params.{field}", monitor)
        for name, optimizer in optimizers.items()
        for field, monitor in _monitors(optimizer)
    ]
    if config.train.keep_best is not None:
        waiting.append(("train.keep_best.monitor", config.train.keep_best.monitor))
    if config.train.early_stopping is not None:
        waiting.append(("train.early_stopping.monitor", config.train.early_stopping.monitor))
    return waiting


def check_monitors(
    waiting: Iterable[tuple[str, str]], sources: Sequence[MetricSource], trained: Iterable[str], total_steps: int
) -> None:
    """Check that each metric comes for which a schedule, the best checkpoint, or the end of the run waits.

    Args:
        waiting: As from `monitored`.
        sources: The evaluations of the run; empty: there is nothing to evaluate on.
        trained: The training metrics, whose means come with each evaluation, as a `monitor` has their names.
        total_steps: Updates in the run.

    Raises:
        ConfigError: One of them will never come, or two evaluations have a metric of one name.
    """
    by_name = _sources_by_name(sources, trained, total_steps)
    for path, monitor in waiting:
        if not sources:
            raise ConfigError(
                f"{path}: waits for {monitor!r}, but the data has no held-out split to evaluate on, and there is no"
                " train.evaluation."
            )
        if monitor not in by_name:
            raise ConfigError(
                f"{path}: waits for {monitor!r}, which is never reported{nearest(monitor, list(by_name))}"
                f" Reported after each evaluation: {', '.join(by_name)}."
            )
        every, field = by_name[monitor].every, by_name[monitor].field
        if every is None or every >= total_steps:
            raise ConfigError(
                f"{path}: waits for {monitor!r}, but evaluations come at the end only. Set {field} to less"
                f" than the {counted(total_steps, 'update')} of the run."
            )


def _sources_by_name(
    sources: Sequence[MetricSource], trained: Iterable[str], total_steps: int
) -> dict[str, MetricSource]:
    """Return the source of each metric by its name as a `monitor` has it. Raises ConfigError if two have one name."""
    by_name: dict[str, MetricSource] = {}
    for source in sources:
        for name in source.metrics:
            if HELD_OUT_PREFIX + name in by_name:
                raise ConfigError(
                    f"train.evaluation: a metric of the episodes must not be called as one of the held-out samples;"
                    f" got {name!r} from both"
                )
            by_name[HELD_OUT_PREFIX + name] = source
    if sources:
        often = min(sources, key=lambda source: source.every or total_steps)
        by_name |= dict.fromkeys(trained, often)
    return by_name


def _monitors(optimizer: Optimizer) -> list[tuple[str, str]]:
    """Return each schedule that waits for a metric, by its field in the config, and the metric."""
    if not isinstance(optimizer, HasSchedule):
        return []
    scheduler = optimizer.scheduler
    others = {f"option_schedules.{option}": schedule for option, schedule in scheduler.option_schedules.items()}
    schedules = {"schedule": scheduler.schedule, **others}
    return [(field, monitor) for field, schedule in schedules.items() for monitor in sorted(schedule.bind().monitors())]
