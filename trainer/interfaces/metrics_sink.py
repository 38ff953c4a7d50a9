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
    more than `step` updates, are of another history and must be dropped. `run_dir` has the run's config.yaml, and the
    lines before in metrics.jsonl.

    An OSError, also one in `__init__`, is a failure to write: `train.on_save_error` decides whether it ends the run.
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


@runtime_checkable
class NeedsPackage(Protocol):
    """A class of sinks that need a package which may be missing."""

    @staticmethod
    def check_package(path: str) -> None:
        """Check that the package is there, before anything of a run is built.

        Args:
            path: The field of the config that names the sink, for the message.

        Raises:
            ConfigError: It is not.
        """
        ...


SINK_REGISTRY: Registry[MetricsSink] = Registry("metrics sink", MetricsSink, entry_points="innerstep.metrics_sinks")
