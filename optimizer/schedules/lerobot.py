"""LeRobot's schedules, with its names, parameters and exactly its curves: factors on the lr."""

import math
from typing import ClassVar, Literal, Self

from ..config.validation import NonNegativeNumber, PositiveCount, PositiveNumber
from . import hugging_face  # noqa: F401 registers what `diffuser` names
from .base import SCHEDULE_REGISTRY, Schedule, short
from .curve import Curve
from .durations import Length, PositiveLength, RunLength


@SCHEDULE_REGISTRY.register("cosine_decay_with_warmup")
class CosineDecayWithWarmup(Schedule):
    """LeRobot's CosineDecayWithWarmupSchedulerConfig, with exactly its curve: a factor on the lr.

    Two things that its users should know: the cosine counts from update 0 and not from the end of the
    warm-up, so that the lr jumps down where they join; and peak_lr sets only the ratio decay_lr /
    peak_lr, the peak itself is the optimizer's lr. `warmup_cosine_decay` has neither.
    """

    absolute: ClassVar[bool] = False
    length_field: ClassVar[str | None] = "num_training_steps"

    num_warmup_steps: Length
    """Updates of the linear warm-up."""
    num_decay_steps: PositiveLength
    """Updates until decay_lr. A shorter run shortens both lengths in proportion."""
    peak_lr: PositiveNumber
    """What decay_lr is compared with."""
    decay_lr: NonNegativeNumber
    """Where the decay ends, when peak_lr is the optimizer's lr."""
    num_training_steps: RunLength = None
    """The length of the run; left out, the horizon's, or no shortening without one."""

    def rise_length(self) -> int:
        if self.num_training_steps is None or self.num_training_steps >= self.num_decay_steps:
            return self.num_warmup_steps
        return int(self.num_warmup_steps * (self.num_training_steps / self.num_decay_steps))

    def lr_at(self, update: int) -> float:
        warmup, decay = self.rise_length(), min(self.num_training_steps or self.num_decay_steps, self.num_decay_steps)
        if update < warmup:
            floor = 1.0 / (warmup + 1)
            return floor if update <= 0 else 1.0 + (floor - 1.0) * (1.0 - update / warmup)
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(update, decay) / decay))
        ratio = self.decay_lr / self.peak_lr
        return (1.0 - ratio) * cosine + ratio

    def needs_length(self) -> bool:
        return False

    def summary(self) -> str:
        share = self.decay_lr / self.peak_lr
        return f"× {short(self.lr_at(0))} ↗ 1 ({self.num_warmup_steps}) ↘ {short(share)} ({self.num_decay_steps})"


@SCHEDULE_REGISTRY.register("vqbet")
class VQBeT(Schedule):
    """LeRobot's VQBeTSchedulerConfig: 1 while the VQ-VAE trains, then a warm-up from 0 and a cosine.

    The cosine is as long as the run less the warm-up: the run ends num_vqvae_training_steps before the
    cosine does, and its last factor is not 0.
    """

    absolute: ClassVar[bool] = False
    jumps: ClassVar[bool] = True
    length_field: ClassVar[str | None] = "num_training_steps"

    num_warmup_steps: Length
    """Updates of the warm-up, after the VQ-VAE's training."""
    num_vqvae_training_steps: Length
    """Updates in which the VQ-VAE trains."""
    num_cycles: NonNegativeNumber = 0.5
    """Waves in the decay; 0.5 goes from 1 to 0, and 0 stays at 1."""
    num_training_steps: RunLength = None
    """The length of the run; left out, the horizon's."""

    def rise_length(self) -> int:
        return self.num_vqvae_training_steps + self.num_warmup_steps

    def decay_steps(self) -> int:
        """Return the length of the cosine, as LeRobot has it: past the end of the run."""
        assert self.num_training_steps is not None, "resolved(horizon) comes first"
        return self.num_training_steps - self.num_warmup_steps

    def lr_at(self, update: int) -> float:
        decay = max(1, self.decay_steps())
        if update < self.num_vqvae_training_steps:
            return 1.0
        end = max(self.num_training_steps or 0, self.num_vqvae_training_steps)
        since = min(update, end) - self.num_vqvae_training_steps
        if since < self.num_warmup_steps:
            return since / self.num_warmup_steps
        progress = (since - self.num_warmup_steps) / decay
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * self.num_cycles * 2.0 * progress)))

    def summary(self) -> str:
        last = short(self.lr_at(self.num_training_steps)) if self.num_training_steps else "0"
        start = f"× 1 ({self.num_vqvae_training_steps}), 0 ↗ 1 (+{self.num_warmup_steps})"
        return f"{start} ↘ {last} ({self.num_training_steps})"


@SCHEDULE_REGISTRY.register("vqbet_to_zero")
class VQBeTToZero(VQBeT):
    """`vqbet` with a cosine that ends with the run, and so at 0. The one to use in new configs."""

    def decay_steps(self) -> int:
        return super().decay_steps() - self.num_vqvae_training_steps


@SCHEDULE_REGISTRY.register("step")
class Step(Schedule):
    """A factor of gamma every step_size updates, after a linear warm-up: what LeRobot's guide shows as an extension."""

    absolute: ClassVar[bool] = False
    jumps: ClassVar[bool] = True

    step_size: PositiveLength
    """Updates between two drops, counted from update 0."""
    gamma: PositiveNumber = 0.1
    """Factor of each drop."""
    num_warmup_steps: Length = 0
    """Updates of the linear warm-up from 0."""

    def lr_at(self, update: int) -> float:
        warmup = update / self.num_warmup_steps if update < self.num_warmup_steps else 1.0
        return float(warmup * self.gamma ** (update // self.step_size))

    def summary(self) -> str:
        rise = f"0 ↗ 1 ({self.num_warmup_steps}), " if self.num_warmup_steps else ""
        return f"× {rise}× {self.gamma} every {self.step_size}"


@SCHEDULE_REGISTRY.register("diffuser")
class Diffuser(Schedule):
    """LeRobot's DiffuserSchedulerConfig: one of diffusers' schedules by name.

    num_warmup_steps is 0 if left out, where diffusers itself raises. A `cosine` has half a wave, whatever
    num_cycles is, as in diffusers; `type: cosine` takes both.
    """

    absolute: ClassVar[bool] = False
    length_field: ClassVar[str | None] = "num_training_steps"

    name: Literal["linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"] = (
        "cosine"
    )
    """Which of them."""
    num_warmup_steps: Length = 0
    """Updates of the linear warm-up from 0."""
    num_cycles: PositiveCount = 1
    """Cosines of cosine_with_restarts."""
    power: PositiveNumber = 1.0
    """Power of polynomial."""
    lr_init: PositiveNumber | None = None
    """The lr that polynomial's last one, 1e-7, is compared with; left out, the optimizer's."""
    num_training_steps: RunLength = None
    """The length of the run; left out, the horizon's."""

    def follow(self) -> Curve:
        known = SCHEDULE_REGISTRY[self.name]
        shared = {"num_cycles"} if self.name == "cosine" else set()
        fields = {name: getattr(self, name) for name in known.model_fields if name in type(self).model_fields}
        return known(**{name: value for name, value in fields.items() if name not in shared})

    def lr_at(self, update: int) -> float:
        return self.follow().lr_at(update)

    def for_lr(self, lr: float) -> Self:
        return self if self.lr_init is not None else self.replaced(lr_init=lr)

    def needs_length(self) -> bool:
        return not self.name.startswith("constant")

    def rise_length(self) -> int:
        return 0 if self.name == "constant" else self.num_warmup_steps

    def may_jump(self) -> bool:
        return SCHEDULE_REGISTRY[self.name].jumps

    def summary(self) -> str:
        curve = self.follow()
        assert isinstance(curve, Schedule), "these are formulas, and so their own curves"
        return curve.summary()
