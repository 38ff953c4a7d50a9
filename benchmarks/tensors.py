"""The parameters over which steps are compared."""

import math
from collections.abc import Callable, Sequence

import torch
from measuring import DEVICE, SHORT, Prepared
from torch import Tensor

Step = Callable[[], object]
Shapes = Sequence[tuple[int, ...]]

SIDE = 64 if SHORT else 4096 if DEVICE == "cuda" else 1024
SHAPES: Shapes = [(SIDE, SIDE)] * 24 + [(SIDE,)] * 48
"""25.2 million parameters, on a CUDA device 402.8 million: many times its cache."""
CLIP_NORM = 0.01
"""Below the norm of all gradients, so that each step scales them."""


def elements(shapes: Shapes) -> int:
    """Return the number of elements of tensors of these shapes."""
    return sum(math.prod(shape) for shape in shapes)


def parameters(shapes: Shapes = SHAPES, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Return parameters with gradients. Tensors of a shape share their random numbers, which saves seconds."""
    torch.manual_seed(0)
    numbers = {shape: torch.randn(2, *shape, device=DEVICE) for shape in dict.fromkeys(shapes)}
    made: list[Tensor] = []
    for shape in shapes:
        weight, gradient = numbers[shape]
        made.append(torch.nn.Parameter((weight * 0.02).to(dtype)))
        made[-1].grad = (gradient * 1e-3).to(dtype)
    return made


def with_gradients(held: Sequence[Tensor], step: Step) -> Step:
    """Return `step` with the gradients of `held` put back before each turn, as clipping changes them."""
    gradients = [p.grad for p in held if p.grad is not None]
    kept = [gradient.clone() for gradient in gradients]
    return Prepared(step, lambda: torch._foreach_copy_(gradients, kept))
