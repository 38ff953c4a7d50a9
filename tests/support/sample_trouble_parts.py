"""Custom classes that break a run: parameters that come and go, state that cannot be saved, invalid data.

Configs name them by their dotted paths.
"""

import torch
from sample_parts import Noise, Regression
from torch import nn

from trainer import Outcome, TensorSplit


class TwoLayers(nn.Module):
    def __init__(self, out: int = 4) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 6), nn.Linear(6, out)

    def forward(self, x):
        return self.head(torch.tanh(self.body(x)))


class HalfUsed(TwoLayers):
    """Its layer `unused` is never run."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(3, 3)


class EvalNorm(TwoLayers):
    """Its BatchNorm stays in eval mode while the other layers train."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        return super().forward(self.norm.eval()(x))


class LazyLayers(nn.Module):
    """Layers that take their sizes from their inputs; `unused` is never run."""

    def __init__(self, unused: bool = False) -> None:
        super().__init__()
        self.body, self.norm, self.head = nn.LazyLinear(5), nn.LazyBatchNorm1d(), nn.LazyLinear(4)
        if unused:
            self.unused = nn.LazyLinear(3)

    def forward(self, x):
        return self.head(self.norm(self.body(x)))


class Prepares(Regression):
    """Makes the change `what` in prepare."""

    def __init__(self, what: str = "") -> None:
        self._what = what

    def prepare(self, components, data):
        first = components["first"]
        match self._what:
            case "replace":
                first.head = nn.Linear(6, data.train.batch(torch.arange(1))["y"].shape[1])
            case "add":
                first.head = nn.Sequential(first.head, nn.Linear(4, 4, bias=False))
            case "freeze all":
                first.requires_grad_(False)
            case "unfreeze":
                first.requires_grad_(True)
            case "replace all":
                components["first"] = TwoLayers()
            case "remove":
                del components["first"]
            case "add a component":
                components["third"] = TwoLayers()
            case "share":
                first.also = components["second"].linear
            case "fail":
                data.statistics["no_such_thing"]


class Meddles(Regression):
    """Makes the change `what` to the first component after update number `at`."""

    def __init__(self, what: str, at: int = 6) -> None:
        self._what, self._at, self._step = what, at, 0

    def update(self, components, batch, learner):
        outcome = super().update(components, batch, learner)
        if self._step == self._at:
            self._meddle(components["first"])
        self._step += 1
        return outcome

    def _meddle(self, first):
        match self._what:
            case "replace":
                first.head = nn.Linear(6, 4)
            case "make":
                first.scale = nn.Parameter(torch.ones(4))
            case "remove":
                first.body.register_parameter("bias", None)
            case "freeze":
                first.body.weight.requires_grad_(False)
            case "freeze all":
                first.requires_grad_(False)
            case "unfreeze":
                first.requires_grad_(True)
            case "grow":
                first.memory = torch.zeros(3, 4)
            case "widen":
                first.memory = first.memory.double()
            case "drop":
                del first.memory
            case "sparse":
                first.memory = first.memory.to_sparse()


class Remembers(TwoLayers):
    """Has a buffer, of the kind that `kind` names."""

    def __init__(self, kind: str = "plain") -> None:
        super().__init__()
        tensors = {
            "plain": lambda: torch.zeros(2, 4),
            "sparse": lambda: torch.eye(3).to_sparse(),
            "compressed": lambda: torch.eye(3).to_sparse_csr(),
            "nested": lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=torch.jagged),
            "of a type without a name": lambda: torch.zeros(2, dtype=torch.complex128),
            "without values": lambda: torch.zeros(2, device="meta"),
            "without memory": _freed,
            "conjugated": lambda: torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex64).conj(),
        }
        self.register_buffer("memory", tensors[kind]())


def _freed():
    tensor = torch.zeros(3)
    tensor.untyped_storage().resize_(0)
    return tensor


class ReservedName(TwoLayers):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("__metadata__", torch.zeros(1))


class Counts(TwoLayers):
    """Counts its forward passes in train mode, and keeps the last means, in extra state; the count matters."""

    def __init__(self, savable: bool = True) -> None:
        super().__init__()
        self.count, self.means, self._savable = 0, {}, savable

    def get_extra_state(self):
        if not self._savable:
            return {"count": self.count, "of": self}
        return {"count": self.count, "means": self.means, "name": "counts", "shape": (2, None)}

    def set_extra_state(self, state):
        assert state["shape"] == (2, None)
        self.count, self.means = state["count"], state["means"]

    def forward(self, x):
        if self.training:
            self.count += 1
            self.means = {self.count: x.detach().mean(0)}
        return super().forward(x) * (1 + 0.01 * self.count)


class Rounds(TwoLayers):
    """Saves its weights in half precision."""

    def state_dict(self, *args, **kwargs):
        return {name: tensor.half() for name, tensor in super().state_dict(*args, **kwargs).items()}


class ForgetsHead(TwoLayers):
    """Saves its body only."""

    def state_dict(self, *args, **kwargs):
        return {name: t for name, t in super().state_dict(*args, **kwargs).items() if name.startswith("body")}

    def load_state_dict(self, state_dict, strict=True, assign=False):
        return super().load_state_dict(state_dict, strict=False, assign=assign)


class Renames(TwoLayers):
    """Saves under names that it does not load."""

    def state_dict(self, *args, **kwargs):
        return {f"old.{name}": tensor for name, tensor in super().state_dict(*args, **kwargs).items()}


class Assigns(TwoLayers):
    """Loads by replacing its parameters with new ones."""

    def load_state_dict(self, state_dict, strict=True, assign=False):
        return super().load_state_dict(
            {name: tensor.clone() for name, tensor in state_dict.items()}, strict, assign=True
        )


class FailsToSave(TwoLayers):
    def state_dict(self, *args, **kwargs):
        raise NotImplementedError("not today")


class LeavesOut:
    """A factory whose optimizer has the matrices only."""

    def __init__(self, lr: float = 0.1) -> None:
        self._lr = lr

    def build(self, params):
        return torch.optim.SGD([(name, p) for name, p in params if p.ndim == 2], lr=self._lr)


class UnsavableOption:
    """A factory whose optimizer has a function as an option."""

    def build(self, params):
        optimizer = torch.optim.SGD(params, lr=0.1)
        optimizer.param_groups[0]["decay"] = lambda step: 1.0
        return optimizer


class Images(nn.Module):
    """A convolution and a layer that normalises, over the batch's x as images of 2 × 2."""

    def __init__(self, norm: str = "batch", keeps_eval: bool = False) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 2, 3, padding=1)
        self.norm = nn.GroupNorm(1, 2) if norm == "group" else nn.BatchNorm2d(2)
        self._keeps_eval = keeps_eval

    def train(self, mode=True):
        super().train(mode)
        if self._keeps_eval:
            self.norm.eval()
        return self

    def forward(self, x):
        return self.norm(self.convolution(x.reshape(-1, 1, 2, 2))).mean(1).reshape(-1, 4)


class Vector(nn.Module):
    """BatchNorm over single values, kept in eval mode if so asked."""

    def __init__(self, keeps_eval: bool = False) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self._keeps_eval = keeps_eval

    def train(self, mode=True):
        super().train(mode)
        if self._keeps_eval:
            self.norm.eval()
        return self

    def forward(self, x):
        return self.norm(self.linear(x))


class HasNoBatch:
    def __len__(self):
        return 5


class Gives:
    """A split whose batches are what `make` returns for the indices."""

    def __init__(self, make, length=5):
        self._make, self._length = make, length

    def __len__(self):
        return self._length

    def batch(self, indices):
        return self._make(indices)


def _fails(indices):
    raise KeyError("episode_7")


class BadData(Noise):
    """Noise whose part `part` is `kind`."""

    def __init__(self, part: str, kind: str) -> None:
        super().__init__()
        whole = self.train
        kinds = {
            "a list": lambda: [1, 2, 3],
            "without batches": HasNoBatch,
            "empty": lambda: TensorSplit({"x": torch.zeros(0, 4), "y": torch.zeros(0, 4)}),
            "ragged": lambda: TensorSplit({"x": torch.zeros(5, 4), "y": torch.zeros(3, 4)}),
            "without tensors": lambda: TensorSplit({}),
            "of lists": lambda: TensorSplit({"x": [[0.0] * 4]}),
            "gives a tuple": lambda: Gives(lambda indices: (torch.zeros(2, 4), torch.zeros(2, 4))),
            "gives lists": lambda: Gives(lambda indices: {"x": torch.zeros(len(indices), 4), "y": [0, 1]}),
            "gives too much": lambda: Gives(lambda indices: {"x": torch.zeros(7, 4), "y": torch.zeros(7, 4)}),
            "gives a number": lambda: Gives(lambda indices: {**whole.batch(indices), "scale": torch.tensor(2.0)}),
            "gives other data": lambda: Gives(
                lambda indices: {"x": torch.zeros(len(indices), 3), "y": torch.zeros(2, 4)}
            ),
            "fails": lambda: Gives(_fails),
        }
        if kind == "not there":
            delattr(self, part)
        else:
            setattr(self, part, kinds[kind]())


class ManyLosses(Regression):
    """Returns something else than an outcome of numbers."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def losses(self, components, batch):
        outcome = super().losses(components, batch)
        error = outcome.losses["squared"]
        return {
            "a vector": Outcome({"squared": error.repeat(3)}),
            "a tuple": (error, {}),
            "nothing": Outcome({}),
            "a text": Outcome({"squared": error}, {"name": "good"}),
        }[self._kind]
