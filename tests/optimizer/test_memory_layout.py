"""Fused and compiled steps of state and gradients that have other strides than their parameters."""

import pytest
import torch
from conftest import NO_COMPILER
from torch import nn

from optimizer import OPTIMIZER_BUILDER_REGISTRY


def stepped(change, key, options):
    """Return where a parameter is after three steps, `change` made after each of the first two."""
    p = nn.Parameter(torch.arange(6.0).reshape(2, 3))
    optimizer = OPTIMIZER_BUILDER_REGISTRY[key](lr=0.01, grad_clip_norm=None, **options).build([p])
    for update in range(3):
        p.grad = torch.tensor([[1.0, -2.0, 3.0], [0.5, 0.25, -1.0]]) * (update + 1)
        if update:
            change(p, optimizer.state[p])
        optimizer.step()
    return p.detach()


def transposed(tensor):
    return tensor.t().contiguous().t()


def one_entry(name):
    def change(p, state):
        state[name] = transposed(state[name])

    return change


def in_place(p, state):
    for name in state.keys() - {"step"}:
        state[name].data = transposed(state[name])


def gradient(p, state):
    p.grad = transposed(p.grad)


@pytest.mark.parametrize(
    ("key", "options", "change"),
    [
        ("adamw", {}, one_entry("exp_avg")),
        ("adamw", {}, one_entry("exp_avg_sq")),
        ("adamw", {}, in_place),
        ("adamw", {}, gradient),
        ("sgd", {"momentum": 0.9}, one_entry("momentum_buffer")),
        ("sgd", {"momentum": 0.9}, in_place),
        ("sgd", {"momentum": 0.9}, gradient),
    ],
)
@pytest.mark.parametrize("implementation", ["fused", pytest.param("compiled", marks=NO_COMPILER)])
def test_a_step_reads_by_index_what_lies_in_another_order(key, options, change, implementation):
    if implementation == "compiled" and key == "sgd":
        options = {**options, "use_cautious_optimizer": True}  # without caution there is none
    options = {**options, "implementation": implementation}
    assert torch.equal(stepped(change, key, options), stepped(lambda p, state: None, key, options))
