"""Components and objectives for runs of several processes: several backward passes, and what a rank does alone."""

import torch
from torch import distributed, nn

from trainer import DATASET_REGISTRY, MODEL_REGISTRY, OBJECTIVE_REGISTRY, DataSet, Objective, Outcome, TensorSplit


def rank():
    return distributed.get_rank() if distributed.is_initialized() else 0


@MODEL_REGISTRY.register("critic_with_method")
class CriticWithMethod(nn.Module):
    """A critic that objectives call by a method."""

    distributed_methods = ("value",)

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, 5), nn.Tanh(), nn.Linear(5, width))

    def forward(self, x):
        return self.value(x) * 0

    def value(self, x):
        return self.layers(x)


@MODEL_REGISTRY.register("several_types")
class SeveralTypes(nn.Module):
    """Parameters of three types, one of them in another layout."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.wide = nn.Parameter(torch.randn(width, width).double())
        self.narrow = nn.Parameter(torch.randn(width).float())
        self.phase = nn.Parameter(torch.randn(width, dtype=torch.complex64))
        self.turned = nn.Parameter(torch.randn(5, width).double().t())

    def forward(self, x):
        mixed = (x @ self.wide + (x @ self.turned).mean(1, keepdim=True)) * self.narrow.double()
        return mixed + (x * self.phase).abs()


@MODEL_REGISTRY.register("sparse_embedding")
class SparseEmbedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(3, 4, sparse=True)

    def forward(self, x):
        return x + self.table((x[:, 0] > 0).long())


@MODEL_REGISTRY.register("experts")
class Experts(nn.Module):
    """Each sample goes to one of three layers of the same size. A layer without samples is not called."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(3)])

    def forward(self, x):
        where = (x[:, :1] > -0.6).long() + (x[:, :1] > 0.6).long()
        y = x
        for number, layer in enumerate(self.layers):
            if (where == number).any():
                y = torch.where(where == number, layer(x), y)
        return y


@OBJECTIVE_REGISTRY.register("calls_a_method")
class CallsAMethod(Objective):
    """Two backward passes, each for another component; the second goes through the component of the first."""

    def losses(self, components, batch):
        value = components["critic"].value(batch["x"])
        actor = -components["critic"].value(components["actor"](batch["x"])).mean()
        return Outcome({"critic": (value - batch["y"]).square().mean(), "actor": actor})

    def update(self, components, batch, learner):
        critic = self.losses(components, batch).losses["critic"]
        learner.step(critic, "critic")
        if learner.is_due("actor"):
            learner.step(self.losses(components, batch).losses["actor"], "actor")
        return Outcome({"critic": critic})


@OBJECTIVE_REGISTRY.register("some_samples")
class SomeSamples(Objective):
    """Only samples with a large value go through the second component: perhaps none of a rank's."""

    def losses(self, components, batch):
        chosen = batch["x"][:, 0] > 0.2
        y = components["first"](batch["x"])
        if chosen.any():
            y = torch.where(chosen[:, None], components["second"](batch["x"]), y)
        return Outcome({"squared": (y - batch["y"]).square().mean()})


@OBJECTIVE_REGISTRY.register("stepping_alone")
class SteppingAlone(Objective):
    """Rank 1 steps other components than rank 0, at one update."""

    def __init__(self, way: str, at: int) -> None:
        self.way, self.at = way, at

    def losses(self, components, batch):
        first, second = ((components[name](batch["x"]) - batch["y"]).square().mean() for name in ("first", "second"))
        return Outcome({"first": first, "second": second})

    def update(self, components, batch, learner, step):
        outcome, names = self.losses(components, batch), ["first", "second"]
        if rank() == 1 and step == self.at:
            names = {"order": names[::-1], "fewer": names[:1], "none": [], "more": [*names, "first"]}[self.way]
        for name in names:
            learner.step(self.losses(components, batch).losses[name], name)
        return outcome


@OBJECTIVE_REGISTRY.register("nan_on_one_rank")
class NanOnOneRank(Objective):
    """The chain of the components; at some updates rank 1 has a NaN, or a large gradient."""

    def __init__(self, where: str, at: list[int]) -> None:
        self.where, self.at = where, at

    def losses(self, components, batch):
        y = batch["x"]
        for component in components.values():
            y = component(y)
        return Outcome({"squared": (y - batch["y"]).square().mean()})

    def update(self, components, batch, learner, step):
        is_bad = rank() == 1 and step in self.at
        if is_bad and self.where == "batch":
            batch["x"][0, 0] = torch.nan
        outcome = self.losses(components, batch)
        loss = outcome.total
        learner.step(loss * {"loss": torch.nan, "gradient": 1e305}.get(self.where, 1.0) if is_bad else loss)
        return Outcome({"squared": loss})


@OBJECTIVE_REGISTRY.register("summed_losses")
class SummedLosses(Objective):
    means_over_samples = False

    def losses(self, components, batch):
        return Outcome({"sum": (components["first"](batch["x"]) - batch["y"]).square().sum()})


@DATASET_REGISTRY.register("wide_digits")
class WideDigits(DataSet):
    """The digits in float64."""

    def __init__(self) -> None:
        digits = DATASET_REGISTRY["digits"]()
        self.train, self.held_out = map(self.widened, (digits.train, digits.held_out))

    @staticmethod
    def widened(split):
        batch = split.batch(torch.arange(len(split)))
        return TensorSplit({name: x.double() if x.is_floating_point() else x for name, x in batch.items()})
