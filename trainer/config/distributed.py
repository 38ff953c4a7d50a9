"""`distributed`: how processes that train one run work together."""

from typing import Annotated, Literal

from pydantic import AfterValidator, ValidationInfo

from optimizer.config import Config, PositiveNumber, refusal

from .marks import MayChange

Placement = Literal["replicate", "shard"]
"""Where the parameters of a component are."""


def _check_units(units: list[str], info: ValidationInfo) -> list[str]:
    if units and info.data.get("placement", "shard") != "shard":
        raise refusal(f"needs placement: shard; without it, leave it out or give []; got {units}", (), units)
    return units


ShardUnits = Annotated[list[str], AfterValidator(_check_units)]
"""Names of submodules, with `*`, in an entry whose field before this one is its placement."""


class DistributedConfig(Config):
    timeout_seconds: MayChange[PositiveNumber] = 600.0
    """Seconds that a process waits for the others before the run ends."""
