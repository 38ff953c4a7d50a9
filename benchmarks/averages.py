"""The cost of a moving average beside the step that it follows: ours, torch's `AveragedModel`, and a plain loop.

Each contender is a model of its own with the same AdamW and its average. Medians of interleaved rounds in one process;
the ratios are to the step without an average. `python benchmarks/averages.py`, on a CUDA device if there is one.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from measuring import DEVICE, machine, medians, table
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from optimizer import OPTIMIZER_BUILDER_REGISTRY
from trainer.config.averages import EmaConfig
from trainer.loop.weight_ema import WeightEma

SIDE = 4096 if DEVICE == "cuda" else 1024
MODELS: dict[str, list[tuple[int, ...]]] = {
    "24 matrices and 48 vectors": [(SIDE, SIDE)] * 24 + [(SIDE,)] * 48,
    "1,000 vectors of 64 elements": [(64,)] * 1000,
}
"""Shapes of the parameters: 25.2 million of them first, on a CUDA device 402.8 million."""
DECAY = 0.9999
ROUNDS, CALLS = 15, 10 if DEVICE == "cuda" else 2
STEP = "AdamW alone"

Call = Callable[[], object]


class Parameters(nn.Module):
    """A model that is nothing but parameters, with gradients."""

    def __init__(self, shapes: Sequence[tuple[int, ...]]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.held = nn.ParameterList([torch.randn(shape, device=DEVICE) * 0.02 for shape in shapes])
        for parameter in self.held:
            parameter.grad = torch.randn_like(parameter) * 1e-3


def stepped(model: nn.Module, average: Call) -> Call:
    """Return a step of AdamW over `model` with `average` after it."""
    factory: Any = OPTIMIZER_BUILDER_REGISTRY["adamw"]
    step = factory(lr=1e-3, grad_clip_norm=None).build(model).step

    def both() -> None:
        step()
        average()

    return both


def ours(model: nn.Module) -> Call:
    """Return a move of the average of `train.ema`."""
    return WeightEma(model, EmaConfig(decay=DECAY)).follow


def averaged_model(model: nn.Module) -> Call:
    """Return an update of torch's AveragedModel by its foreach function."""
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(DECAY))  # type: ignore[no-untyped-call]  # torch
    return lambda: averaged.update_parameters(model)


def plain_loop(model: nn.Module) -> Call:
    """Return a loop with one `lerp_` a parameter."""
    averages = [parameter.detach().clone() for parameter in model.parameters()]

    @torch.no_grad()
    def move() -> None:
        for average, parameter in zip(averages, model.parameters(), strict=True):
            average.lerp_(parameter, 1 - DECAY)

    return move


def measured(shapes: Sequence[tuple[int, ...]]) -> str:
    """Return a table of medians for a model of these shapes."""
    averages = {
        f"{STEP}, then `train.ema`": ours,
        f"{STEP}, then torch AveragedModel, foreach": averaged_model,
        f"{STEP}, then a loop over `lerp_`": plain_loop,
    }
    contenders = {STEP: stepped(Parameters(shapes), lambda: None)}
    for name, average in averages.items():
        model = Parameters(shapes)
        contenders[name] = stepped(model, average(model))
    return table(medians(contenders, ROUNDS, CALLS), STEP, "us")


if __name__ == "__main__":
    print(machine())
    for title, shapes in MODELS.items():
        print(f"\n{title}\n\n{measured(shapes)}", flush=True)
