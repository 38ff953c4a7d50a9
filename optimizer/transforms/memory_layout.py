"""Tensors as memory: torch's fused kernels and ours address elements by memory, not by index."""

import torch
from torch import Tensor, empty_like, nn
from torch.optim import Optimizer

from ..types import ParamGroup

PLAIN = (Tensor, nn.Parameter)
"""Types whose elements are at their address; those of a subclass may be anywhere."""


def is_dense(tensor: Tensor) -> bool:
    """Return whether the elements are stored without gap or overlap."""
    step = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride != step:
            return False
        step *= size
    return True


def layout_problem(tensor: Tensor) -> str | None:
    """Return why memory at the address of `tensor` does not hold its elements one by one, or None if it does."""
    if type(tensor) not in PLAIN or tensor.layout != torch.strided:
        return f"is a {type(tensor).__name__} of layout {tensor.layout}"
    if tensor.is_neg() or tensor.is_conj():
        return "is a negated or conjugate view"
    return "is a tensor of zeros without memory" if tensor._is_zerotensor() else None


def extent_bytes(tensor: Tensor) -> int:
    """Return how many bytes lie between the first element and the end of the last one."""
    if not tensor.numel():
        return 0
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.element_size()


def parameter_labels(group: ParamGroup) -> list[str]:
    """Return a label for each parameter of a group, for messages: its name, where the group has one for each.

    Parameters that were taken out of a group later have left their names there.
    """
    names, count = group.get("param_names", ()), len(group["params"])
    return [f"parameter {name!r}" for name in names] if len(names) == count else ["a parameter"] * count


def check_memory(tensor: Tensor, what: str) -> None:
    """Check that `tensor` is within its memory, which may have been freed or made smaller.

    Args:
        tensor: of any kind; one without plain memory passes.
        what: the tensor's name in the message.

    Raises:
        RuntimeError: It reaches beyond its memory.
    """
    if type(tensor) not in PLAIN or tensor.layout != torch.strided or tensor.is_meta or tensor._is_zerotensor():
        return  # it has no memory of this kind
    needed = tensor.storage_offset() * tensor.element_size() + extent_bytes(tensor)
    if tensor.numel() and needed > tensor.untyped_storage().nbytes():
        raise RuntimeError(
            f"{what} of shape {list(tensor.shape)}: needs {needed} bytes of memory, and there are"
            f" {tensor.untyped_storage().nbytes()}: its storage was freed or resized. Nothing was updated."
        )


def with_strides_of(p: Tensor, tensor: Tensor) -> Tensor:
    """Return `tensor` itself if it has the strides of `p`, else a copy with these strides, in the type of `tensor`."""
    return tensor if has_strides_of(p, tensor) else empty_like(p, dtype=tensor.dtype).copy_(tensor)


def has_strides_of(p: Tensor, tensor: Tensor) -> bool:
    """Return whether `tensor`, of the shape of `p`, stores its elements in the same order."""
    return tensor.stride() == p.stride() and not tensor.is_neg()  # the memory of a negated view has other signs


def match_strides(optimizer: Optimizer) -> None:
    """Give the gradients and the state of `optimizer`'s fused groups the strides of their parameters.

    Autograd's gradients have these strides already; gradients that are set by hand, and the state of an unfused step,
    may not. A group with plain parameters or gradients that no fused step can read becomes unfused.
    """
    for group in optimizer.param_groups:
        plain = [p for p in group["params"] if type(p) in PLAIN] if group.get("fused") else []
        if any(
            layout_problem(p) or not is_dense(p) or (type(p.grad) is Tensor and _is_unreadable(p.grad)) for p in plain
        ):
            group["fused"] = False
            continue
        for p in plain:
            if type(p.grad) is Tensor:
                p.grad = with_strides_of(p, p.grad)
                state = optimizer.state.get(p, {})
                for name, value in state.items():
                    if isinstance(value, Tensor) and value.shape == p.shape:
                        state[name] = with_strides_of(p, value)


def _is_unreadable(gradient: Tensor) -> bool:
    return gradient.layout != torch.strided or gradient._is_zerotensor()
