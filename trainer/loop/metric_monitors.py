"""Schedules that a metric moves: metrics for them, and a check that each one will come."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch.optim import Optimizer

from optimizer.config import counted, nearest
from optimizer.types import HasSchedule

from ..config.schema import ExperimentConfig, TrainConfig
from ..errors import ConfigError
from ..interfaces.objective import HELD_OUT_PREFIX, TRAIN_PREFIX

_LOSS = HELD_OUT_PREFIX + "loss"
"""A metric of the held-out samples only: an environment has none of this name."""


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
    return waiting + monitored_by_rules(config.train)


def monitored_by_rules(train: TrainConfig) -> list[tuple[str, str]]:
    """Return the metric of each rule that waits for one, with the path of the rule in the config."""
    rules = {"train.keep_best.monitor": train.keep_best, "train.early_stopping.monitor": train.early_stopping}
    return [(path, rule.monitor) for path, rule in rules.items() if rule is not None]


def check_without_data(path: str, monitor: str, train: TrainConfig) -> None:
    """Check the metric of a rule as far as the config alone allows, without data, objective and environment.

    Args:
        path: The rule's, in the config.
        monitor: The metric.
        train: When evaluations come.

    Raises:
        ConfigError: No metric can have this name, or it can come at the end only.
    """
    if not monitor.startswith((HELD_OUT_PREFIX, TRAIN_PREFIX)):
        raise ConfigError(
            f"{path}: waits for {monitor!r}, which is never reported{nearest(monitor, [_LOSS, f'{TRAIN_PREFIX}loss'])}"
            f" Names begin with {HELD_OUT_PREFIX} for a metric of an evaluation, and with {TRAIN_PREFIX} for one of"
            " training."
        )
    fields = {"train.eval_every": train.eval_every}
    if train.evaluation is not None and monitor != _LOSS:
        fields["train.evaluation.every"] = train.evaluation.every
    if all(_is_at_the_end(every, train.total_steps) for every in fields.values()):
        raise _only_at_the_end(path, monitor, " or ".join(fields), train.total_steps)


def _is_at_the_end(every: int | None, total_steps: int | None) -> bool:
    return every is None or (total_steps is not None and every >= total_steps)


def _only_at_the_end(path: str, monitor: str, field: str, total_steps: int | None) -> ConfigError:
    length = "the updates" if total_steps is None else f"the {counted(total_steps, 'update')}"
    return ConfigError(
        f"{path}: waits for {monitor!r}, but evaluations come at the end only. Set {field} to less than {length} of"
        " the run."
    )


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
        if _is_at_the_end(by_name[monitor].every, total_steps):
            raise _only_at_the_end(path, monitor, by_name[monitor].field, total_steps)


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
