"""Components that `innerstep export` can write as a script, and some that it cannot."""

import torch
from torch import nn

from trainer import DATASET_REGISTRY, MODEL_REGISTRY, OBJECTIVE_REGISTRY, DataSet, Objective, Outcome, TensorSplit


@MODEL_REGISTRY.register("export_plain")
class Plain(nn.Module):
    """The base of the components below: (N, T, 3) -> (N, 3, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 6)

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        return self.layer(state[:, -1]).view(-1, 3, 2)


@MODEL_REGISTRY.register("export_blocks")
class Blocks(Plain):
    """Code in blocks: without gradients, in half precision, and out of it again."""

    def forward(self, state):
        with torch.no_grad():
            scale = state.abs().mean(dim=(1, 2), keepdim=True) + torch.tensor([0.5, 1.5, 2.5])
        with torch.autocast("cpu", torch.bfloat16):
            mixed = self.layer(state * scale)
            with torch.autocast("cpu", enabled=False):
                exact = self.layer(state * 2)
        return (mixed.float() + exact)[:, -1].view(-1, 3, 2)


@MODEL_REGISTRY.register("export_random")
class Random(Plain):
    def forward(self, state):
        return super().forward(state) + torch.randn(len(state), 3, 2)


@MODEL_REGISTRY.register("export_recurrent")
class Recurrent(Plain):
    """An LSTM, whose weights have strides and whose steps have states."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = nn.LSTM(3, 3, batch_first=True)

    def forward(self, state):
        return super().forward(self.memory(state)[0])


@MODEL_REGISTRY.register("export_branch")
class Branch(Plain):
    """Its computation depends on the values."""

    def forward(self, state):
        return super().forward(state if state.sum() > 0 else -state)


@MODEL_REGISTRY.register("export_cond")
class Cond(Plain):
    """A branch that torch can write into a graph, with an operator that has code for arguments."""

    def forward(self, state):
        return super().forward(torch.cond(state.sum() > 0, lambda x: x * 1, lambda x: -x, (state,)))


@MODEL_REGISTRY.register("export_odd_types")
class OddTypes(Plain):
    """Tensors of types that are rarely used, and a constant in a block."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.tensor([True, False, True]))
        self.register_buffer("order", torch.tensor([2, 0, 1], dtype=torch.int32))
        self.register_buffer("weights", torch.tensor([0.5, 1.5, 2.5], dtype=torch.bfloat16))
        self.register_buffer("nothing", torch.zeros(0, 3))

    def forward(self, state):
        with torch.autocast("cpu", torch.bfloat16):
            weighted = state * torch.tensor([1.0, 2.0, 3.0])
        picked = weighted[..., self.order.long()] * self.weights.float()
        whole = torch.cat([picked.masked_fill(~self.mask, 0.0), self.nothing.expand(len(state), 0, 3)], dim=1)
        return super().forward(whole)


@MODEL_REGISTRY.register("export_listed")
class Listed(Plain):
    """A part of it is not torch's."""

    def forward(self, state):
        return super().forward(torch.tensor(eval(repr(state.tolist()))))


@MODEL_REGISTRY.register("export_counter")
class Counter(Plain):
    """It remembers how often it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, state):
        self.calls = self.calls + 1
        return super().forward(state) + self.calls


@MODEL_REGISTRY.register("export_unset")
class Unset(Plain):
    """It has a buffer with a NaN, for a value that is not known."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("limits", torch.tensor([1.0, float("nan")]))

    def forward(self, state):
        return super().forward(state) * self.limits[0]


@torch.library.custom_op("innerstep_tests::doubled", mutates_args=())
def doubled(x: torch.Tensor) -> torch.Tensor:
    return x * 2


@doubled.register_fake
def _(x):
    return torch.empty_like(x)


@MODEL_REGISTRY.register("export_custom")
class Custom(Plain):
    """An operator of a library's own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Doubled()

    def forward(self, state):
        return super().forward(self.inner(state))


class Doubled(nn.Module):
    def forward(self, x):
        return doubled(x)


CODE = '"]\'] """\nraise SystemExit("code ran") # \\\r\nraise SystemExit("code ran") #'
"""A name that is code wherever it is written without quotes: in text, in a docstring and in a comment."""


@MODEL_REGISTRY.register("export_odd_names")
class OddNames(Plain):
    """A module, a parameter and a buffer whose names are code."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module(CODE, nn.Linear(3, 3))
        self.register_parameter(f"p{CODE}", nn.Parameter(torch.tensor([1.0, 2.0, 3.0])))
        self.register_buffer(f"b{CODE}", torch.tensor([3.0, 2.0, 1.0]))

    def forward(self, state):
        scaled = state * self._parameters[f"p{CODE}"] + self._buffers[f"b{CODE}"]
        return super().forward(self._modules[CODE](scaled))


@DATASET_REGISTRY.register("export_odd_names")
class OddFeatures(DataSet):
    """Inputs whose names are code, or names of Python's own."""

    def __init__(self) -> None:
        states = torch.linspace(-1.0, 1.0, 96).view(8, 4, 3)
        self.train = TensorSplit({CODE: states, "float": states * 2, "\u00b2": states + 1})
        self.held_out = None


@OBJECTIVE_REGISTRY.register("export_odd_names")
class OddObjective(Objective):
    """It names its output as its input."""

    def predict(self, components, batch):
        return {CODE: components["net"](batch[CODE] + batch["float"].clamp(max=float("inf")) * batch["\u00b2"])}

    def losses(self, components, batch):
        return Outcome({"size": self.predict(components, batch)[CODE].square().mean()})


@OBJECTIVE_REGISTRY.register("export_nothing")
class Nothing(Objective):
    """An objective that has no prediction to export."""

    def losses(self, components, batch):
        return Outcome({"size": components["net"](batch["observation.state"]).square().mean()})


def head_config(policy_config, run_dir, key, objective="behaviour_cloning"):
    """Return the config of a run whose only component is `key`, on the demonstrations."""
    wiring = {"wiring": ["actions = net(observation.state)"]} if objective == "behaviour_cloning" else {}
    made = policy_config(run_dir, wiring, {"net": {"type": key}}, objective)
    return {**made, "plugins": [*made["plugins"], "sample_exports"], "train": {**made["train"], "total_steps": 2}}
