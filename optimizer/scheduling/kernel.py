"""A kernel: a step that stands in for the step of an optimizer class, to the same effect."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor
from torch.optim import Optimizer

from ..types import ParamGroup

Host = Any
"""A ScheduledOptimizer, which has its kernel as `kernel`; its module imports this one."""


@dataclass(frozen=True, eq=False)
class Kernel:
    """The description of a kernel: one row of `optimizer.kernels.registry`.

    Attributes:
        name: unique; a copied or pickled optimizer finds its kernel by it.
        shown_as: the name of such steps in a plan.
        classes: the optimizer classes whose step it takes, with the subclasses that inherit that step.
        implementations: values of a factory's `implementation` that it is chosen for.
        step: takes a step of an optimizer whose gradients are there, within its step hooks and without autograd.
        unsupported_reason: returns why it cannot take the steps of a group of an optimizer, or None.
        state_names: names of the state entries that have their parameter's shape.
        before: is called before the closure, and raises where no step may be taken.
        cautious: whether it takes cautious steps; if not, it takes those without caution.
        unsupported_state_dtype: returns why it cannot keep moments in the optimizer's `state_dtype`, or None; left out:
            it has no steps for that.
        rounds_stochastically: whether it takes steps with the step option `stochastic_rounding`.
        scales_gradients: whether `step` multiplies gradients with the optimizer's `gradient_scale` as it reads them.
        norms: returns the joint L2 norm of each of several lists of plain tensors on the CPU, all of one type of
            floating point, in one pass, or None; left out: torch's norms are used.
        after_load: is called when a state dict was loaded, which torch casts to the types of the parameters.
        repays: returns whether `auto` chooses it for an optimizer of that size; left out: it does for any.
        next_best: takes the steps from then on if this one no longer can; left out: the class takes them.
    """

    name: str
    shown_as: Literal["compiled", "fused", "blocks"]
    classes: tuple[type[Optimizer], ...]
    implementations: tuple[str, ...]
    step: Callable[[Host], None]
    unsupported_reason: Callable[[Host, ParamGroup], str | None]
    state_names: tuple[str, ...]
    before: Callable[[Host], None] | None = None
    cautious: bool = False
    rounds_stochastically: bool = False
    scales_gradients: bool = False
    norms: Callable[[Sequence[Sequence[Tensor]]], list[float] | None] | None = None
    unsupported_state_dtype: Callable[[Host], str | None] | None = None
    after_load: Callable[[Host], None] | None = None
    repays: Callable[[Host], bool] | None = None
    next_best: "Kernel | None" = None
