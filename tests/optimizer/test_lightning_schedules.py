"""LinearWarmupCosineAnnealingLR, against Lightning Bolts' recursion written out."""

import math

import pytest
import torch
from conftest import trace
from pydantic import ValidationError
from torch.optim.lr_scheduler import LRScheduler

from optimizer import OPTIMIZER_BUILDER_REGISTRY, Horizon


class OfBolts(LRScheduler):
    """The rule of pl_bolts.optimizers.lr_scheduler (lightning-bolts 0.7.0), step from step."""

    def __init__(self, optimizer, warmup, longest, start, low):
        self.warmup, self.longest, self.start, self.low = warmup, longest, start, low
        super().__init__(optimizer)

    def get_lr(self):
        (base,), (group,), t = self.base_lrs, self.optimizer.param_groups, self.last_epoch
        if t == 0:
            return [self.start]
        if t < self.warmup:
            return [group["lr"] + (base - self.start) / (self.warmup - 1)]
        if t == self.warmup:
            return [base]
        share = (1 + math.cos(math.pi * (t - self.warmup) / (self.longest - self.warmup))) / (
            1 + math.cos(math.pi * (t - self.warmup - 1) / (self.longest - self.warmup))
        )
        return [share * (group["lr"] - self.low) + self.low]


def built(horizon=None, lr=3e-3, **fields):
    factory = OPTIMIZER_BUILDER_REGISTRY["adamw"](lr=lr, schedule={"type": "LinearWarmupCosineAnnealingLR", **fields})
    return factory.build([torch.nn.Parameter(torch.zeros(2))], horizon=horizon)


@pytest.mark.parametrize(
    ("warmup", "longest", "start", "low"), [(10, 100, 0.0, 1e-6), (40, 299, 1e-4, 1e-5), (1, 50, 1e-4, 0.0)]
)
def test_is_lightning_bolts_curve(warmup, longest, start, low):
    theirs = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))], lr=3e-3)
    scheduler = OfBolts(theirs, warmup, longest, start, low)
    ours = built(warmup_epochs=warmup, max_epochs=longest, warmup_start_lr=start, eta_min=low)
    for _ in range(longest - 1):
        # Their recursion gathers rounding errors; near the low end they are large against the lr.
        assert ours.param_groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-11, abs=1e-14)
        ours.step()
        theirs.step()
        scheduler.step()


def test_by_epochs_as_dynvision_uses_it_and_held_at_its_end():
    lrs = trace(built(Horizon(60, 5), lr=1.0, warmup_epochs=3, max_epochs=10, eta_min=0.1, interval="epoch"), 100)
    assert lrs[:5] == [0.0] * 5
    assert lrs[5:10] == [0.5] * 5
    assert lrs[10:20] == [1.0] * 10
    assert lrs[50:] == pytest.approx([0.1] * 50)


def test_without_warmup_it_starts_at_the_peak():
    assert trace(built(lr=1.0, warmup_epochs=0, max_epochs=4), 6) == pytest.approx(
        [1.0, 0.853553, 0.5, 0.146447, 0, 0], abs=1e-6
    )


@pytest.mark.parametrize(("warmup", "longest"), [(10, 10), (11, 10), (-1, 10), (1, 0)])
def test_lengths_that_do_not_fit_are_refused(warmup, longest):
    with pytest.raises(ValidationError, match=r"warmup_epochs|max_epochs"):
        built(warmup_epochs=warmup, max_epochs=longest)
