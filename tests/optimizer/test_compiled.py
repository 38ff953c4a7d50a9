"""torch.compile of the step: no new trace while the schedule runs; and CUDA graphs, which are refused."""

import pytest
import torch
from conftest import NO_TORCH_COMPILE
from sample_naive import Naive
from torch import nn
from torch._dynamo.utils import counters

from optimizer import OPTIMIZER_BUILDER_REGISTRY, SCHEDULE_REGISTRY, StepOptions, scheduled

pytestmark = pytest.mark.filterwarnings("ignore")  # of the compiler's
UPDATES = 20


def layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def traced(module, optimizer):
    """Return the number of graphs after each update of a compiled step."""
    torch._dynamo.reset()
    counters.clear()
    step = torch.compile(lambda: optimizer.step(), backend="eager")
    graphs = []
    for update in range(UPDATES):
        backward(module, update)
        step()
        graphs.append(counters["stats"]["unique_graphs"])
    return graphs


def backward(module, update):
    module.zero_grad()
    module(torch.randn(8, 4, generator=torch.Generator().manual_seed(update))).square().mean().backward()


SCHEDULE = SCHEDULE_REGISTRY["cosine"](num_training_steps=UPDATES)
CLASSES = [
    (torch.optim.AdamW, {"foreach": False}),
    (torch.optim.AdamW, {"fused": True}),
    (torch.optim.SGD, {"momentum": 0.9, "foreach": True}),
]


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize(("cls", "options"), CLASSES)
def test_a_compiled_step_is_traced_as_often_as_the_bare_class(cls, options, clip):
    module, twin, peer = layers(), layers(), layers()
    optimizer = scheduled(cls)(module.parameters(), lr=torch.tensor(0.05), **options).embed(SCHEDULE, StepOptions(clip))
    eager = scheduled(cls)(twin.parameters(), lr=0.05, **options).embed(SCHEDULE, StepOptions(clip))
    bare = traced(peer, cls(peer.parameters(), lr=torch.tensor(0.05), **options))
    graphs = traced(module, optimizer)
    assert [count - graphs[0] for count in graphs] == [count - bare[0] for count in bare]
    for update in range(UPDATES):
        backward(twin, update)
        eager.step()
    assert optimizer.scheduler.last_epoch == UPDATES
    if clip:
        torch.testing.assert_close(optimizer.grad_norm, eager.grad_norm)
    torch.testing.assert_close(list(module.parameters()), list(twin.parameters()))


@pytest.mark.parametrize(("cls", "options"), CLASSES)
def test_at_an_lr_that_is_a_plain_number_it_is_traced_no_more_after_the_second_update(cls, options):
    module = layers()
    graphs = traced(module, scheduled(cls)(module.parameters(), lr=0.05, **options).embed(SCHEDULE))
    assert graphs[2:] == [graphs[1]] * (UPDATES - 2)


def test_the_naive_pattern_is_traced_again():
    module = layers()
    graphs = traced(module, Naive(module.parameters(), updates=UPDATES))
    assert graphs[-1] > graphs[0]


def test_a_tensor_lr_is_the_groups_own():
    lr, late = torch.tensor(0.5), nn.Parameter(torch.ones(2))
    first, second = (scheduled(torch.optim.SGD)(layers().parameters(), lr=lr).embed(SCHEDULE) for _ in range(2))
    for _ in range(5):
        first.step()
    first.add_param_group({"params": [late]})
    assert lr == 0.5
    assert second.param_groups[0]["lr"] == 0.5
    assert [float(group["lr"]) for group in first.param_groups] == pytest.approx([0.5 * SCHEDULE.lr_at(5)] * 2)


def test_a_state_with_a_tensor_lr_goes_on():
    module = layers()
    cls = scheduled(torch.optim.SGD)
    first, second = (cls(module.parameters(), lr=torch.tensor(0.05)).embed(SCHEDULE) for _ in range(2))
    for _ in range(3):
        first.step()
    state = first.state_dict()
    second.load_state_dict({"state": state["state"], "param_groups": state["param_groups"]})
    assert second.scheduler.last_epoch == 3
    assert second.param_groups[0]["lr"] == torch.tensor(0.05 * SCHEDULE.lr_at(3))


def test_the_capture_of_a_step_in_a_cuda_graph_is_refused_with_the_reason(monkeypatch):
    module = layers()
    optimizer = OPTIMIZER_BUILDER_REGISTRY["adamw"](lr=0.05).build(module)
    before = [p.detach().clone() for p in module.parameters()]
    backward(module, 0)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="replay would update the parameters and not move the schedule"):
        optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(module.parameters(), before, strict=True))
    assert optimizer.scheduler.last_epoch == 0


@NO_TORCH_COMPILE
@pytest.mark.parametrize("caution", [True, False])
def test_a_step_that_a_kernel_takes_can_be_compiled(caution):
    torch._dynamo.reset()
    trained = []
    for compiled in (True, False):
        module = layers()
        factory = OPTIMIZER_BUILDER_REGISTRY["adamw"](lr=0.05, use_cautious_optimizer=caution)
        optimizer = factory.build(module)
        assert optimizer.kernel is not None
        step = torch.compile(optimizer.step) if compiled else optimizer.step
        for update in range(4):
            backward(module, update)
            step()
        assert optimizer.scheduler.last_epoch == 4
        trained.append(list(module.parameters()))
    torch.testing.assert_close(*trained)
