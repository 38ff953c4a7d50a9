"""Whether the weight decay of a group is decoupled from the gradient, and how strong it is.

As an L2 penalty, decay is a part of the gradient, g + decay * p, and enters the moments. Decoupled decay shrinks the
parameter itself: p * (1 - lr * decay). Source: Loshchilov and Hutter 2019, arXiv:1711.05101.
"""

from torch.optim import Adafactor, Muon, Optimizer

from ..types import ParamGroup
from .composite_optimizer import owner_of

DECOUPLED_FLAG = "decoupled_weight_decay"
"""The option by which PyTorch's groups state it."""

_FLAGS = (DECOUPLED_FLAG, "weight_decouple")  # the second is pytorch_optimizer's

_DECOUPLED_WITHOUT_FLAG = (Muon, Adafactor)
"""PyTorch's classes with decoupled decay and no flag in their groups. Other classes without a flag have a penalty."""


def l2_penalty(group: ParamGroup) -> float:
    """Return the factor of the L2 penalty in a group of Adam, AdamW or SGD."""
    return 0.0 if group.get(DECOUPLED_FLAG) else float(group["weight_decay"])


def decoupled_decay(group: ParamGroup) -> float:
    """Return the decoupled weight decay, without the lr, in a group of Adam, AdamW or SGD."""
    return float(group["weight_decay"]) if group.get(DECOUPLED_FLAG) else 0.0


def decayed_share(optimizer: Optimizer, group: ParamGroup) -> float:
    """Return the share of the parameters that decoupled weight decay takes off in a step of any class.

    Raises:
        ValueError: as `is_decoupled` does.
    """
    if not is_decoupled(optimizer, group):
        return 0.0
    lr = 1.0 if group.get("fixed_decay") else float(group["lr"])  # pytorch_optimizer's option to leave the lr out
    return lr * float(group["weight_decay"])


def is_decoupled(optimizer: Optimizer, group: ParamGroup) -> bool:
    """Return whether `group` has weight decay and the class decouples it.

    Raises:
        ValueError: if neither the group nor the class states it.
    """
    if not group.get("weight_decay"):
        return False
    for flag in _FLAGS:
        if flag in group:
            return bool(group[flag])
    owner = owner_of(optimizer, group)
    if isinstance(owner, _DECOUPLED_WITHOUT_FLAG):
        return True
    if any(base.__module__.startswith("torch.optim.") for base in type(owner).__mro__ if base is not Optimizer):
        return False
    raise ValueError(
        f"{type(owner).__name__} does not state whether its weight decay is decoupled, which a cautious step must know:"
        " set weight_decay to 0"
    )
