"""Objectives, components and slow twins for tests of moving averages."""

import torch
from torch import nn

from trainer import MODEL_REGISTRY, OBJECTIVE_REGISTRY, Objective, Outcome


@OBJECTIVE_REGISTRY.register("bootstrapped")
class Bootstrapped(Objective):
    """A critic that is stepped several times an update, towards a target that its average gives."""

    def __init__(self, steps: int = 1) -> None:
        self.steps = steps

    def losses(self, components, batch):
        with torch.no_grad():
            goal = batch["y"] + 0.5 * components["target"](batch["x"])
        return Outcome({"squared": (components["critic"](batch["x"]) - goal).square().mean()})

    def update(self, components, batch, learner):
        for _ in range(self.steps):
            with learner.autocast():
                outcome = self.losses(components, batch)
            learner.step(outcome.total, *(["critic"] if self.steps > 1 else []))
        return outcome


@OBJECTIVE_REGISTRY.register("widening")
class Widening(Bootstrapped):
    """Its prepare replaces a layer of the critic, and of the target only if `both`."""

    def __init__(self, both: bool = False) -> None:
        super().__init__()
        self.both = both

    def prepare(self, components, data):
        for name in ("critic", "target") if self.both else ("critic",):
            components[name].linear = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 4))


@MODEL_REGISTRY.register("every_buffer")
class EveryBuffer(nn.Module):
    """A layer with buffers of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("mask", torch.tensor([0.0, float("-inf"), 0.0, 0.0]))
        self.register_buffer("lowest", torch.full((4,), float("inf")))
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("calls", torch.tensor(0))
        self.register_buffer("cache", torch.zeros(4), persistent=False)

    def forward(self, x):
        if self.training:
            self.calls = self.calls + 1  # another tensor in the place of the buffer
            self.mean.lerp_(x.detach().mean(0), 0.3)
            self.lowest = torch.minimum(self.lowest, x.detach().amin(0))
            self.cache += 1
        return self.linear(x) + torch.nan_to_num(self.mask, neginf=0.0)


@MODEL_REGISTRY.register("low_precision")
class LowPrecision(nn.Module):
    """A layer whose weight has few bits, between conversions."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4).bfloat16()
        self.out = nn.Linear(4, 4)

    def forward(self, x):
        return self.out(self.linear(x.bfloat16()).float())


class SlowTwin:
    """A moving average by one `lerp_` a parameter, which a hook takes after each step of an optimizer."""

    def __init__(self, component, optimizer, share):
        self.weights = {name: weight for name, weight in component.named_parameters() if weight.requires_grad}
        self.average = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self.steps, self.share = 0, share
        optimizer.register_step_post_hook(self._follow)

    def _follow(self, *_):
        with torch.no_grad():
            for name, average in self.average.items():
                average.lerp_(self.weights[name], self.share(self.steps))
        self.steps += 1

    def differing(self, named):
        return [name for name, average in self.average.items() if not torch.equal(average, named[name])]


@OBJECTIVE_REGISTRY.register("critic_alone")
class CriticAlone(Objective):
    """The target takes no part in the losses."""

    def losses(self, components, batch):
        return Outcome({"squared": (components["critic"](batch["x"]) - batch["y"]).square().mean()})
