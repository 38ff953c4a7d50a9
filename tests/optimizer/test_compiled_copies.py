"""Compiled optimizers that are copied, pickled, forked or stepped by several threads: their steps are right."""

import copy
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import pytest
import torch
from conftest import NO_COMPILER, ROOT
from torch import nn

from optimizer import OPTIMIZER_BUILDER_REGISTRY
from optimizer.kernels import compiled, native_library

pytestmark = NO_COMPILER


def made(size=90_001, *, cautious=False, seed=0):
    torch.manual_seed(seed)
    parameters = [nn.Parameter(torch.randn(size)), nn.Parameter(torch.randn(3, 5))]
    factory = OPTIMIZER_BUILDER_REGISTRY["adamw"](
        implementation="compiled", lr=0.01, grad_clip_norm=None, use_cautious_optimizer=cautious
    )
    return factory.build([{"params": [p]} for p in parameters])


def steps(optimizer, count=3):
    for _ in range(count):
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = (p.detach() * 3).cos()
        optimizer.step()
    return [p.detach().clone() for group in optimizer.param_groups for p in group["params"]]


@pytest.mark.parametrize("cautious", [False, True])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda optimizer: pickle.loads(pickle.dumps(optimizer))])
def test_a_copy_steps_as_the_original(copied, cautious):
    optimizer = made(cautious=cautious)
    steps(optimizer)
    other = copied(optimizer)
    assert other.kernel is optimizer.kernel
    for one, two in zip(steps(optimizer), steps(other), strict=True):
        assert torch.equal(one, two)


def test_a_copy_without_a_compiler_is_stepped_by_the_class(monkeypatch):
    optimizer = made()
    steps(optimizer)
    packed = pickle.dumps(optimizer)
    expected = steps(optimizer)
    native_library.library.cache_clear()
    monkeypatch.setattr(compiled, "FAILURES", {})
    monkeypatch.setenv("CC", "/missing/cc")
    other = pickle.loads(packed)
    for one, two in zip(steps(other), expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)
    native_library.library.cache_clear()


def test_an_error_in_the_second_group_moves_nothing():
    optimizer = made()
    before = steps(optimizer)
    late = optimizer.param_groups[1]["params"][0]
    optimizer.state[late]["exp_avg"] = optimizer.state[late]["exp_avg"].double()
    with pytest.raises(TypeError, match="differ in type"):
        steps(optimizer, 1)
    for p, value in zip([group["params"][0] for group in optimizer.param_groups], before, strict=True):
        assert torch.equal(p, value)


def test_several_threads_that_step_at_once_step_as_one_after_another():
    expected = [steps(made(seed=seed, cautious=bool(seed % 2)), 10) for seed in range(4)]
    native_library.library.cache_clear()  # so that they also load at once
    optimizers = [made(seed=seed, cautious=bool(seed % 2)) for seed in range(4)]
    native_library.library.cache_clear()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda optimizer: steps(optimizer, 10), optimizers))
    for one, two in zip(chain(*found), chain(*expected), strict=True):
        assert torch.equal(one, two)


FORKED = """
import os, time
import numpy as np
import torch
from optimizer import OPTIMIZER_BUILDER_REGISTRY
p = torch.nn.Parameter(torch.from_numpy(np.ones(200_000, "f4")))  # made by one thread
optimizer = OPTIMIZER_BUILDER_REGISTRY["adamw"](implementation="compiled", lr=0.01, grad_clip_norm=None).build([p])
child = os.fork()
if child == 0:
    p.grad = torch.from_numpy(np.ones(200_000, "f4"))
    optimizer.step()
    os._exit(0 if p[0] == p[199_999] and p[0] < 0.995 else 3)
for _ in range(200):
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
        print("child", status)
        break
    time.sleep(0.1)
else:
    os.kill(child, 9)
    print("child hangs")
"""

THREADS = """
import os
import torch
from optimizer import OPTIMIZER_BUILDER_REGISTRY
torch.ones(10**6).add_(1)
optimizers = []
for size in (1000, 40_000, 70_000, 90_000):
    p = torch.nn.Parameter(torch.ones(size))
    p.grad = torch.ones(size)
    build = OPTIMIZER_BUILDER_REGISTRY["adamw"](implementation="compiled", grad_clip_norm=None).build
    optimizers.append(build([p]))
before = set(os.listdir("/proc/self/task"))
seen = set()
for _ in range(10):
    for optimizer in optimizers:
        optimizer.step()
        torch.ones(10**6).add_(1)
        seen |= set(os.listdir("/proc/self/task"))
print("new threads", len(seen - before))
"""


def printed(script, **environment):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    return done.stdout.strip() or done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_that_is_forked_after_the_build_can_step():
    """The trial of a library starts OpenMP's threads: a fork of the thread that had them would wait for them."""
    assert printed(FORKED, OMP_NUM_THREADS="2") == "child 0"


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs Linux to list threads")
def test_steps_of_different_sizes_start_no_new_threads():
    assert printed(THREADS, OMP_NUM_THREADS="4") == "new threads 0"


STEPPED = """
import torch
from optimizer import OPTIMIZER_BUILDER_REGISTRY
for cautious in (False, True):
    p = torch.nn.Parameter(torch.linspace(-1, 1, 300_000))
    factory = OPTIMIZER_BUILDER_REGISTRY["adamw"](
        implementation="compiled", grad_clip_norm=None, use_cautious_optimizer=cautious
    )
    optimizer = factory.build([p])
    for _ in range(3):
        p.grad = (p.detach() * 9).cos()
        optimizer.step()
    print(hash(tuple(p.tolist())))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "variables",
    [
        {"OMP_NUM_THREADS": "5"},
        {"OMP_NUM_THREADS": "4", "OMP_THREAD_LIMIT": "2"},
        {"OMP_NUM_THREADS": "4", "OMP_DYNAMIC": "true", "OMP_NESTED": "true"},
        {"OMP_NUM_THREADS": "2", "OMP_PROC_BIND": "true", "OMP_WAIT_POLICY": "passive", "OMP_SCHEDULE": "dynamic,1"},
    ],
)
def test_variables_of_openmp_change_no_bit(variables):
    assert printed(STEPPED, **variables) == printed(STEPPED, OMP_NUM_THREADS="1")
