"""Schedules that a metric moves. The metric is reported by `optimizer.report_metric`."""

import math
from collections import deque
from typing import ClassVar, Literal, Self

import torch
from pydantic import model_validator
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ..config.fields import Count, NonNegativeNumber, PositiveBeta, PositiveCount, PositiveNumber
from ..types import StateDict
from .base import SCHEDULE_REGISTRY, CurveSchedule, short
from .curve import Curve, MetricCurve


class MetricSchedule(CurveSchedule):
    """Base of the schedules that a metric moves: each report of the metric is one step.

    With `interval` or `frequency`, only the first report in each interval counts. Without an optimizer, `lr_at` is the
    lr before any report.
    """

    absolute: ClassVar[bool] = True
    base_lr_field: ClassVar[str | None] = "initial_lr"
    jumps: ClassVar[bool] = True

    monitor: str = "val_loss"
    """Name of the metric, as it is reported. The trainer reports val_loss, val_accuracy …"""
    mode: Literal["min", "max"] = "min"
    """Whether lower or higher values of the metric are better."""
    min_lr: NonNegativeNumber = 0.0
    """The lowest lr."""
    initial_lr: PositiveNumber | None = None
    """The lr at the start. If omitted, the optimizer's."""

    def with_base_lr(self, base_lr: float) -> Self:
        initial_lr = self.initial_lr or base_lr
        if self.min_lr > initial_lr:
            self.refuse("min_lr", f"must be <= the optimizer's lr; got {self.min_lr} with {initial_lr}")
        return super().with_base_lr(base_lr)

    def summary(self) -> str:
        return f"{self.key} on {self.mode} {self.monitor}"


@SCHEDULE_REGISTRY.register("ReduceLROnPlateau", aliases=("reduce_lr_on_plateau", "plateau"))
class ReduceOnPlateau(MetricSchedule):
    """torch.optim.lr_scheduler.ReduceLROnPlateau: the lr falls when a metric stops improving.

    Formula:
        lr <- max(lr * factor, min_lr), after more than `patience` reports in a row without improvement.
        An improvement is, with mode min, a value below best * (1 - threshold) (threshold_mode rel) or below
        best - threshold (abs); with mode max, a value above best * (1 + threshold) or above best + threshold.

    Source: torch.optim.lr_scheduler.ReduceLROnPlateau, run as its own object.

    Examples:
        >>> import torch
        >>> from optimizer import OPTIMIZER_BUILDER_REGISTRY
        >>> plateau = {"type": "ReduceLROnPlateau", "factor": 0.5, "patience": 1}
        >>> optimizer = OPTIMIZER_BUILDER_REGISTRY["sgd"](lr=1.0, schedule=plateau).build(torch.nn.Linear(1, 1))
        >>> lrs = []
        >>> for loss in (3.0, 2.0, 2.0, 2.0, 2.0, 2.0):
        ...     optimizer.report_metric("val_loss", loss)
        ...     lrs += optimizer.scheduler.get_last_lr()
        >>> lrs
        [1.0, 1.0, 1.0, 0.5, 0.5, 0.25]
    """

    factor: PositiveBeta = 0.1
    """Factor of each fall."""
    patience: Count = 10
    """Reports in a row without improvement to tolerate."""
    threshold: NonNegativeNumber = 1e-4
    """Smallest change of the metric that is an improvement."""
    threshold_mode: Literal["rel", "abs"] = "rel"
    """Whether threshold is a share of the best value or a difference."""
    cooldown: Count = 0
    """Reports after a fall in which a missing improvement does not count."""
    eps: NonNegativeNumber = 1e-8
    """Smallest change of the lr; a smaller one is not made."""

    def new_curve(self) -> Curve:
        return _PlateauCurve(self)

    def summary(self) -> str:
        return f"{super().summary()}, × {self.factor} after {self.patience}"


class _PlateauCurve(MetricCurve):
    """PyTorch's scheduler over a dummy optimizer."""

    def __init__(self, schedule: ReduceOnPlateau) -> None:
        self._monitor = schedule.monitor
        self._initial_lr = schedule.initial_lr or 1.0
        self._dummy = torch.optim.SGD([torch.zeros((), requires_grad=True)], lr=self._initial_lr)
        own = MetricSchedule.model_fields.keys() - {"mode", "min_lr"}
        self._scheduler = ReduceLROnPlateau(self._dummy, **schedule.model_dump(exclude=set(own)))

    def lr_at(self, update: int) -> float:
        return float(self._dummy.param_groups[0]["lr"])

    def monitors(self) -> set[str]:
        return {self._monitor}

    def report(self, name: str, value: float, update: int) -> None:
        self._scheduler.step(value)

    def metric_state(self) -> StateDict:
        counters = {name: getattr(self._scheduler, name) for name in _COUNTERS}
        lrs = {"lr": self.lr_at(0), "initial_lr": self._initial_lr}
        return {**lrs, "best": _finite_or_none(self._scheduler.best), **counters}

    def load_metric_state(self, state: StateDict) -> None:
        for name in _COUNTERS:
            setattr(self._scheduler, name, int(state[name]))
        self._dummy.param_groups[0]["lr"] = _scaled_lr(state, self._initial_lr)
        self._scheduler.best = self._scheduler.mode_worse if state["best"] is None else float(state["best"])


_COUNTERS = ("num_bad_epochs", "cooldown_counter", "last_epoch")


@SCHEDULE_REGISTRY.register("greedy")
class Greedy(MetricSchedule):
    """transformers' GreedyLR: the lr rises while a metric improves and falls while it does not.

    Formula:
        lr <- min(lr / factor, max_lr), after more than `patience` improvements in a row;
        lr <- max(lr * factor, min_lr), after more than `patience` reports in a row without improvement;
        lr <- initial_lr, after `reset_start` falls at min_lr.
        An improvement is defined as in ReduceLROnPlateau.

    Source: arXiv:2512.14527, in the form of transformers.optimization.GreedyLR.

    Examples:
        >>> import torch
        >>> from optimizer import OPTIMIZER_BUILDER_REGISTRY
        >>> greedy = {"type": "greedy", "factor": 0.5, "patience": 1, "min_lr": 0.25, "max_lr": 2.0}
        >>> optimizer = OPTIMIZER_BUILDER_REGISTRY["sgd"](lr=1.0, schedule=greedy).build(torch.nn.Linear(1, 1))
        >>> lrs = []
        >>> for loss in (5.0, 4.0, 3.0, 3.0, 3.0, 3.0):
        ...     optimizer.report_metric("val_loss", loss)
        ...     lrs += optimizer.scheduler.get_last_lr()
        >>> lrs
        [1.0, 2.0, 2.0, 2.0, 1.0, 1.0]
    """

    factor: PositiveBeta = 0.95
    """Factor of each fall; a rise divides by it."""
    patience: Count = 10
    """Reports of one kind in a row, with or without improvement, that leave the lr unchanged."""
    threshold: NonNegativeNumber = 1e-6
    """Smallest change of the metric that is an improvement."""
    threshold_mode: Literal["rel", "abs"] = "abs"
    """Whether threshold is a share of the best value or a difference."""
    cooldown: Count = 0
    """Reports after a fall that are ignored."""
    warmup: Count = 0
    """Reports after a rise that are ignored."""
    min_lr: NonNegativeNumber = 1e-3
    """The lowest lr."""
    max_lr: PositiveNumber = 1.0
    """The highest lr."""
    eps: NonNegativeNumber = 1e-8
    """Smallest change of the lr; a smaller one is not made."""
    smooth: bool = False
    """Whether to average the metric over the last `window_size` reports first."""
    window_size: PositiveCount = 50
    """Reports in the average."""
    reset_start: Count = 500
    """Falls at the lowest lr after which lr, best value and counters start again."""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.min_lr > self.max_lr:
            self.refuse("min_lr", f"must be <= max_lr; got {self.min_lr} with max_lr {self.max_lr}")
        return self

    def new_curve(self) -> Curve:
        return _GreedyCurve(self)

    def summary(self) -> str:
        return f"{super().summary()}, {short(self.min_lr)} to {short(self.max_lr)}"


class _GreedyCurve(MetricCurve):
    _waiting: int  # reports to ignore after a change

    def __init__(self, schedule: Greedy) -> None:
        self._schedule = schedule
        self._initial_lr = schedule.initial_lr or 1.0
        self._start_over()

    def lr_at(self, update: int) -> float:
        return self._lr

    def monitors(self) -> set[str]:
        return {self._schedule.monitor}

    def report(self, name: str, value: float, update: int) -> None:
        schedule = self._schedule
        if schedule.smooth:
            self._recent.append(value)
            value = sum(self._recent) / len(self._recent)
        if self._waiting:
            self._waiting -= 1
            self._good = self._bad = 0
            return
        if self._improves(value):
            self._best, self._good, self._bad = value, self._good + 1, 0
        else:
            self._good, self._bad = 0, self._bad + 1
        if self._good > schedule.patience:
            self._rise()
            self._good, self._waiting = 0, schedule.warmup
        elif self._bad > schedule.patience:
            self._fall()
            self._bad, self._waiting = 0, schedule.cooldown

    def metric_state(self) -> StateDict:
        numbers = {name: getattr(self, f"_{name}") for name in _GREEDY_STATE}
        lrs = {"lr": self._lr, "initial_lr": self._initial_lr}
        return {**lrs, **numbers, "best": _finite_or_none(self._best), "recent": list(self._recent)}

    def load_metric_state(self, state: StateDict) -> None:
        for name in _GREEDY_STATE:
            setattr(self, f"_{name}", int(state[name]))
        self._lr = _scaled_lr(state, self._initial_lr)
        self._best = self._worst if state["best"] is None else float(state["best"])
        self._recent.clear()
        self._recent.extend(map(float, state["recent"]))

    def _start_over(self) -> None:
        self._lr = self._initial_lr
        self._worst = math.inf if self._schedule.mode == "min" else -math.inf
        self._best = self._worst
        self._good = self._bad = self._waiting = 0
        self._falls_left = self._schedule.reset_start
        self._recent: deque[float] = deque(maxlen=self._schedule.window_size)

    def _improves(self, value: float) -> bool:
        schedule, sign = self._schedule, 1.0 if self._schedule.mode == "min" else -1.0
        if schedule.threshold_mode == "rel":
            return sign * value < sign * self._best * (1.0 - sign * schedule.threshold)
        return sign * value < sign * self._best - schedule.threshold

    def _rise(self) -> None:
        lr = min(self._lr / self._schedule.factor, self._schedule.max_lr)
        if lr - self._lr > self._schedule.eps:
            self._lr = lr
        self._falls_left = self._schedule.reset_start

    def _fall(self) -> None:
        lr = max(self._lr * self._schedule.factor, self._schedule.min_lr)
        if self._lr - lr > self._schedule.eps:
            self._lr = lr
        if self._lr <= self._schedule.min_lr:
            self._falls_left -= 1
            if self._falls_left <= 0:
                self._start_over()


_GREEDY_STATE = ("good", "bad", "waiting", "falls_left")


def _scaled_lr(state: StateDict, initial_lr: float) -> float:
    """Return the saved lr, scaled to a run that started at `initial_lr`."""
    return float(state["lr"]) * (initial_lr / float(state["initial_lr"]))


def _finite_or_none(best: float) -> float | None:
    """Return `best`, or None for the infinite value before any report, which JSON cannot represent."""
    return None if math.isinf(best) else best
