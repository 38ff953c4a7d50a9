"""Every optimizer with every schedule: 20 updates, saved, loaded into a new object, 20 more, bit-exactly."""

import io

import pytest
import torch
from test_contract import HORIZON, Looked, options, update
from torch import nn

from optimizer import OPTIMIZER_BUILDER_REGISTRY, SCHEDULE_REGISTRY, FreeScheduleFactory

SCHEDULES = {
    "constant": {},
    "warmup_cosine_decay": {"peak_lr": 1e-3, "start_lr": 1e-5, "warmup_steps": 5},
    "one_cycle": {"max_lr": 1e-3},
    "cosine_decay_with_warmup": {"num_warmup_steps": 5, "num_decay_steps": 25, "peak_lr": 1e-3, "decay_lr": 1e-5},
    "linear": {"num_warmup_steps": 5},
    "cosine": {"num_warmup_steps": 5},
    "cosine_with_restarts": {"num_warmup_steps": 5, "num_cycles": 2},
    "polynomial": {"num_warmup_steps": 5, "power": 2.0},
    "constant_with_warmup": {"num_warmup_steps": 5},
    "piecewise_constant": {"step_rules": "1:10,0.1:20,0.005"},
    "vqbet": {"num_warmup_steps": 5, "num_vqvae_training_steps": 7},
    "diffuser": {"name": "polynomial", "num_warmup_steps": 5},
    "StepLR": {"step_size": 7},
    "MultiStepLR": {"milestones": [5, 25]},
    "ConstantLR": {},
    "LinearLR": {"total_iters": 25},
    "ExponentialLR": {"gamma": 0.9},
    "PolynomialLR": {"total_iters": 30},
    "CosineAnnealingLR": {"T_max": 30},
    "CosineAnnealingWarmRestarts": {"T_0": 6},
    "CyclicLR": {"base_lr": 1e-4, "max_lr": 1e-3, "step_size_up": 5},
}
OPTIMIZERS = sorted(
    key for key, factory in OPTIMIZER_BUILDER_REGISTRY.items() if issubclass(factory, FreeScheduleFactory)
)
MOVES_MOMENTUM = {"one_cycle", "CyclicLR"}
WITHOUT_MOMENTUM = {"adadelta", "adafactor", "adagrad", "asgd", "lbfgs", "rprop"}


def model(key, seed):
    torch.manual_seed(seed)
    if key == "sparseadam":
        return Looked(sparse=True)
    return nn.Linear(4, 2, bias=key != "muon")


def built(factory, module):
    optimizer = factory.build(module, horizon=HORIZON)
    if hasattr(optimizer, "train"):
        optimizer.train()
    return optimizer


def test_every_schedule_is_here():
    assert SCHEDULES.keys() == set(SCHEDULE_REGISTRY)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("key", OPTIMIZERS)
def test_resumes_bit_exactly_or_is_refused_when_built(key, schedule):
    factory = OPTIMIZER_BUILDER_REGISTRY[key](schedule={"type": schedule, **SCHEDULES[schedule]})
    module = model(key, 0)
    if schedule in MOVES_MOMENTUM and (key in WITHOUT_MOMENTUM or key.startswith("schedule_free")):
        with pytest.raises(ValueError, match=r"neither `betas` nor `momentum`|cycle_momentum"):
            built(factory, module)
        return
    optimizer = built(factory, module)
    for step in range(20):
        update(module, optimizer, step)
    saved = io.BytesIO()
    torch.save({"model": module.state_dict(), "optimizer": optimizer.state_dict()}, saved)
    saved.seek(0)
    loaded = torch.load(saved, weights_only=True)
    resumed = model(key, 1)
    resumed.load_state_dict(loaded["model"])
    second = built(factory, resumed)
    second.load_state_dict(loaded["optimizer"])
    for step in range(20, 40):
        update(module, optimizer, step)
        update(resumed, second, step)
    assert options(second) == options(optimizer)
    assert all(torch.equal(p, q) for p, q in zip(module.parameters(), resumed.parameters(), strict=True))
