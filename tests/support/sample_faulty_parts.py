"""Objectives, data and components that fail in the middle of a run."""

import os
import random
import signal
import sys
import tempfile
from typing import Any

import numpy as np
import torch
from sample_parts import Noise, Regression
from torch import nn

from trainer import DATASET_REGISTRY, MODEL_REGISTRY, OBJECTIVE_REGISTRY, Outcome, TensorSplit
from trainer.errors import UnreadableError


def nan_loss(loss, components):
    return loss * float("nan")


def infinite_loss(loss, components):
    return loss + float("inf")


def nan_gradient(loss, components):
    """The loss is finite; its gradient is not: the root of 0."""
    return loss + (next(components["first"].parameters()).sum() * 0).sqrt()


def rows(loss, components):
    return loss.repeat(3)


def detached(loss, components):
    return loss.detach()


def explode(loss, components):
    raise RuntimeError("the simulator has no licence")


def leave(loss, components):
    sys.exit(7)


class PanicError(BaseException):
    """Libraries in Rust raise exceptions that do not derive from Exception."""


def panic(loss, components):
    raise PanicError("index out of bounds")


def exhausted(loss, components):
    return loss * next(iter(()))


class MuteError(Exception):
    def __str__(self):
        return self.text


def poison(loss, components):
    """Code of the user's spoils a weight, and with it the loss."""
    weight = next(components["first"].parameters())
    with torch.no_grad():
        weight.view(-1)[0] = float("nan")
    return loss * weight.sum().detach()


def mute(loss, components):
    raise MuteError


class MutePanicError(Exception):
    def __str__(self):
        raise PanicError


def mute_panic(loss, components):
    raise MutePanicError


def unreadable(loss, components):
    """An error that reading a checkpoint in an update may raise."""
    raise UnreadableError("/teacher/model.safetensors: Input/output error")


def wander(loss, components):
    os.chdir(tempfile.gettempdir())
    return loss


def interrupt(loss, components):
    raise KeyboardInterrupt


def press_twice(loss, components):
    """Press Ctrl-C twice."""
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)


def double(loss, components):
    """A component turns float64 between the forward and the backward pass."""
    components["first"].double()
    return sum(parameter.square().sum() for parameter in components.parameters())


_WAYS = (
    nan_loss,
    infinite_loss,
    nan_gradient,
    rows,
    detached,
    explode,
    leave,
    panic,
    exhausted,
    mute,
    mute_panic,
    unreadable,
    wander,
)
WAYS = {way.__name__: way for way in (*_WAYS, interrupt, press_twice, double, poison)}


@OBJECTIVE_REGISTRY.register("faulty")
class Faulty(Regression):
    """`regression` that goes wrong in some updates, or in the evaluations or metrics after an update."""

    def __init__(self, way: str = "nan_loss", at: list[int] | None = None, where: str = "loss") -> None:
        self._way, self._at, self._where, self._step = WAYS[way], at or [], where, 0

    def losses(self, components, batch):
        outcome = super().losses(components, batch)
        if self._where == "evaluation" and not components.training and self._step in self._at:
            self._way(outcome.total, components)
        return outcome

    def update(self, components, batch, learner, step):
        self._step = step
        with learner.autocast():
            outcome = self.losses(components, batch)
        is_wrong = self._where == "loss" and step in self._at
        learner.step(self._way(outcome.total, components) if is_wrong else outcome.total)
        if self._where == "metric" and step in self._at:
            return Outcome(outcome.losses, lambda: self._way(outcome.total, components))
        return outcome


@OBJECTIVE_REGISTRY.register("drawing_faulty")
class DrawingFaulty(Faulty):
    """`faulty` that draws from torch's generator in each update and, from `others_from` on, from the other two."""

    def __init__(self, others_from: int = 0, **params: Any) -> None:
        super().__init__(**params)
        self._others_from = others_from

    def losses(self, components, batch):
        factor = 1.0 + torch.rand(())
        if components.training and self._step >= self._others_from:
            factor = factor * (random.random() + np.random.exponential())
        outcome = super().losses(components, batch)
        return Outcome({"squared": outcome.total * factor}, outcome.metrics)


@OBJECTIVE_REGISTRY.register("counting_faulty")
class CountingFaulty(Faulty):
    """`faulty`, and counts its updates before it makes them."""

    _count = 0

    def update(self, components, batch, learner, step):
        self._count += 1
        return super().update(components, batch, learner, step)

    def state_dict(self):
        return {"count": self._count}

    def load_state_dict(self, state):
        self._count = state["count"]


@OBJECTIVE_REGISTRY.register("parallel")
class Parallel(Regression):
    """A loss for each component, both made before the first step; that of `first` is NaN at the updates `at`."""

    def __init__(self, at: list[int]) -> None:
        self._at = at

    def update(self, components, batch, learner, *, step):
        losses = {name: (component(batch["x"]) - batch["y"]).square().mean() for name, component in components.items()}
        if step in self._at:
            losses["first"] = losses["first"] * float("nan")
        for name, loss in losses.items():
            learner.step(loss, name)
        return Outcome(losses)


@OBJECTIVE_REGISTRY.register("several_steps")
class SeveralSteps(Regression):
    """Steps `first` three times an update."""

    def update(self, components, batch, learner, step, /):
        for _ in range(3):
            learner.step(self.losses(components, batch).total, "first")
        return super().update(components, batch, _OnlySecond(learner), step)


class _OnlySecond:
    def __init__(self, learner):
        self._learner, self.autocast = learner, learner.autocast

    def step(self, loss):
        self._learner.step(loss, "second")


RETURNED = {
    "nothing": lambda outcome, size: None,
    "number": lambda outcome, size: 0.5,
    "no losses": lambda outcome, size: Outcome({}),
    "vector": lambda outcome, size: Outcome(outcome.losses, {"sizes": torch.ones(3)}),
    "text": lambda outcome, size: Outcome(outcome.losses, lambda: {"note": "seven"}),
    "short": lambda outcome, size: Outcome({"late": outcome.total}) if size != 7 else outcome,
    "numbers": lambda outcome, size: Outcome(
        outcome.losses, {"half": 0.5, "two": 2, "rows": torch.tensor(3), "true": torch.tensor([True])}
    ),
    "some": lambda outcome, size: Outcome(outcome.losses, {"rows": size} if size == 7 else {}),
}


@OBJECTIVE_REGISTRY.register("returning")
class Returning(Regression):
    """Returns something else of an update than `regression` does, or, if its losses do so, of every batch."""

    def __init__(self, way: str, in_losses: bool = False) -> None:
        self._way, self._in_losses = RETURNED[way], in_losses

    def losses(self, components, batch):
        outcome = super().losses(components, batch)
        return self._way(outcome, len(batch["x"])) if self._in_losses else outcome

    def update(self, components, batch, learner, step):
        outcome = super().update(components, batch, learner)
        return outcome if self._in_losses else self._way(outcome, len(batch["x"]))


@OBJECTIVE_REGISTRY.register("faulty_actor_critic")
class FaultyActorCritic(Regression):
    """Steps `second`, and fails before it steps `first`, in one update."""

    def __init__(self, at: int = 6) -> None:
        self._at = at

    def update(self, components, batch, learner, step):
        learner.step(self.losses(components, batch).total, "second")
        if step == self._at:
            raise ValueError("between two steps")
        outcome = self.losses(components, batch)
        learner.step(outcome.total, "first")
        return outcome


class SpoiltSplit(TensorSplit):
    """Spoils one sample, or what is made of the batch with it."""

    def __init__(self, tensors, way, sample):
        super().__init__(tensors)
        self._way, self._sample = way, sample

    def batch(self, indices):
        made = super().batch(indices)
        hit = (indices == self._sample).nonzero()
        if not len(hit):
            return made
        if self._way == "nan":
            made["x"][hit[0, 0], 1] = float("nan")
        elif self._way == "missing":
            del made["y"]
        elif self._way == "text":
            made["note"] = "seven"
        elif self._way == "list":
            return list(made.values())
        elif self._way == "empty":
            return {name: tensor[:0] for name, tensor in made.items()}
        elif self._way == "gone":
            raise FileNotFoundError("episode_000042.parquet")
        elif self._way == "panic":
            raise PanicError("index out of bounds")
        return made


@DATASET_REGISTRY.register("spoilt_noise")
class SpoiltNoise(Noise):
    """`noise` with one bad sample."""

    def __init__(self, way: str = "nan", sample: int = 20, samples: int = 50) -> None:
        super().__init__(samples=samples)
        self.train = SpoiltSplit(self.train.batch(torch.arange(samples)), way, sample)


@MODEL_REGISTRY.register("masked")
class Masked(nn.Module):
    """A layer with a buffer that is infinite by design, as masks of attention are."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.register_buffer("mask", torch.full((width,), float("-inf")))

    def forward(self, x):
        return self.linear(x) + self.mask.exp()


@MODEL_REGISTRY.register("observant")
class Observant(nn.Module):
    """A layer that follows its inputs as it trains, in buffers that it writes, replaces, expands or lacks."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.linear = nn.utils.parametrizations.spectral_norm(nn.Linear(width, width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("latest", torch.zeros(()), persistent=False)
        self.register_buffer("ones", torch.ones(1).expand(width), persistent=False)
        self.register_buffer("nothing", None)

    def forward(self, x):
        if self.training:
            self.mean.lerp_(x.detach().mean(0), 0.1)
            self.seen = self.seen + len(x)
            self.latest = x.detach().mean()
        return self.linear(x - self.mean) + self.latest * self.ones


@OBJECTIVE_REGISTRY.register("delayed")
class Delayed(Regression):
    """Steps `second` at each update and `first` at every n-th, from `first_at` on."""

    def __init__(self, every: int = 2, first_at: int = 0, silent: bool = False) -> None:
        self._every, self._first_at, self._silent = every, first_at, silent

    def update(self, components, batch, learner, step):
        outcome = self.losses(components, batch)
        if self._silent:
            return outcome
        learner.step(outcome.total, "second")
        if step % self._every == self._first_at:
            learner.step(self.losses(components, batch).total, "first")
        return outcome


@OBJECTIVE_REGISTRY.register("summed")
class Summed(Regression):
    """A loss that is a sum, and declares it."""

    means_over_samples = False

    def losses(self, components, batch):
        return Outcome({"squared": super().losses(components, batch).total * len(batch["x"])})


@MODEL_REGISTRY.register("sparse_table")
class SparseTable(nn.Module):
    """Rows of a table, whose gradients are sparse by option."""

    def __init__(self, sparse: bool = True) -> None:
        super().__init__()
        self.table = nn.Embedding(8, 4, sparse=sparse)

    def forward(self, x):
        return self.table(x[:, 0].abs().mul(3).long().clamp(max=7))
