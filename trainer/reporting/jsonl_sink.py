"""The sink `jsonl`: metrics.jsonl, which each run has."""

from pathlib import Path

from ..interfaces.metrics_sink import SINK_REGISTRY
from ..run_layout import METRICS
from .metrics_file import MetricsFile


@SINK_REGISTRY.register("jsonl")
class JsonlSink(MetricsFile):
    """Appends to the run's metrics.jsonl. A resume has dropped the lines of another history from it before."""

    def __init__(self, run_dir: Path, step: int) -> None:
        super().__init__(run_dir / METRICS)
