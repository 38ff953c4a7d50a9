"""How long a run is."""

import operator
from dataclasses import dataclass


@dataclass(frozen=True)
class Horizon:
    """The length of a run, from which a factory takes what its config leaves out.

    total_steps: updates in the whole run. steps_per_epoch: updates in one pass over the data.
    Raises ValueError unless both are positive whole numbers.
    """

    total_steps: int
    steps_per_epoch: int | None = None

    def __post_init__(self) -> None:
        for name in ("total_steps", "steps_per_epoch"):
            value = getattr(self, name)
            if value is None and name == "steps_per_epoch":
                continue
            try:  # whole numbers of numpy and torch too
                number = 0 if isinstance(value, bool) else operator.index(value)
            except TypeError:
                number = 0
            if not 1 <= number < 2**63:
                raise ValueError(f"Horizon.{name} must be at least 1, below 2^63, and whole; got {value!r}")
            object.__setattr__(self, name, number)
