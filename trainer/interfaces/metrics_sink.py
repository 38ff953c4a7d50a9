"""Places that a run's metrics go to."""

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from optimizer import Registry

MetricsLine = dict[str, Any]
"""Numbers by name, and `split` and `step`. Split "train": the values of update number `step`, counted from 0. Split
"held_out": those of the evaluation after `step` updates."""


@runtime_checkable
class MetricsSink(Protocol):
    """A place that a run's metrics go to. `train.log` lists the keys of those of a run.

    An object is made when the run begins, and again at each resume, by `cls(run_dir, step)`: `run_dir` is the run's
    directory, and `step` the number of updates done. Lines of train updates from `step` on, and of evaluations after
    more than `step` updates, are of another history and must be dropped.
    """

    def __init__(self, run_dir: Path, step: int) -> None: ...

    def write(self, line: MetricsLine) -> None:
        """Take one line.

        Raises:
            OSError: It could not be written. Its `filename` names the place in the message.
        """
        ...

    def close(self) -> None:
        """Finish writing: no line follows."""
        ...


SINK_REGISTRY: Registry[MetricsSink] = Registry("metrics sink", MetricsSink, entry_points="innerstep.metrics_sinks")
