"""The linear warm-up that several families share, and the decay over the rest of the run: factors on the lr."""

from abc import abstractmethod
from typing import ClassVar

from .base import Schedule, short
from .durations import Duration, RunLength


class LinearWarmup(Schedule):
    """Base of the schedules that begin with a linear warm-up from 0 to 1."""

    absolute: ClassVar[bool] = False

    num_warmup_steps: Duration = 0
    """Updates of the linear warm-up. With a warm-up, update 0 runs at lr 0."""

    def lr_at(self, update: int) -> float:
        if update < self.num_warmup_steps:
            return update / self.num_warmup_steps
        return self.after_warmup(update - self.num_warmup_steps)

    @abstractmethod
    def after_warmup(self, update: int) -> float:
        """Return the factor at an update, counted from the end of the warm-up."""

    def rise_summary(self) -> str:
        """Return the warm-up as the start of `summary`."""
        return f"0 ↗ 1 ({self.num_warmup_steps}) " if self.num_warmup_steps else "1 "


class WarmupThenDecay(LinearWarmup):
    """Base of the schedules with a linear warm-up from 0 and a decay over the rest of the run."""

    length_field: ClassVar[str | None] = "num_training_steps"

    num_training_steps: RunLength = None
    """Updates in the run. If omitted or `auto`, the horizon's total_steps."""

    @abstractmethod
    def decay(self, progress: float) -> float:
        """Return the factor at `progress`, from 0 at the end of the warm-up to 1 at the end of the run."""

    def after_warmup(self, update: int) -> float:
        return self.decay(max(0.0, min(1.0, update / self.decay_length())))

    def decay_length(self) -> int:
        """Return the updates from the end of the warm-up to the end of the run, at least 1."""
        assert self.num_training_steps is not None, "resolved(horizon) comes first"
        return max(1, self.num_training_steps - self.num_warmup_steps)

    def summary(self) -> str:
        return f"× {self.rise_summary()}↘ {short(self.decay(1.0))} ({self.num_training_steps})"
