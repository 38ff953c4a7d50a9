"""`train.ema`: moving averages of the weights, for evaluation and export."""

from typing import Annotated

from pydantic import Field

from optimizer.config import Config, PositiveNumber

from .marks import FixedInRun


class EmaConfig(Config):
    """After each step of a component: average = decay · average + (1 - decay) · weights."""

    decay: FixedInRun[Annotated[float, Field(ge=0, lt=1)]] = 0.9999
    """The largest decay."""
    power: FixedInRun[PositiveNumber | None] = 0.75
    """Exponent of the warm-up: at step k the decay is at most 1 - (1 + k)^-power; null: no warm-up."""
    components: FixedInRun[list[str] | None] = None
    """The components to average; null: all that train."""
