"""Every optimizer with every schedule: 20 updates, saved, loaded into a new object, 20 more, bit-exactly."""

import io

import pytest
import torch
from conftest import needs
from sample_optimizers import built, options, trainable, update
from sample_schedules import SCHEDULES

from optimizer import OPTIMIZER_BUILDER_REGISTRY, SCHEDULE_REGISTRY, FreeScheduleFactory

BUILT_IN = sorted(
    key for key, factory in OPTIMIZER_BUILDER_REGISTRY.items() if issubclass(factory, FreeScheduleFactory)
)
OPTIMIZERS = [*BUILT_IN, pytest.param("pytorch_optimizer.Lion", marks=needs("pytorch_optimizer"))]
FASTER = {"lbfgs": {"max_iter": 4}}
MOVES_MOMENTUM = {"one_cycle", "CyclicLR", "sequence"}
MOMENTUM_OF_ZERO = {"sgd", "rmsprop"}
WITHOUT_MOMENTUM = {"adadelta", "adafactor", "adagrad", "asgd", "lbfgs", "rprop"}


def step_and_report(module, optimizer, step):
    update(module, optimizer, step)
    optimizer.report_metric("val_loss", 1.0 + 0.1 * (step % 5))


def test_every_schedule_is_here():
    assert SCHEDULES.keys() == set(SCHEDULE_REGISTRY)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("key", OPTIMIZERS)
def test_resumes_bit_exactly_or_is_refused_when_built(key, schedule):
    factory = OPTIMIZER_BUILDER_REGISTRY[key](schedule={"type": schedule, **SCHEDULES[schedule]}, **FASTER.get(key, {}))
    module = trainable(key, 0)
    if schedule in MOVES_MOMENTUM and (key in WITHOUT_MOMENTUM or key.startswith("schedule_free")):
        with pytest.raises(ValueError, match=r"neither `betas` nor `momentum`|cycle_momentum"):
            built(factory, module)
        return
    if schedule == "sequence" and key in MOMENTUM_OF_ZERO:
        with pytest.raises(ValueError, match="own momentum is 0"):
            built(factory, module)
        factory = factory.replaced(momentum=0.9)
    optimizer = built(factory, module)
    for step in range(20):
        step_and_report(module, optimizer, step)
    saved = io.BytesIO()
    torch.save({"model": module.state_dict(), "optimizer": optimizer.state_dict()}, saved)
    saved.seek(0)
    loaded = torch.load(saved, weights_only=True)
    resumed = trainable(key, 1)
    resumed.load_state_dict(loaded["model"])
    second = built(factory, resumed)
    second.load_state_dict(loaded["optimizer"])
    for step in range(20, 40):
        step_and_report(module, optimizer, step)
        step_and_report(resumed, second, step)
    assert options(second) == options(optimizer)
    assert all(torch.equal(p, q) for p, q in zip(module.parameters(), resumed.parameters(), strict=True))
