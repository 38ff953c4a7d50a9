"""Steps of other libraries, each by the fastest way that it has on a CPU, with the arguments of torch's AdamW.

optimi's is its loop: its foreach steps are slower here, and its Triton kernels need a GPU. torchao's compiles itself.
bitsandbytes has one implementation for CPUs. HeavyBall's compiles itself; its cautious steps end in an error of gcc 12.
"""

import sys
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any
from unittest.mock import MagicMock

import torch
from measuring import SHORT
from tensors import CLIP_NORM, Step, parameters, with_gradients

DISTRIBUTIONS = ("schedulefree", "heavyball", "pytorch_optimizer", "timm", "torch-optimi", "torchao", "bitsandbytes")
"""The libraries whose steps are compared with ours, as a package index names them."""
LOOPS = ("accelerate", "lightning")

OPTIONS: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-2}


def versions() -> dict[str, str | None]:
    """Return the version of each library, None if it is not installed."""
    found: dict[str, str | None] = {}
    for name in (*DISTRIBUTIONS, *LOOPS):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def fused(dtype: torch.dtype = torch.float32) -> Step:
    """Return the step of torch's fused AdamW."""
    return torch.optim.AdamW(parameters(dtype=dtype), **OPTIONS, fused=True).step


def fused_and_clipped() -> Step:
    """Return the step of torch's fused AdamW after torch's clipping."""
    held = parameters()
    optimizer = torch.optim.AdamW(held, **OPTIONS, fused=True)

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(held, CLIP_NORM, foreach=True)
        optimizer.step()

    return with_gradients(held, step)


def two_objects() -> Step:
    """Return a step of torch's AdamW and of a scheduler beside it."""
    optimizer = torch.optim.AdamW(parameters(), **OPTIONS)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: 1.0 / (1 + update))

    def step() -> None:
        optimizer.step()
        scheduler.step()

    return step


def heavyballs(**options: Any) -> Step:
    """Return HeavyBall's AdamW."""
    utils: Any = import_module("heavyball").utils
    mode = None if SHORT or options.get("caution") else utils.compile_mode
    held = parameters()
    gradients = [p.grad for p in held]
    optimizer = import_module("heavyball").AdamW(held, lr=1e-3, **options)

    def step() -> None:
        utils.compile_mode = mode
        for p, gradient in zip(held, gradients, strict=True):
            p.grad = gradient  # it takes them away
        optimizer.step()

    return step


def optimis(dtype: torch.dtype = torch.float32) -> Step:
    """Return optimi's AdamW, which keeps what rounding takes away (Kahan) beside parameters in half precision."""
    step: Step = import_module("optimi").AdamW(parameters(dtype=dtype), **OPTIONS).step
    return step


def torchaos(name: str, dtype: torch.dtype = torch.float32, **options: Any) -> Step:
    """Return the step of an optimizer of torchao."""
    step: Step = getattr(import_module("torchao.optim"), name)(parameters(dtype=dtype), **OPTIONS, **options).step
    return step


def bitsandbytes(name: str) -> Step:
    """Return the step of an optimizer of bitsandbytes."""
    step: Step = getattr(import_module("bitsandbytes.optim"), name)(parameters(), **OPTIONS).step
    return step


def adamp() -> Step:
    """Return pytorch_optimizer's step that can be cautious."""
    step: Step = import_module("pytorch_optimizer").AdamP(parameters(), lr=1e-3, cautious=True).step
    return step


def timm_cautious() -> Step:
    """Return timm's cautious AdamW."""
    step: Step = timms().AdamWLegacy(parameters(), **OPTIONS, caution=True).step
    return step


@cache
def timms() -> Any:
    """Return timm's optimizers. Its package asks for torchvision, of which they use nothing."""
    if find_spec("timm") is not None and find_spec("torchvision") is None:
        for name in ("", ".ops", ".ops.misc", ".transforms", ".transforms.functional", ".datasets", ".models"):
            sys.modules[f"torchvision{name}"] = MagicMock()
    return import_module("timm.optim")


def radam() -> Step:
    """Return schedulefree's own RAdam, beyond the updates in which it does nothing."""
    optimizer = import_module("schedulefree").RAdamScheduleFree(parameters(), lr=1e-3)
    optimizer.train()
    return started(optimizer.step)


def pytorch_optimizers_radam() -> Step:
    """Return pytorch_optimizer's schedule-free RAdam, beyond the same updates."""
    optimizer = import_module("pytorch_optimizer").ScheduleFreeRAdam(parameters(), lr=1e-3)
    optimizer.train()
    return started(optimizer.step)


def started(step: Step) -> Step:
    """Return `step` after six of it, in which RAdam does nothing."""
    for _ in range(6):
        step()
    return step
