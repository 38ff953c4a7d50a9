"""How long a run is."""

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
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"Horizon.{name} must be at least 1, and whole; got {value!r}")
