"""The events of a run so far, as progress and summary show them."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from optimizer import Horizon
from optimizer.types import JsonObject

from ..interfaces.metrics_sink import MetricsLine
from .metrics_file import TIMED

_POSITION = ("split", "step", "epoch", *TIMED)
_PER_COMPONENT = "lr"
"""The group of a line's values whose names are those of components."""


@dataclass(frozen=True)
class Evaluation:
    """An evaluation after `step` updates."""

    step: int
    metrics: Mapping[str, float]


@dataclass
class RunStatus:
    """The last line of metrics, evaluation and checkpoint of a run, and the time."""

    done: int
    """Updates that were done when the run began or was resumed."""
    horizon: Horizon
    samples_per_epoch: int
    clock: Callable[[], float] = time.monotonic
    """The time in seconds."""
    started: float = field(init=False)
    step: int = field(init=False)
    """Updates done, as far as they are logged."""
    line: MetricsLine | None = None
    """That of the last logged update."""
    line_time: float = 0.0
    evaluation: Evaluation | None = None
    best: tuple[str, float, int] | None = None
    """The best evaluation so far: its metric, the value, and the updates before it."""
    saved: tuple[int, float] | None = None
    """The last checkpoint: the updates before it, and the time."""
    _first: tuple[int, float] | None = None
    """The first logged update and its time: the updates before it may be slower than the others."""

    def __post_init__(self) -> None:
        self.started, self.step = self.clock(), self.done

    def take_line(self, line: MetricsLine) -> None:
        """Take the line of a logged update."""
        self.line, self.line_time, self.step = line, self.clock(), int(line["step"]) + 1
        if self._first is None:
            self._first = int(line["step"]), self.line_time

    def take_evaluation(self, step: int, metrics: Mapping[str, float], best: JsonObject) -> None:
        """Take the metrics of an evaluation.

        Args:
            step: Updates done.
            metrics: By name.
            best: The record of the run's best checkpoint; empty: it keeps none.
        """
        self.evaluation = Evaluation(step, values_of(metrics))
        if best:
            self.take_best(best)
        elif (judged := _judged_by(metrics)) is not None:
            name, sign = judged
            if self.best is None or sign * metrics[name] > sign * self.best[1]:
                self.best = name, metrics[name], step

    def take_best(self, record: JsonObject) -> None:
        """Take the record of the run's best checkpoint, if there is one."""
        if record:
            self.best = str(record["monitor"]), float(record["value"]), int(record["step"])

    def elapsed(self) -> float:
        """Return the seconds since the start."""
        return self.clock() - self.started

    def pace(self) -> float | None:
        """Return the updates per second from the first logged update to the last; None before there is one."""
        if self.line is None or self._first is None:
            return None
        (step, at), logged = self._first, int(self.line["step"])
        if logged > step:
            return (logged - step) / max(self.line_time - at, 1e-9)
        return (logged + 1 - self.done) / max(self.line_time - self.started, 1e-9)

    def samples_per_second(self) -> float | None:
        """Return the samples per second, at the mean number of samples in an update."""
        pace = self.pace()
        return None if pace is None else pace * self.samples_per_epoch / (self.horizon.steps_per_epoch or 1)

    def remaining(self) -> float | None:
        """Return the seconds until the last update at the present pace; None before there is a pace."""
        pace = self.pace()
        if pace is None:
            return None
        return max(0.0, (self.horizon.total_steps - self.step) / pace - (self.clock() - self.line_time))

    def epochs(self) -> tuple[float, float]:
        """Return the epochs done, and those of the whole run."""
        per_epoch = self.horizon.steps_per_epoch or 1
        return self.step / per_epoch, self.horizon.total_steps / per_epoch


def values_of(line: Mapping[str, float]) -> dict[str, float]:
    """Return the losses and metrics in a line of metrics: the total first; a single loss is the total."""
    losses = [name for name in line if name.startswith("loss/")]
    components = components_of(line)
    left_out = {*_POSITION, *(losses if len(losses) == 1 else ())}
    return {
        name: value
        for name, value in line.items()
        if name not in left_out and (name.startswith("loss/") or name.partition("/")[2] not in components)
    }


def components_of(line: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return the values of each component in a line of metrics, by component: lr, grad_norm, and so on."""
    names = [name.partition("/")[2] for name in line if name.startswith(f"{_PER_COMPONENT}/")]
    found: dict[str, dict[str, float]] = {name: {} for name in names}
    for name, value in line.items():
        kind, _, component = name.partition("/")
        if component in found and kind != "loss":
            found[component][kind] = value
    return found


def _judged_by(metrics: Mapping[str, float]) -> tuple[str, float] | None:
    """Return the metric by which evaluations are compared without a rule, and the sign with which more is better."""
    for name, sign in (("loss", -1.0), ("success", 1.0), ("return", 1.0)):
        if name in metrics and metrics[name] == metrics[name]:
            return name, sign
    return None
