"""Tensors that lie in memory as their parameter does: torch's fused kernels go by memory and not by index."""

from typing import Any

from torch import Tensor, empty_like


def is_dense(tensor: Tensor) -> bool:
    """Return whether the elements lie in memory without gap or overlap."""
    step = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride != step:
            return False
        step *= size
    return True


def laid_out_as(p: Tensor, tensor: Tensor) -> Tensor:
    """Return `tensor` as it lies in memory if `p` has the same strides, else a copy that has, of its own type."""
    as_it_is = tensor.stride() == p.stride() and not tensor.is_neg()  # a negated view has other signs in memory
    return tensor if as_it_is else empty_like(p, dtype=tensor.dtype).copy_(tensor)


def lay_out(optimizer: Any) -> None:
    """Lay out the gradients and the state of `optimizer`'s fused groups as their parameters are.

    Autograd's gradients are so already; those that are set by hand, and a state of an unfused step, need not be.
    """
    for group in optimizer.param_groups:
        for p in group["params"] if group.get("fused") else ():
            if type(p.grad) is not Tensor or p.grad.is_sparse:
                continue
            p.grad = laid_out_as(p, p.grad)
            state = optimizer.state.get(p, {})
            for name, value in state.items():
                if isinstance(value, Tensor) and value.shape == p.shape:
                    state[name] = laid_out_as(p, value)
