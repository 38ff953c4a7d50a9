"""The steps of torch's classes, taken without torch's wrapper, which would import the compiler."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from optimizer import scheduled
from optimizer.schedules.basic import Constant


class Watching(torch.optim.SGD):
    """Notes in each step whether gradients are recorded, and fails if asked to."""

    recorded, fails = None, False

    def _init_group(self, *args):
        self.recorded = torch.is_grad_enabled()
        if self.fails:
            raise ValueError("asked to")
        return super()._init_group(*args)


def watched(**options):
    weight = nn.Parameter(torch.tensor([1.0, -3.0]))
    return weight, scheduled(Watching)([weight], lr=0.25, **options).embed(Constant())


@pytest.mark.parametrize("outside", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_a_step_records_no_gradients_and_leaves_the_mode_as_it_was(outside, fails):
    weight, optimizer = watched()
    optimizer.fails = fails
    weight.grad = torch.tensor([2.0, 4.0])
    with torch.set_grad_enabled(outside):
        if fails:
            with pytest.raises(ValueError, match="asked to"):
                optimizer.step()
        else:
            optimizer.step()
        assert torch.is_grad_enabled() == outside
    assert optimizer.recorded is False
    assert weight.tolist() == ([1.0, -3.0] if fails else [0.5, -4.0])


def test_a_step_that_is_differentiated_through_records_gradients():
    weight, optimizer = watched(differentiable=True)
    weight.grad = torch.tensor([2.0, 4.0])
    with torch.no_grad(), pytest.raises(RuntimeError, match="in-place"):  # of a leaf, which torch refuses
        optimizer.step()
    assert optimizer.recorded is True


def test_a_closure_of_a_step_records_gradients():
    weight, optimizer = watched()

    def closure():
        weight.grad = None
        loss = (weight * weight).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 10.0
    assert weight.tolist() == [0.5, -1.5]


def test_a_decorator_around_a_step_of_torchs_stays():
    calls = []

    def counted(step):
        def counting(self, closure=None):
            calls.append(self)
            return step(self, closure)

        counting.__wrapped__ = step
        return counting

    counting = type("Counting", (torch.optim.SGD,), {"step": counted(torch.optim.SGD.step)})
    weight = nn.Parameter(torch.ones(2))
    optimizer = scheduled(counting)([weight], lr=0.5).embed(Constant())
    weight.grad = torch.ones(2)
    optimizer.step()
    assert len(calls) == 1
    assert weight.tolist() == [0.5, 0.5]


LOOP = """
import sys, torch
from optimizer import OPTIMIZER_BUILDER_REGISTRY

weight = torch.nn.Parameter(torch.ones(2))
for key in ("rmsprop", "adamw"):
    optimizer = OPTIMIZER_BUILDER_REGISTRY[key](lr=0.5).build([weight])
    for _ in range(2):
        (weight * weight).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        assert weight.grad is None
    (weight * weight).sum().backward()
    optimizer.zero_grad(set_to_none=False)
    assert weight.grad.tolist() == [0, 0]
    optimizer.state_dict()
    assert "torch._dynamo" not in sys.modules, key
"""


def test_a_loop_as_users_write_it_imports_no_compiler():
    subprocess.run([sys.executable, "-c", LOOP], check=True)
