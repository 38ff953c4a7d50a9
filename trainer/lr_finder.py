"""`innerstep lr-find`: the learning-rate range test of one component, with all others held.

Source: Smith 2017, "Cyclical Learning Rates for Training Neural Networks", arXiv:1506.01186, section 3.3.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from rich.console import Console
from torch import Tensor
from torch.optim import Optimizer

from optimizer import Schedule, ScheduledOptimizer
from optimizer.charts import Mark, Panel, Series
from optimizer.config import counted, nearest

from .config.entries import OptimConfig
from .config.schema import ExperimentConfig
from .config.turns import Turns
from .errors import ConfigError, NonFiniteError
from .interfaces.component import train_mode
from .loop.gradient_updates import GradientUpdater
from .loop.loop import training_loop
from .loop.rules import Rules
from .offline_trainer import OfflineTrainer
from .reporting.plot_files import check_out, draw
from .runtime.rng import separate_rng

_WINDOW = 1 / 12
"""Share of the learning rates over which a loss is smoothed: a mean around it, which does not lag behind."""
_FEWEST = 12
"""Updates that a suggestion needs at least."""
_DIVERGED = 3.0
"""How far the smoothed loss may rise above its lowest value, in units of that value or of its fall."""
_PATIENCE = 20
"""Updates of the run for a step of the component, at most: some objectives step it at every second one."""
_PEAKS = ("peak_lr", "max_lr", "lr", "base_lr", "learning_rate")
"""Fields that hold the lr of an optimizer or of a schedule, the one that counts first."""


@dataclass(frozen=True)
class LrRange:
    """The learning rates to try: `updates` of them, each larger than the last by the same factor.

    Raises:
        ConfigError: They are not a range.
    """

    first: float = 1e-7
    last: float = 10.0
    updates: int = 100

    def __post_init__(self) -> None:
        if not (0 < self.first < self.last < math.inf):
            raise ConfigError(
                f"--from, --to: must be above 0, and --from below --to; got {self.first:g} and {self.last:g}"
            )
        if self.updates < _FEWEST:
            raise ConfigError(f"--updates: must be at least {_FEWEST}; got {self.updates}")

    def lr(self, index: int) -> float:
        """Return the learning rate number `index`, from 0."""
        return self.first * math.exp(math.log(self.last / self.first) * index / (self.updates - 1))


@dataclass(frozen=True)
class Curve:
    """The losses of a range test by learning rate, and why it ended: "" at the last lr."""

    lrs: Sequence[float]
    losses: Sequence[float]
    updates: int
    """Learning rates of the whole test."""
    end: str = ""

    @property
    def smooth(self) -> list[float]:
        """The losses, smoothed."""
        half = max(1, round(self.updates * _WINDOW / 2))
        windows = [self.losses[max(0, at - half) : at + half + 1] for at in range(len(self.losses))]
        return [sum(window) / len(window) for window in windows]

    def steepest(self) -> float | None:
        """Return the lr at which the smoothed loss falls fastest, before its lowest value; None if it does not fall."""
        smooth, lowest = self.smooth, self._lowest()
        falls = [smooth[at + 1] - smooth[at - 1] for at in range(1, max(1, lowest))]
        if len(falls) < 2 or min(falls) >= 0:
            return None
        return self.lrs[1 + falls.index(min(falls))]

    def below_minimum(self) -> float | None:
        """Return a tenth of the lr at the lowest smoothed loss; None if the loss is lowest at the first values."""
        lowest = self._lowest()
        return None if lowest < 2 else self.lrs[lowest] / 10

    def limit(self) -> float:
        """Return the loss at which the test ends: far above the lowest smoothed loss."""
        smooth = self.smooth
        lowest = min(smooth)
        return lowest + _DIVERGED * max(abs(lowest), smooth[0] - lowest)

    def diverges(self) -> bool:
        """Return whether the smoothed loss has risen above `limit`."""
        return len(self.losses) > 2 and self.smooth[-1] > self.limit()

    def falls(self) -> bool:
        """Return whether the smoothed loss falls by more than the losses differ from one update to the next."""
        lowest = self._lowest()
        steps = sorted(abs(after - before) for before, after in pairwise(self.losses[: lowest + 1]))
        return bool(steps) and self.smooth[0] - self.smooth[lowest] > 2 * steps[len(steps) // 2]

    def _lowest(self) -> int:
        smooth = self.smooth
        return smooth.index(min(smooth))


class _RangeUpdater(GradientUpdater):
    """Steps one component, at an lr that rises from step to step, and keeps its losses. No other component moves."""

    def __init__(self, trainer: OfflineTrainer, component: str, lrs: LrRange) -> None:
        train = trainer.config.train
        self._tested, self._range = component, lrs
        self._optimizer = trainer.optimizers[component]
        self._shares = _shares_of_lr(component, self._optimizer)
        self._pending: list[float] = []
        self.lrs_done: list[float] = []
        self.losses: list[float] = []
        super().__init__(
            trainer.components,
            {component: self._optimizer},
            trainer.world,
            Rules(train.precision, train.grad_clip_norm, "stop", {component: Turns()}),
            trainer.averages,
            trainer.log,
        )

    def step(self, loss: Tensor, *components: str) -> None:
        """Update the tested component by the gradient of `loss`, if it is among `components`."""
        if components and self._tested not in components:
            return
        lr = self._range.lr(min(len(self.losses), self._range.updates - 1))
        _set_lr(self._optimizer, lr, self._shares)
        super().step(loss, self._tested)
        self._pending.append(float(loss.detach()))
        if self.batch_index == len(self.sizes) - 1:
            self.lrs_done.append(lr)
            self.losses.append(sum(self._pending) / len(self._pending))
            self._pending.clear()


def find_lr(config: ExperimentConfig, component: str, lrs: LrRange, out: Path | None, console: Console) -> list[str]:
    """Test the learning rates of a component from the config's starting point; return lines to print.

    The state of random number generators is restored. Nothing is written but `out`.

    Args:
        config: The experiment.
        component: The name of the component; all others keep their weights.
        lrs: The learning rates.
        out: A .png, .svg or .pdf to write; None: the curve is text.
        console: Where lines are printed meanwhile.

    Raises:
        ConfigError: There is no such component, or it does not train, or something in the config cannot work.
        UserCodeError: The user's code fails.
    """
    check_out(out)
    _check_component(config, component)
    with separate_rng(config.seed):
        trainer = OfflineTrainer(config, console)
        if component not in trainer.optimizers:
            trained = ", ".join(trainer.optimizers)
            raise ConfigError(
                f"--component: {component} is frozen, so that it has no lr. Components that train: {trained}"
            )
        trainer.log(f"trying {lrs.updates} learning rates from {lrs.first:g} to {lrs.last:g} for {component}")
        curve = _tested(trainer, component, lrs)
    lines = [] if len(curve.losses) < 2 else draw([_panel(curve, component)], out)
    return [*lines, *_verdict(curve, component, config.model.component_optims[component], trainer.optimizers)]


def _check_component(config: ExperimentConfig, component: str) -> None:
    entries = config.model.entries
    if component not in entries:
        raise ConfigError(f"--component: there is no component {component!r}{nearest(component, list(entries))}")
    source = getattr(entries[component], "ema_of", None)
    if source is not None:
        raise ConfigError(
            f"--component: {component} is the moving average of {source}, which has the lr; name {source}"
        )


def _tested(trainer: OfflineTrainer, component: str, lrs: LrRange) -> Curve:
    updater = _RangeUpdater(trainer, component, lrs)
    train_mode(trainer.components)
    steps = range(lrs.updates * _PATIENCE)
    parts = (trainer.objective, trainer.components, trainer.batches, updater, steps)
    with trainer.batches:
        try:
            for _ in training_loop(*parts, len(steps), trainer.world, trainer.config.seed):
                curve = Curve(updater.lrs_done, updater.losses, lrs.updates)
                if len(curve.losses) == lrs.updates:
                    return curve
                if curve.diverges():
                    return replace(curve, end="the loss diverged")
        except NonFiniteError:
            return Curve(updater.lrs_done, updater.losses, lrs.updates, "a loss or gradient became NaN or infinite")
    raise ConfigError(
        f"--component: the objective has stepped {component} {counted(len(updater.losses), 'time')} in"
        f" {counted(len(steps), 'update')}; {lrs.updates} steps are needed. Lower --updates."
    )


def _panel(curve: Curve, component: str) -> Panel:
    limit = curve.limit()
    raw = [(lr, min(loss, limit)) for lr, loss in zip(curve.lrs, curve.losses, strict=True)]
    line = [(lr, min(loss, limit)) for lr, loss in zip(curve.lrs, curve.smooth, strict=True)]
    found = {"steepest descent": curve.steepest(), "a tenth of the lr at the minimum": curve.below_minimum()}
    marks = [Mark(name, lr, style) for (name, lr), style in zip(found.items(), ("--", ":"), strict=True) if lr]
    title = f"Loss of {component} by learning rate, the other components held"
    series = [Series("loss, smoothed", line, faint=raw)]
    return Panel(title, "loss", series, False, "learning rate", x_log=True, marks=marks)


def _verdict(curve: Curve, component: str, optim: OptimConfig, optimizers: Mapping[str, Optimizer]) -> list[str]:
    """Return lines on the suggestion: how it was found, and the override that sets it."""
    ended = curve.end or "the last lr was reached"
    held = ", ".join(name for name in optimizers if name != component)
    lines = [
        f"{component}: {counted(len(curve.losses), 'update')}, until {ended}"
        + (f" at lr {curve.lrs[-1]:.2g}" if curve.lrs else "")
        + (f"; held: {held}" if held else "")
    ]
    steepest, below = curve.steepest(), curve.below_minimum()
    if steepest is None or below is None or not curve.falls():
        return [
            *lines,
            "No suggestion: the loss does not fall at any of these learning rates. Try a wider range, or more"
            " --updates; or the component has no effect on this loss while the others are held.",
        ]
    chosen = min(steepest, below)
    lines += [
        f"steepest descent of the smoothed loss: lr {steepest:.2g}",
        f"a tenth of the lr at its minimum: lr {below:.2g}",
        f"suggestion: {chosen:.2g}, the lower of the two (range test: Smith 2017, arXiv:1506.01186)",
    ]
    field, notes = _lr_field(optim, chosen)
    return [*lines, f"  --model.component_optims.{component}.params.{field}={chosen:.2g}", *notes]


def _lr_field(optim: OptimConfig, chosen: float) -> tuple[str, list[str]]:
    """Return the field under `params` that sets the highest lr of an optimizer, and notes on others."""
    factory = optim.factory
    fields = getattr(type(factory), "model_fields", {"lr": None})
    field = next((name for name in _PEAKS if name in fields), "lr")
    owner: object = factory
    prefix, notes = "", []
    schedule: object = getattr(factory, "schedule", None)
    if isinstance(schedule, Schedule) and schedule.absolute:
        own = next((name for name in _PEAKS if name in type(schedule).model_fields), None)
        if own is None:
            notes.append(f"note: {schedule.key} sets the lr itself: set its fields so that its highest lr is this one")
        else:
            field, owner, prefix = f"schedule.{own}", schedule, "schedule."
    for name in ("start_lr", "end_lr", "decay_lr", "min_lr", "eta_min"):
        value = getattr(owner, name, None)
        if isinstance(value, int | float) and value > chosen:
            notes.append(f"note: {prefix}{name} is {value:g}, above this lr: lower it too")
    return field, notes


def _shares_of_lr(component: str, optimizer: Optimizer) -> list[float]:
    """Return the factor by which each group's lr differs from the optimizer's."""
    if any("lr" not in group for group in optimizer.param_groups):
        raise ConfigError(f"model.component_optims.{component}: {type(optimizer).__name__} has no lr to test")
    own = optimizer.scheduler.base_lrs if isinstance(optimizer, ScheduledOptimizer) else None
    lrs = own or [float(group["lr"]) for group in optimizer.param_groups]
    usual = float(optimizer.defaults.get("lr") or 0.0) or max(lrs)
    for group in optimizer.param_groups:
        if "warmup_steps" in group:  # of a schedule-free class, which lowers the lr inside its step
            group["warmup_steps"] = 0
    return [lr / usual if usual else 1.0 for lr in lrs]


def _set_lr(optimizer: Optimizer, lr: float, shares: Sequence[float]) -> None:
    for group, share in zip(optimizer.param_groups, shares, strict=True):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr * share)
        else:
            group["lr"] = lr * share
