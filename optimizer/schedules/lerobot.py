"""LeRobot's schedules, with its names and parameters and exactly its curves: factors on the lr."""

import math
from typing import ClassVar, Literal

from ..config.fields import NonNegativeNumber, PositiveCount, PositiveNumber
from .base import SCHEDULE_REGISTRY, CurveSchedule, Schedule, short
from .durations import Duration, PositiveDuration, RunLength


@SCHEDULE_REGISTRY.register("cosine_decay_with_warmup")
class CosineDecayWithWarmup(Schedule):
    """LeRobot's linear warm-up and cosine decay, with exactly its curve: a factor on the lr.

    The cosine counts from update 0, not from the end of the warm-up, so that the lr jumps down between the two. peak_lr
    sets only the ratio decay_lr / peak_lr; the peak itself is the optimizer's lr. `warmup_cosine_decay` has neither
    property.

    Formula:
        factor(k) = f + (1 - f) * k / W, for k < W, with f = 1 / (W + 1);
        factor(k) = a + (1 - a) * (1 + cos(pi * min(k, D) / D)) / 2, for k >= W, with a = decay_lr / peak_lr;
        with W = num_warmup_steps and D = num_decay_steps. In a run of N < D updates, N = num_training_steps,
        W becomes floor(W * N / D) and D becomes N.

    Source: lerobot.optim.schedulers.CosineDecayWithWarmupSchedulerConfig.

    Examples:
        >>> from optimizer import SCHEDULE_REGISTRY
        >>> schedule = SCHEDULE_REGISTRY["cosine_decay_with_warmup"](
        ...     num_warmup_steps=49, num_decay_steps=100, peak_lr=1e-3, decay_lr=1e-4
        ... )
        >>> [round(schedule.lr_at(k), 4) for k in (0, 48, 49, 50, 100, 1000)]
        [0.02, 0.98, 0.5641, 0.55, 0.1, 0.1]
    """

    absolute: ClassVar[bool] = False
    length_field: ClassVar[str | None] = "num_training_steps"

    num_warmup_steps: Duration
    """Updates of the linear warm-up."""
    num_decay_steps: PositiveDuration
    """Updates until decay_lr. A shorter run scales both lengths down in proportion."""
    peak_lr: PositiveNumber
    """The lr to which decay_lr is compared."""
    decay_lr: NonNegativeNumber
    """The lr at the end of the decay, if peak_lr is the optimizer's lr."""
    num_training_steps: RunLength = None
    """Updates in the run. If omitted, the horizon's total_steps; without a horizon nothing is scaled down."""

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
    """LeRobot's schedule for VQ-BeT: 1 while the VQ-VAE trains, then a linear warm-up from 0 and a cosine.

    The run ends V updates before the cosine does, so that the last factor is above 0.

    Formula:
        factor(k) = 1, for k < V;
        factor(k) = (k - V) / W, for V <= k < V + W;
        factor(k) = (1 + cos(2 * pi * num_cycles * p)) / 2, for k >= V + W, with p = (min(k, N) - V - W) / (N - W);
        with V = num_vqvae_training_steps, W = num_warmup_steps and N = num_training_steps.

    Source: lerobot.optim.schedulers.VQBeTSchedulerConfig.

    Examples:
        >>> from optimizer import SCHEDULE_REGISTRY
        >>> schedule = SCHEDULE_REGISTRY["vqbet"](
        ...     num_vqvae_training_steps=20, num_warmup_steps=10, num_training_steps=110
        ... )
        >>> [round(schedule.lr_at(k), 4) for k in (0, 20, 25, 30, 80, 110, 1000)]
        [1.0, 0.0, 0.5, 1.0, 0.5, 0.0955, 0.0955]
    """

    absolute: ClassVar[bool] = False
    jumps: ClassVar[bool] = True
    length_field: ClassVar[str | None] = "num_training_steps"

    num_warmup_steps: Duration
    """Updates of the warm-up, which follows the training of the VQ-VAE."""
    num_vqvae_training_steps: Duration
    """Updates in which the VQ-VAE trains."""
    num_cycles: NonNegativeNumber = 0.5
    """Waves of the cosine in the decay; 0.5 falls from 1 to 0 once, 0 holds 1."""
    num_training_steps: RunLength = None
    """Updates in the run. If omitted or `auto`, the horizon's total_steps."""

    def rise_length(self) -> int:
        return self.num_vqvae_training_steps + self.num_warmup_steps

    def decay_steps(self) -> int:
        """Return the length of the cosine in updates. As in LeRobot, it ends after the run."""
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
    """`vqbet` with a cosine that ends with the run, and therefore at 0; recommended in new configs.

    Formula:
        factor(k) = 1, for k < V;
        factor(k) = (k - V) / W, for V <= k < V + W;
        factor(k) = (1 + cos(2 * pi * num_cycles * p)) / 2, for k >= V + W, with p = (min(k, N) - V - W) / (N - V - W);
        with V = num_vqvae_training_steps, W = num_warmup_steps and N = num_training_steps.

    Source: innerstep's correction of lerobot.optim.schedulers.VQBeTSchedulerConfig.

    Examples:
        >>> from optimizer import SCHEDULE_REGISTRY
        >>> schedule = SCHEDULE_REGISTRY["vqbet_to_zero"](
        ...     num_vqvae_training_steps=20, num_warmup_steps=10, num_training_steps=130
        ... )
        >>> [round(schedule.lr_at(k), 4) for k in (0, 20, 25, 30, 80, 130, 1000)]
        [1.0, 0.0, 0.5, 1.0, 0.5, 0.0, 0.0]
    """

    def decay_steps(self) -> int:
        return super().decay_steps() - self.num_vqvae_training_steps


@SCHEDULE_REGISTRY.register("step")
class Step(Schedule):
    """A factor of gamma every step_size updates, with a linear warm-up from 0.

    Formula:
        factor(k) = min(1, k / W) * gamma^floor(k / step_size), with W = num_warmup_steps.

    Source: the step decay in LeRobot's guide, an example of an added schedule; without a warm-up, PyTorch's StepLR.

    Examples:
        >>> from optimizer import SCHEDULE_REGISTRY
        >>> schedule = SCHEDULE_REGISTRY["step"](step_size=30, gamma=0.5, num_warmup_steps=10)
        >>> [schedule.lr_at(k) for k in (0, 5, 10, 29, 30, 60)]
        [0.0, 0.5, 1.0, 1.0, 0.5, 0.25]
    """

    absolute: ClassVar[bool] = False
    jumps: ClassVar[bool] = True

    step_size: PositiveDuration
    """Updates between two drops, counted from update 0."""
    gamma: PositiveNumber = 0.1
    """Factor of each drop."""
    num_warmup_steps: Duration = 0
    """Updates of the linear warm-up. With a warm-up, update 0 runs at lr 0."""

    def lr_at(self, update: int) -> float:
        warmup = update / self.num_warmup_steps if update < self.num_warmup_steps else 1.0
        return float(warmup * self.gamma ** (update // self.step_size))

    def summary(self) -> str:
        rise = f"0 ↗ 1 ({self.num_warmup_steps}), " if self.num_warmup_steps else ""
        return f"× {rise}× {self.gamma} every {self.step_size}"


@SCHEDULE_REGISTRY.register("diffuser")
class Diffuser(CurveSchedule):
    """LeRobot's DiffuserSchedulerConfig: one of diffusers' schedules, chosen by name.

    If num_warmup_steps is omitted it is 0, where diffusers raises. As in diffusers, the cosine has half a wave whatever
    num_cycles is; `type: cosine` takes both.

    Formula:
        factor(k) = the factor of the schedule `name` at update k, with the same parameters.

    Source: lerobot.optim.schedulers.DiffuserSchedulerConfig.

    Examples:
        >>> from optimizer import SCHEDULE_REGISTRY
        >>> schedule = SCHEDULE_REGISTRY["diffuser"](name="linear", num_warmup_steps=10, num_training_steps=110)
        >>> [schedule.lr_at(k) for k in (0, 5, 10, 60, 110, 1000)]
        [0.0, 0.5, 1.0, 0.5, 0.0, 0.0]
    """

    absolute: ClassVar[bool] = False
    length_field: ClassVar[str | None] = "num_training_steps"
    base_lr_field: ClassVar[str | None] = "lr_init"

    name: Literal["linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"] = (
        "cosine"
    )
    """The key of the schedule."""
    num_warmup_steps: Duration = 0
    """Updates of the linear warm-up. With a warm-up, update 0 runs at lr 0."""
    num_cycles: PositiveCount = 1
    """Half cosines of cosine_with_restarts."""
    power: PositiveNumber = 1.0
    """Power of polynomial."""
    lr_init: PositiveNumber | None = None
    """The lr to which the last lr of polynomial, 1e-7, is compared. If omitted, the optimizer's."""
    num_training_steps: RunLength = None
    """Updates in the run. If omitted or `auto`, the horizon's total_steps."""

    def new_curve(self) -> Schedule:
        cls = SCHEDULE_REGISTRY[self.name]
        not_passed = {"num_cycles"} if self.name == "cosine" else set()
        names = (cls.model_fields.keys() & type(self).model_fields.keys()) - not_passed
        return cls(**{name: getattr(self, name) for name in names})

    def needs_length(self) -> bool:
        return not self.name.startswith("constant")

    def rise_length(self) -> int:
        return 0 if self.name == "constant" else self.num_warmup_steps

    def may_jump(self) -> bool:
        return SCHEDULE_REGISTRY[self.name].jumps

    def summary(self) -> str:
        return self.new_curve().summary()
