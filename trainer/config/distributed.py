"""`distributed`: how processes that train one run work together."""

from typing import Literal

from optimizer.config import Config, PositiveNumber

from .marks import MayChange

Placement = Literal["replicate", "shard"]
"""Where the parameters of a component are."""


class DistributedConfig(Config):
    timeout_seconds: MayChange[PositiveNumber] = 600.0
    """Seconds that a process waits for the others before the run ends."""
