"""The length of a run."""

import operator
from dataclasses import dataclass


@dataclass(frozen=True)
class Horizon:
    """The length of a run, from which a factory takes the lengths that its config omits.

    Args:
        total_steps: Updates in the whole run.
        steps_per_epoch: Updates in one pass over the data; None if unknown.

    Raises:
        ValueError: A length is not a positive whole number below 2^63.

    Examples:
        >>> from optimizer import OPTIMIZER_BUILDER_REGISTRY, Horizon
        >>> factory = OPTIMIZER_BUILDER_REGISTRY["adamw_warmup_cosine_decay"](peak_lr=1e-3, warmup_steps="2ep")
        >>> known = factory.resolved(Horizon(total_steps=1000, steps_per_epoch=50))
        >>> known.warmup_steps, known.total_steps
        (100, 1000)
    """

    total_steps: int
    steps_per_epoch: int | None = None

    def __post_init__(self) -> None:
        for name in ("total_steps", "steps_per_epoch"):
            value = getattr(self, name)
            if value is None and name == "steps_per_epoch":
                continue
            try:  # also takes whole numbers of numpy and torch
                number = 0 if isinstance(value, bool) else operator.index(value)
            except TypeError:
                number = 0
            if not 1 <= number < 2**63:
                raise ValueError(f"Horizon.{name} must be at least 1, below 2^63, and whole; got {value!r}")
            object.__setattr__(self, name, number)
