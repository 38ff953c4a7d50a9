"""A data set that leaves a trace when it is loaded: a mistake in a config is found before."""

from pathlib import Path

from sample_parts import Noise

from trainer.interfaces.dataset import DATASET_REGISTRY

TRACE = "data_was_loaded"
"""The file that it writes, in the working directory."""


@DATASET_REGISTRY.register("traced")
class TracedNoise(Noise):
    """The data set `noise`, which leaves a trace."""

    def __init__(self, samples: int = 12, shape: tuple[int, int] = (4, 4)) -> None:
        Path(TRACE).touch()
        super().__init__(samples, shape[0])
