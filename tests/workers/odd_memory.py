"""Takes steps with tensors that are not plain memory, and writes what came of each: run by test_odd_memory.py.

Arguments: the implementation, whether steps are cautious, the file to write.
"""

import json
import sys
from pathlib import Path

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map

from optimizer import OPTIMIZER_BUILDER_REGISTRY

IMPLEMENTATION, CAUTIOUS = sys.argv[1], sys.argv[2] == "cautious"
N = 50_001


class Wrapper(torch.Tensor):
    """Has its elements in another tensor."""

    @staticmethod
    def __new__(cls, inner):
        made = torch.Tensor._make_wrapper_subclass(cls, inner.size(), strides=inner.stride(), dtype=inner.dtype)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        args, kwargs = tree_map(lambda x: x.inner if isinstance(x, Wrapper) else x, (args, kwargs or {}))
        return function(*args, **kwargs)


def built(parameters):
    factory = OPTIMIZER_BUILDER_REGISTRY["adamw"](
        lr=0.01, weight_decay=0.0, grad_clip_norm=None, implementation=IMPLEMENTATION, use_cautious_optimizer=CAUTIOUS
    )
    return factory.build(parameters)


def stepped(shape=(N,)):
    """Return a parameter and its optimizer after a step, and another group before it, that must not move in vain."""
    first, p = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(shape))
    optimizer = built([{"params": [first]}, {"params": [p]}])
    first.grad, p.grad = torch.ones(3), torch.ones(shape)
    optimizer.step()
    return first, p, optimizer


def moment_of_another_shape(p, optimizer):
    for name in ("exp_avg", "exp_avg_sq"):
        optimizer.state[p][name] = torch.zeros(399).as_strided((200, 200), (1, 1))


def loaded_moment_of_another_shape(p, optimizer):
    saved = optimizer.state_dict()
    for name in ("exp_avg", "exp_avg_sq"):
        saved["state"][1][name] = torch.zeros(399).as_strided((200, 200), (1, 1))
    optimizer.load_state_dict(saved)


def freed(name):
    def change(p, optimizer):
        {"parameter": p, "gradient": p.grad, "moment": optimizer.state[p]["exp_avg"]}[name].untyped_storage().resize_(0)

    return change


def shrunk(name):
    def change(p, optimizer):
        tensor = {"parameter": p, "gradient": p.grad, "moment": optimizer.state[p]["exp_avg_sq"]}[name]
        tensor.untyped_storage().resize_(64)
        if name != "parameter":
            tensor.untyped_storage().resize_(32)  # which may give it its first address again

    return change


def zero_gradient(p, optimizer):
    p.grad = torch._efficientzerotensor(p.shape)


def negated_gradient(p, optimizer):
    p.grad = torch._neg_view(-torch.ones_like(p))


def negated_parameter(p, optimizer):
    p.data = torch._neg_view(-p.detach())


def wrapped_gradient(p, optimizer):
    p.grad = Wrapper(torch.ones_like(p).detach())


def wrapped_moment(p, optimizer):
    optimizer.state[p]["exp_avg"] = Wrapper(optimizer.state[p]["exp_avg"])


def fake_gradient(p, optimizer):
    with FakeTensorMode():
        gradient = torch.ones(p.shape)
    p.grad = gradient


def moment_of_another_type(p, optimizer):
    optimizer.state[p]["exp_avg"] = optimizer.state[p]["exp_avg"].double()


def lost_moment(p, optimizer):
    del optimizer.state[p]["exp_avg_sq"]


def larger_parameter(p, optimizer):
    p.data = torch.ones(p.numel() * 4)


def parameter_with_gaps(p, optimizer):
    p.data = torch.ones(2 * N)[::2]
    p.grad = torch.ones(2 * N)[::2]


CASES = {
    "moment of another shape": (moment_of_another_shape, (40_000, 1)),
    "loaded moment of another shape": (loaded_moment_of_another_shape, (40_000, 1)),
    **{f"freed {name}": (freed(name), (N,)) for name in ("parameter", "gradient", "moment")},
    **{f"shrunk {name}": (shrunk(name), (N,)) for name in ("parameter", "gradient", "moment")},
    "zero gradient": (zero_gradient, (N,)),
    "negated gradient": (negated_gradient, (N,)),
    "negated parameter": (negated_parameter, (N,)),
    "wrapped gradient": (wrapped_gradient, (N,)),
    "wrapped moment": (wrapped_moment, (N,)),
    "fake gradient": (fake_gradient, (N,)),
    "moment of another type": (moment_of_another_type, (N,)),
    "lost moment": (lost_moment, (N,)),
    "larger parameter": (larger_parameter, (N,)),
    "parameter with gaps": (parameter_with_gaps, (N,)),
}


def report(change, shape):
    """Return the error, if there was one, whether the group before moved, and where the parameter is."""
    first, p, optimizer = stepped(shape)
    before = first.detach().clone()
    try:
        change(p, optimizer)
        optimizer.step()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}", "moved": not torch.equal(first, before)}
    return {"at": p.detach().flatten()[0].item(), "moved": not torch.equal(first, before)}


reports = {}
for case, (change, shape) in CASES.items():
    sys.stdout.write(f"{case}\n")  # the last line names the case in which the process ended
    sys.stdout.flush()
    reports[case] = report(change, shape)
    Path(sys.argv[3]).write_text(json.dumps(reports))
