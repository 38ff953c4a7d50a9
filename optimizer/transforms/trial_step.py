"""A trial step of an optimizer class on one small parameter, to see what the class does."""

import warnings
from collections.abc import Mapping

import torch
from torch import nn
from torch.optim import Optimizer

from ..types import ParamGroup, SwitchesWeights
from .composite_optimizer import owner_of, step_without_hooks


def class_of(optimizer: Optimizer, group: ParamGroup) -> type[Optimizer]:
    """Return the class that updates `group`, without the schedule that is mixed in."""
    mro = type(owner_of(optimizer, group)).__mro__
    return next(base for base in mro if not hasattr(base, "step_options"))  # the mixin has them


def trial_step(cls: type[Optimizer], small: nn.Parameter, options: Mapping[str, object]) -> Optimizer:
    """Return an optimizer over `small` after one step, without warnings, hooks or changed random numbers.

    Args:
        cls: a class of any library.
        small: gets a gradient of ones.
        options: keyword arguments of the class.

    Raises:
        Exception: any error of the class.
    """
    small.grad = torch.ones_like(small)
    with warnings.catch_warnings(), torch.random.fork_rng([]), torch.compiler.set_stance("force_eager"):
        warnings.simplefilter("ignore")
        optimizer = cls([small], **options)  # type: ignore[arg-type]  # the options are those of the class
        if isinstance(optimizer, SwitchesWeights):
            optimizer.train()
        step_without_hooks(optimizer)
    return optimizer
