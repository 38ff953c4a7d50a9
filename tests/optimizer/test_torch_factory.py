"""`torch_factory` over a custom class, and durations in a custom schedule."""

import pickle

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from optimizer import Horizon, PositiveDuration, RunLength, Schedule, check_factory, torch_factory


class Unchecked(torch.optim.Optimizer):
    """Gradient descent that checks none of its options.

    This line is not part of a summary.
    """

    def __init__(self, params, lr: float = 0.1, decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "decay": decay})

    @torch.no_grad()
    def step(self, closure=None):
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.mul_(1 - group["decay"]).sub_(p.grad, alpha=group["lr"])
        return loss if closure is not None else None


UncheckedFactory = torch_factory("unchecked", Unchecked)


def test_a_factory_of_a_custom_class_passes_all_checks():
    check_factory(UncheckedFactory(lr=0.05, schedule={"type": "warmup_cosine_decay", "peak_lr": 0.05}))


def test_it_is_pickled_from_the_module_that_made_it():
    factory = UncheckedFactory(lr=0.3)
    assert UncheckedFactory.__module__ == __name__
    assert pickle.loads(pickle.dumps(factory)) == factory


def test_it_is_described_by_the_class():
    assert UncheckedFactory.__doc__ == "Gradient descent that checks none of its options."
    assert UncheckedFactory.model_fields["decay"].description == "See Unchecked."
    assert torch_factory("other", torch.optim.SGD).__doc__ == "torch.optim.SGD."


def test_a_negative_lr_is_refused_where_the_class_does_not_check_it():
    with pytest.raises(ValidationError, match=r"lr\n.*must be at least 0; got -1.0"):
        UncheckedFactory(lr=-1)
    assert UncheckedFactory(lr=0).build(nn.Linear(2, 1)).param_groups[0]["lr"] == 0


def test_a_key_of_torchs_does_not_fuse_a_custom_class():
    assert not torch_factory("adamw", Unchecked).fused_by_default


def test_only_named_options_are_fields():
    class Open(Unchecked):
        def __init__(self, weights, lr: float = 0.1, **options) -> None:
            super().__init__(weights, lr, **options)

    factory = torch_factory("open", Open)
    assert {"weights", "options"}.isdisjoint(factory.model_fields)
    assert factory(lr=0.2).build(nn.Linear(2, 1)).param_groups[0]["lr"] == 0.2


class Steps(Schedule):
    """1, 1/2, 1/3, …"""

    absolute = False
    length_field = "total_steps"

    every: PositiveDuration = 10
    total_steps: RunLength = None

    def lr_at(self, step: int) -> float:
        return 1 / (1 + min(step, self.total_steps) // self.every)


@pytest.mark.parametrize(("every", "updates"), [("5%", 10), ("2ep", 40), (7, 7)])
def test_a_custom_schedule_has_durations(every, updates):
    resolved = Steps(every=every).resolved(Horizon(200, 20))
    assert (resolved.every, resolved.total_steps) == (updates, 200)
    assert resolved.lr_at(updates) == 0.5


@pytest.mark.parametrize("every", ["0", "101%", "ten", 0])
def test_an_impossible_duration_is_refused(every):
    with pytest.raises(ValidationError, match="every"):
        Steps(every=every)
