"""Metrics on their way to the schedules that they move."""

from collections.abc import Iterable, Mapping

from torch.optim import Optimizer

from optimizer.config import counted, nearest
from optimizer.types import HasSchedule

from ..config.schema import ExperimentConfig
from ..errors import ConfigError
from ..interfaces.objective import HELD_OUT_PREFIX


def report(optimizers: Iterable[Optimizer], metrics: Mapping[str, float]) -> None:
    """Tell every optimizer that can hear it the metrics of an evaluation."""
    for optimizer in optimizers:
        if isinstance(optimizer, HasSchedule):
            for name, value in metrics.items():
                optimizer.report_metric(HELD_OUT_PREFIX + name, value)


def check_monitors(
    config: ExperimentConfig,
    optimizers: Mapping[str, Optimizer],
    metrics: Iterable[str],
    evaluates: bool,
    total_steps: int,
) -> None:
    """Raise ConfigError if a schedule, or the choice of the best checkpoint, waits for a metric that will never come.

    metrics: the names of an evaluation's metrics. evaluates: whether there is held-out data. total_steps: updates
    in the run.
    """
    reported = [HELD_OUT_PREFIX + name for name in metrics]
    waiting = [
        (f"model.component_optims.{name}.params.{field}", monitor)
        for name, optimizer in optimizers.items()
        for field, monitor in _waiting(optimizer)
    ]
    if config.train.keep_best is not None:
        waiting.append(("train.keep_best.monitor", config.train.keep_best.monitor))
    for path, monitor in waiting:
        if not evaluates:
            raise ConfigError(f"{path}: waits for {monitor!r}, but the data has no held-out part to evaluate on.")
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


def _waiting(optimizer: Optimizer) -> list[tuple[str, str]]:
    """Return each schedule that waits for a metric, by its field in the config, and the metric."""
    if not isinstance(optimizer, HasSchedule):
        return []
    others = {f"option_schedules.{option}": one for option, one in optimizer.scheduler.option_schedules.items()}
    schedules = {"schedule": optimizer.scheduler.schedule, **others}
    return [(field, monitor) for field, one in schedules.items() for monitor in sorted(one.bind().monitors())]
