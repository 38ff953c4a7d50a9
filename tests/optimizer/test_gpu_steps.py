"""Optimizers over parameters on a CUDA device. Without one the tests are skipped with that reason."""

import copy

import pytest
import torch
from sample_optimizers import KEYS, PARAMS, built, registered, trainable, update
from torch import nn

from optimizer import OPTIMIZER_BUILDER_REGISTRY
from optimizer.kernels.registry import implementation_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; there is none here"),
    pytest.mark.filterwarnings("ignore:Learning rate changed between steps:UserWarning"),
]

CAUTIOUS = {"use_cautious_optimizer": True, "implementation": "compiled"}
STEPS = [
    ("adamw", {}),
    ("adamw", {"grad_clip_norm": None}),
    ("adamw", {"implementation": "compiled"}),
    ("adamw", CAUTIOUS),
    ("sgd", CAUTIOUS | {"momentum": 0.9}),
    ("schedule_free_radam", {"silent_sgd_phase": False, "implementation": "blocks"}),
    ("schedule_free_radam", {"silent_sgd_phase": False}),
]


def layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 4)).cuda()


def inputs(number):
    return torch.randn(64, 16, generator=torch.Generator().manual_seed(number)).cuda()


def assert_near(ours, theirs, start):
    """Assert that two models are closer to each other than their steps are long; Muon multiplies in bfloat16."""
    for one, other, before in zip(ours.parameters(), theirs.parameters(), start.parameters(), strict=True):
        moved = (other - before).norm()
        assert moved > 0
        assert (one.cpu() - other).norm() <= 0.03 * moved


@pytest.mark.parametrize("key", KEYS)
def test_a_step_on_a_cuda_device_is_that_of_the_cpu_and_its_state_moves_between_them(key):
    factory = registered(key)(**PARAMS.get(key, {}))
    start = trainable(key).double()
    on_cpu, on_cuda = copy.deepcopy(start), copy.deepcopy(start).cuda()
    cpu_optimizer, cuda_optimizer = built(factory, on_cpu), built(factory, on_cuda)
    for number in range(8):  # for the first six, RAdam may do nothing
        update(on_cpu, cpu_optimizer, number)
        update(on_cuda, cuda_optimizer, number)
    assert_near(on_cuda, on_cpu, start)
    moved_to_cpu, moved_to_cuda = copy.deepcopy(on_cuda).cpu(), copy.deepcopy(on_cpu).cuda()
    for moved, source, twin in ((moved_to_cpu, cuda_optimizer, on_cuda), (moved_to_cuda, cpu_optimizer, on_cpu)):
        optimizer = built(factory, moved)
        optimizer.load_state_dict(copy.deepcopy(source.state_dict()))
        for number in range(8, 12):
            update(moved, optimizer, number)
            update(twin, source, number)
        assert_near(moved, twin.cpu(), start)


@pytest.mark.parametrize(
    ("key", "params", "shown"),
    [
        ("adamw", {}, "fused"),
        ("adagrad", {}, "default"),
        ("adamw", {"use_cautious_optimizer": True}, "compiled"),
        ("sgd", {"use_cautious_optimizer": True, "momentum": 0.9}, "compiled"),
        ("sgd", {"use_cautious_optimizer": True}, "default + reference"),
        ("schedule_free_radam", {}, "compiled"),
        ("schedule_free_radam", {"implementation": "blocks"}, "blocks"),
    ],
)
def test_auto_chooses(key, params, shown):
    assert implementation_of(built(OPTIMIZER_BUILDER_REGISTRY[key](**params), layers())) == shown


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize(("key", "params"), STEPS)
def test_a_step_does_not_wait_for_the_device(key, params):
    module = layers()
    optimizer = built(OPTIMIZER_BUILDER_REGISTRY[key](**params), module)
    for number in range(8):
        module.zero_grad()
        module(inputs(number)).square().mean().backward()
        torch.cuda.set_sync_debug_mode("error" if number > 1 else "default")  # the first ones make state and tables
        try:
            optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert optimizer.scheduler.last_epoch == 8


@pytest.mark.parametrize(("key", "params"), STEPS)
def test_gradients_from_a_graph_are_stepped_on_outside_of_it(key, params):
    module = layers()
    twin = copy.deepcopy(module)
    ours, theirs = (built(OPTIMIZER_BUILDER_REGISTRY[key](**params), net) for net in (module, twin))
    x, side = inputs(0), torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # as PyTorch asks before a capture
        for _ in range(3):
            module.zero_grad()
            module(x).square().mean().backward()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    module.zero_grad()
    with torch.cuda.graph(graph):
        module(x).square().mean().backward()
    for number in range(5):
        x.copy_(inputs(number))
        graph.replay()
        ours.step()
        twin.zero_grad()
        twin(inputs(number)).square().mean().backward()
        theirs.step()
    torch.testing.assert_close(list(module.parameters()), list(twin.parameters()))
    assert ours.scheduler.last_epoch == 5


def test_the_capture_of_a_step_is_refused():
    module = layers()
    optimizer = built(OPTIMIZER_BUILDER_REGISTRY["adamw"](), module)
    module(inputs(0)).square().mean().backward()
    before = [p.detach().clone() for p in module.parameters()]
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        torch.ones((), device="cuda")  # torch warns of an empty graph
        with pytest.raises(RuntimeError, match="replay would update the parameters and not move the schedule"):
            optimizer.step()
    assert all(map(torch.equal, module.parameters(), before))
    assert optimizer.scheduler.last_epoch == 0


@pytest.mark.parametrize(("key", "params"), STEPS)
def test_a_step_that_grad_scaler_skips_moves_nothing(key, params):
    module = layers()
    optimizer = built(OPTIMIZER_BUILDER_REGISTRY[key](**params), module)
    scaler = torch.amp.GradScaler("cuda", init_scale=8.0)
    for overflow in (False, True, False):
        before = [p.detach().clone() for p in module.parameters()]
        optimizer.zero_grad()
        scaler.scale(module(inputs(0)).square().mean()).backward()
        if overflow:
            module[0].weight.grad[0, 0] = torch.inf
        scaler.step(optimizer)
        scaler.update()
        assert all(map(torch.equal, module.parameters(), before)) == overflow
    assert optimizer.scheduler.last_epoch == 2
