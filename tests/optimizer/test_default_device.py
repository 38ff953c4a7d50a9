"""Steps under a default device that is another than that of the parameters."""

import pytest
import torch
from conftest import NO_COMPILER
from torch import nn

from optimizer import OPTIMIZER_BUILDER_REGISTRY, step_together
from optimizer.kernels import native_library

CAUTIOUS = {"use_cautious_optimizer": True}
COMPILED = {"implementation": "compiled"}
KINDS = [
    ("adamw", {}),
    ("sgd", {"momentum": 0.9}),
    ("adamw", CAUTIOUS | {"implementation": "blocks"}),
    ("schedule_free_radam", {"implementation": "blocks"}),
    ("adamw", CAUTIOUS | {"implementation": "single"}),
    pytest.param("adamw", COMPILED, marks=NO_COMPILER),
    pytest.param("adamw", CAUTIOUS | COMPILED, marks=NO_COMPILER),
    pytest.param("sgd", CAUTIOUS | COMPILED | {"momentum": 0.9}, marks=NO_COMPILER),
    pytest.param("schedule_free_radam", COMPILED, marks=NO_COMPILER),
]


def moved(device, step, *kinds):
    """Return the weights and the norms after steps, all of it under `device` as the default device."""
    sizes, weights, optimizers = (3, 40_000), [], []
    for key, options in kinds:
        own = [nn.Parameter(torch.linspace(-1.0, 1.0, size)) for size in sizes]
        with torch.device(device):
            optimizers.append(OPTIMIZER_BUILDER_REGISTRY[key](lr=0.1, grad_clip_norm=0.5, **options).build(own))
            getattr(optimizers[-1], "train", lambda: None)()
        weights += own
    for update in range(7):
        for p in weights:
            p.grad = torch.linspace(-2.0, 3.0 + update, p.numel())
        with torch.device(device):
            step(optimizers)
    return [*weights, *(optimizer.grad_norm for optimizer in optimizers)]


@pytest.mark.parametrize(("key", "options"), KINDS)
def test_a_step_does_not_depend_on_the_default_device(key, options):
    results = [moved(device, lambda some: some[0].step(), (key, options)) for device in ("meta", "cpu")]
    assert all(map(torch.equal, *results))


def test_steps_together_do_not_depend_on_the_default_device():
    results = [moved(device, step_together, *[("adamw", {})] * 4) for device in ("meta", "cpu")]
    assert all(map(torch.equal, *results))


@NO_COMPILER
@pytest.mark.parametrize("step", ["adam", "squares"])
def test_a_library_is_trusted_under_another_default_device(monkeypatch, tmp_path, step):
    monkeypatch.setenv("INNERSTEP_CACHE", str(tmp_path))
    native_library.library.cache_clear()
    with torch.device("meta"):
        native_library.check_step(step, torch.float32, torch.float32)
