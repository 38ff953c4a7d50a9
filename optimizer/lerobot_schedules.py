"""LeRobot's schedules, with its names, parameters and exactly its curves: factors on the lr."""

import math
from typing import ClassVar, Literal, Self

import optimizer.hugging_face_schedules  # noqa: F401 registers what `diffuser` names
from optimizer.horizon import Horizon
from optimizer.schedule import SCHEDULE_REGISTRY, Curve, Schedule, short, total_steps_from
from optimizer.validation import Count, NonNegativeNumber, PositiveCount, PositiveNumber


@SCHEDULE_REGISTRY.register("cosine_decay_with_warmup")
class CosineDecayWithWarmup(Schedule):
    """LeRobot's CosineDecayWithWarmupSchedulerConfig, with exactly its curve: a factor on the lr.

    Two things that its users should know: the cosine counts from update 0 and not from the end of the
    warm-up, so that the lr jumps down where they join; and peak_lr sets only the ratio decay_lr /
    peak_lr, the peak itself is the optimizer's lr. `warmup_cosine_decay` has neither.
    """

    absolute: ClassVar[bool] = False

    num_warmup_steps: Count
    """Updates of the linear warm-up."""
    num_decay_steps: PositiveCount
    """Updates until decay_lr. A shorter run shortens both lengths in proportion."""
    peak_lr: PositiveNumber
    """What decay_lr is compared with."""
    decay_lr: NonNegativeNumber
    """Where the decay ends, when peak_lr is the optimizer's lr."""
    num_training_steps: PositiveCount | None = None
    """The length of the run; left out, the horizon's, or no shortening without one."""

    def lr_at(self, update: int) -> float:
        warmup, decay = self.num_warmup_steps, self.num_decay_steps
        if self.num_training_steps is not None and self.num_training_steps < decay:
            warmup, decay = int(warmup * (self.num_training_steps / decay)), self.num_training_steps
        if update < warmup:
            floor = 1.0 / (warmup + 1)
            return floor if update <= 0 else 1.0 + (floor - 1.0) * (1.0 - update / warmup)
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(update, decay) / decay))
        ratio = self.decay_lr / self.peak_lr
        return (1.0 - ratio) * cosine + ratio

    def resolved(self, horizon: Horizon | None) -> Self:
        if self.num_training_steps is not None or horizon is None:
            return self
        return self.replaced(num_training_steps=horizon.total_steps)

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

    num_warmup_steps: Count
    """Updates of the warm-up, after the VQ-VAE's training."""
    num_vqvae_training_steps: Count
    """Updates in which the VQ-VAE trains."""
    num_cycles: PositiveNumber = 0.5
    """Waves in the decay; 0.5 goes from 1 to 0."""
    num_training_steps: PositiveCount | None = None
    """The length of the run; left out, the horizon's."""

    def lr_at(self, update: int) -> float:
        assert self.num_training_steps is not None, "resolved(horizon) comes first"
        if update < self.num_vqvae_training_steps:
            return 1.0
        since = min(update, max(self.num_training_steps, self.num_vqvae_training_steps)) - self.num_vqvae_training_steps
        if since < self.num_warmup_steps:
            return since / self.num_warmup_steps
        progress = (since - self.num_warmup_steps) / max(1, self.num_training_steps - self.num_warmup_steps)
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * self.num_cycles * 2.0 * progress)))

    def resolved(self, horizon: Horizon | None) -> Self:
        if self.num_training_steps is not None:
            return self
        return self.replaced(num_training_steps=total_steps_from(horizon, "num_training_steps"))

    def summary(self) -> str:
        last = short(self.lr_at(self.num_training_steps)) if self.num_training_steps else "0"
        start = f"× 1 ({self.num_vqvae_training_steps}), 0 ↗ 1 (+{self.num_warmup_steps})"
        return f"{start} ↘ {last} ({self.num_training_steps})"


@SCHEDULE_REGISTRY.register("diffuser")
class Diffuser(Schedule):
    """LeRobot's DiffuserSchedulerConfig: one of diffusers' schedules by name.

    num_warmup_steps is 0 if left out, where diffusers itself raises. A `cosine` has half a wave, whatever
    num_cycles is, as in diffusers; `type: cosine` takes both.
    """

    absolute: ClassVar[bool] = False

    name: Literal["linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"] = (
        "cosine"
    )
    """Which of them."""
    num_warmup_steps: Count = 0
    """Updates of the linear warm-up from 0."""
    num_cycles: PositiveCount = 1
    """Cosines of cosine_with_restarts."""
    power: PositiveNumber = 1.0
    """Power of polynomial."""
    lr_init: PositiveNumber | None = None
    """The lr that polynomial's last one, 1e-7, is compared with; left out, the optimizer's."""
    num_training_steps: PositiveCount | None = None
    """The length of the run; left out, the horizon's."""

    def start(self) -> Curve:
        known = SCHEDULE_REGISTRY[self.name]
        shared = {"num_cycles"} if self.name == "cosine" else set()
        fields = {name: getattr(self, name) for name in known.model_fields if name in type(self).model_fields}
        return known(**{name: value for name, value in fields.items() if name not in shared})

    def lr_at(self, update: int) -> float:
        return self.start().lr_at(update)

    def for_lr(self, lr: float) -> Self:
        return self if self.lr_init is not None else self.replaced(lr_init=lr)

    def resolved(self, horizon: Horizon | None) -> Self:
        if self.num_training_steps is not None or self.name.startswith("constant"):
            return self
        return self.replaced(num_training_steps=total_steps_from(horizon, "num_training_steps"))

    def summary(self) -> str:
        curve = self.start()
        assert isinstance(curve, Schedule), "these are formulas, and so their own curves"
        return curve.summary()
