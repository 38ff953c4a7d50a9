"""The rules by which updates are made, as the config gives them."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal, Self

import torch

from optimizer import Horizon

from ..config.schema import ExperimentConfig
from ..config.turns import Turns
from ..errors import ConfigError

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}

OnNonFinite = Literal["stop", "skip", "continue"]


@dataclass(frozen=True)
class Rules:
    """How updates are made, as in the config's `train`."""

    precision: str = "fp32"
    grad_clip_norm: float | None = None
    on_nonfinite: OnNonFinite = "stop"
    turns: Mapping[str, Turns] = field(default_factory=dict)
    """The updates at which each component with an optimizer is stepped."""

    @classmethod
    def from_config(cls, config: ExperimentConfig, trained: Iterable[str], horizon: Horizon) -> Self:
        """Return the rules of a run.

        Args:
            config: The run's.
            trained: The components that have an optimizer.
            horizon: The length of the run in updates.
        """
        train = config.train
        turns = {name: config.model.turns(name, horizon) for name in trained}
        if (first := min((planned.first for planned in turns.values()), default=0)) > 0:
            raise ConfigError(
                f"model.components: all are frozen until update {first}. Let one train from the beginning."
            )
        return cls(train.precision, train.grad_clip_norm, train.on_nonfinite, turns)


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Return the context for forward passes at a `train.precision`."""
    dtype = _AUTOCAST.get(precision)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)
