"""Components, data sets and objectives of the tests, as in a user's module."""

from pathlib import Path

import torch
from torch import nn

from trainer import DATASET_REGISTRY, MODEL_REGISTRY, OBJECTIVE_REGISTRY, DataSet, Objective, Outcome, TensorSplit


@MODEL_REGISTRY.register("normed")
class Normed(nn.Module):
    """A layer with BatchNorm and dropout, so that mode, buffers and random numbers all matter."""

    def __init__(self, width: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.norm = nn.BatchNorm1d(width)
        self.dropout = nn.Dropout(dropout)

    @staticmethod
    def optimizer_preset():
        return {"type": "adamw", "params": {"lr": 3e-3, "weight_decay": 0.2, "schedule": {"type": "linear"}}}

    def forward(self, x):
        return self.dropout(self.norm(self.linear(x)))


@MODEL_REGISTRY.register("partly_frozen")
class PartlyFrozen(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.kept = nn.Linear(width, width).requires_grad_(False)
        self.trained = nn.Linear(width, width)

    def forward(self, x):
        return self.trained(self.kept(x))


@MODEL_REGISTRY.register("tied")
class Tied(nn.Module):
    """Two layers that share their weight, and a buffer that is a view of another."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.second.weight = self.first.weight
        self.register_buffer("steps", torch.arange(6))
        self.register_buffer("last_steps", self.steps[3:])

    def forward(self, x):
        return self.second(self.first(x))


@DATASET_REGISTRY.register("noise")
class Noise(DataSet):
    """Points whose target is a fixed linear map of them."""

    def __init__(self, samples: int = 37, width: int = 4, held_out: int = 10, path: str | None = None) -> None:
        if path is not None:
            Path(path).read_bytes()
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(samples + held_out, width, generator=generator)
        y = x @ torch.randn(width, width, generator=generator)
        self.train = TensorSplit({"x": x[:samples], "y": y[:samples]})
        self.held_out = TensorSplit({"x": x[samples:], "y": y[samples:]}) if held_out else None
        self.statistics = {"x_mean": x[:samples].mean(0)}


@OBJECTIVE_REGISTRY.register("regression")
class Regression(Objective):
    """One loss: the components in a chain."""

    def losses(self, components, batch):
        y = batch["x"]
        for component in components.values():
            y = component(y)
        return Outcome({"squared": (y - batch["y"]).square().mean()}, {"size": torch.tensor(float(len(y)))})


@OBJECTIVE_REGISTRY.register("actor_critic")
class ActorCritic(Objective):
    """Several backward passes in a custom order, and a target that follows its critic."""

    def losses(self, components, batch):
        value = components["critic"](batch["x"])
        critic = (value - batch["y"]).square().mean()
        return Outcome({"critic": critic, "actor": -components["critic"](components["actor"](batch["x"])).mean()})

    def update(self, components, batch, learner):
        with learner.autocast():
            target = batch["y"] + 0.1 * components["target"](batch["x"])
            critic = (components["critic"](batch["x"]) - target).square().mean()
        learner.step(critic, "critic")
        with learner.autocast():
            actor = -components["critic"](components["actor"](batch["x"])).mean()
        learner.step(actor, "actor")
        with torch.no_grad():
            for slow, fast in zip(components["target"].parameters(), components["critic"].parameters(), strict=True):
                slow.lerp_(fast, 0.1)
        return Outcome({"critic": critic, "actor": actor})


class JitteredSplit(TensorSplit):
    """Samples with noise from a separate generator, whose state moves with each batch."""

    def __init__(self, tensors):
        super().__init__(tensors)
        self.generator = torch.Generator().manual_seed(1)
        self.served = 0

    def batch(self, indices):
        self.served += len(indices)
        batch = super().batch(indices)
        return {**batch, "x": batch["x"] + 0.1 * torch.randn(batch["x"].shape, generator=self.generator)}


@DATASET_REGISTRY.register("jittered")
class Jittered(Noise):
    """A data set with state: its training split has a generator and a counter."""

    def __init__(self, samples: int = 37) -> None:
        super().__init__(samples=samples)
        self.train = JitteredSplit(self.train.batch(torch.arange(samples)))

    def state_dict(self):
        return {"generator": self.train.generator.get_state(), "served": self.train.served}

    def load_state_dict(self, state):
        self.train.generator.set_state(state["generator"])
        self.train.served = state["served"]


@OBJECTIVE_REGISTRY.register("delayed_actor_critic")
class DelayedActorCritic(ActorCritic):
    """TD3's order: the critic at every update, the actor and the target at every second, which it counts itself."""

    def __init__(self, delay: int = 2) -> None:
        self.delay, self.done, self.history = delay, 0, []

    def update(self, components, batch, learner, **_):
        with learner.autocast():
            target = batch["y"] + 0.1 * components["target"](batch["x"])
            critic = (components["critic"](batch["x"]) - target).square().mean()
        learner.step(critic, "critic")
        actor = -components["critic"](components["actor"](batch["x"])).mean()
        if self.done % self.delay == 0:
            learner.step(actor, "actor")
            with torch.no_grad():
                for slow, fast in zip(
                    components["target"].parameters(), components["critic"].parameters(), strict=True
                ):
                    slow.lerp_(fast, 0.1)
        self.done += 1
        self.history = [*self.history, critic.detach()][-3:]
        return Outcome({"critic": critic, "actor": actor}, {"mean_of_last": torch.stack(self.history).mean()})

    def state_dict(self):
        return {"done": self.done, "history": self.history}

    def load_state_dict(self, state):
        self.done, self.history = state["done"], state["history"]


@OBJECTIVE_REGISTRY.register("forgetful_actor_critic")
class ForgetfulActorCritic(DelayedActorCritic):
    """The same without methods for its state."""

    state_dict = Objective.state_dict
    load_state_dict = Objective.load_state_dict


@OBJECTIVE_REGISTRY.register("buffered")
class Buffered(Objective, nn.Module):
    """Scales the loss by a running mean, which is its buffer."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.register_buffer("scale", torch.ones(()))

    def losses(self, components, batch):
        squared = Regression.losses(self, components, batch).losses["squared"]
        if torch.is_grad_enabled():
            self.scale.lerp_(squared.detach(), 0.1)
        return Outcome({"squared": squared / self.scale.mean()})


@OBJECTIVE_REGISTRY.register("remembering")
class Remembering(Buffered):
    """The same, and remembers what it has seen: state of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.batches, self.lowest, self.last = 0, float("inf"), []

    def update(self, components, batch, learner, **step):
        outcome = super().update(components, batch, learner, **step)
        self.batches += 1
        self.lowest = min(self.lowest, float(outcome.total.detach()))
        self.last = [*self.last, batch["x"][0].clone()][-2:]
        return outcome

    def state_dict(self):
        return {"scale": self.scale, "batches": self.batches, "lowest": self.lowest, "last": self.last, "never": -1e400}

    def load_state_dict(self, state):
        self.scale.copy_(state["scale"])
        self.batches, self.lowest, self.last = state["batches"], state["lowest"], state["last"]


class ServedSplit(TensorSplit):
    """Counts the samples that it has served."""

    served = 0

    def batch(self, indices):
        self.served += len(indices)
        return super().batch(indices)


@DATASET_REGISTRY.register("served")
class Served(Noise):
    """A data set with state that changes no sample."""

    def __init__(self, samples: int = 37) -> None:
        super().__init__(samples=samples)
        self.train = ServedSplit(self.train.batch(torch.arange(samples)))

    def state_dict(self):
        return {"served": self.train.served}

    def load_state_dict(self, state):
        self.train.served = state["served"]
