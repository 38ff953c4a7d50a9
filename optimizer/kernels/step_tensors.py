"""The tensors that a step reads, gathered once, and whether they are still as they were when they were checked."""

from collections.abc import Callable, Sequence
from itertools import chain
from operator import is_
from typing import Any

import torch
from torch import Tensor, UntypedStorage

from ..scheduling.optimizer import ScheduledOptimizer
from ..types import ParamGroup, StateDict

_TensorGuards: Any
try:
    from torch._C._dynamo.guards import TensorGuards as _TensorGuards
except ImportError:  # it is private; without it each property is one `map` over all tensors
    _TensorGuards = None

_OPTIONS = ("amsgrad", "capturable", "differentiable", "fused", "momentum")
"""Options that a kernel may not support."""


_UNKNOWN = (RuntimeError, NotImplementedError, TypeError, AttributeError)
"""Raised by tensors of a kind that lacks a property."""


class StepTensors:
    """The parameters of an optimizer that have a gradient, in the order of its groups, their gradients and their state.

    Attributes:
        groups: each group, and where its parameters begin and end in the lists.
        states: the state of each parameter; one that is empty, or None, before its first step.
        held: the state tensors, all of the first name before all of the second.
    """

    __slots__ = ("gradients", "groups", "held", "parameters", "states")

    def __init__(self, optimizer: ScheduledOptimizer, state_names: Sequence[str]) -> None:
        self.groups: list[tuple[ParamGroup, int, int]] = []
        self.parameters: list[Tensor] = []
        self.gradients: list[Tensor] = []
        for group in optimizer.param_groups:
            begin, parameters = len(self.parameters), group["params"]
            self.gradients += [gradient for p in parameters if (gradient := p.grad) is not None]
            if len(self.gradients) < begin + len(parameters):
                parameters = [p for p in parameters if p.grad is not None]
            self.parameters += parameters
            self.groups.append((group, begin, len(self.parameters)))
        self.states: list[StateDict] = list(map(optimizer.state.get, self.parameters))  # type: ignore[arg-type]
        states = [state for state in self.states if state]
        self.held = [value for name in state_names for state in states if (value := state.get(name)) is not None]


class CheckedTensors:
    """The properties that `unsupported_step` has checked: while they all stay the same, a step needs no check.

    Gradients are new at each step: all of them counts but their address. Parameters and state stay: the address of
    their memory counts (memory that is given back or shrunk has another one), and the identity of state. Most of a
    small step would be this, so there is no loop over the tensors in Python.
    """

    __slots__ = ("_held", "_is_like", "_values")

    def __init__(self, optimizer: ScheduledOptimizer, tensors: StepTensors) -> None:
        self._is_like = _guard(tensors.parameters + tensors.gradients)
        self._values = _values(optimizer, tensors)
        self._held = tensors.held  # alive, so that no other tensor has the identity and address of one of them

    def are_still(self, optimizer: ScheduledOptimizer, tensors: StepTensors) -> bool:
        """Return whether `tensors` are like those that were checked, and their groups too."""
        try:
            is_like = self._is_like(*tensors.parameters, *tensors.gradients)
            is_held = len(tensors.held) == len(self._held) and all(map(is_, tensors.held, self._held))
            return is_like and is_held and _values(optimizer, tensors) == self._values
        except _UNKNOWN:
            return False


def checked_tensors(optimizer: ScheduledOptimizer, tensors: StepTensors) -> CheckedTensors | None:
    """Return `tensors` as checked ones; None for kinds of tensors that lack a property that counts."""
    try:
        return CheckedTensors(optimizer, tensors)
    except _UNKNOWN:
        return None


def _values(optimizer: ScheduledOptimizer, tensors: StepTensors) -> tuple[object, ...]:
    gradients, held = tensors.gradients, tensors.held
    return (
        [(len(group["params"]), type(group["lr"]), *map(group.get, _OPTIONS)) for group in optimizer.param_groups],
        list(map(Tensor.storage_offset, gradients)),
        list(map(UntypedStorage.nbytes, map(Tensor.untyped_storage, gradients))),
        list(map(Tensor.data_ptr, chain(tensors.parameters, held))),
    )


def _guard(tensors: list[Tensor]) -> Callable[..., bool]:
    """Return a function of as many tensors: whether they have the types, dtypes, sizes and strides of `tensors`."""
    if _TensorGuards is not None:
        sizes, strides = ([[*get(tensor)] for tensor in tensors] for get in (Tensor.size, Tensor.stride))
        check = _TensorGuards(*tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides).check
        if check(*tensors):  # not if one is there twice
            return check  # type: ignore[no-any-return]  # torch has no types for it
    expected = _properties(tensors)
    return lambda *now: _properties(now) == expected


def _properties(tensors: Sequence[Tensor]) -> tuple[object, ...]:
    return (
        list(map(type, tensors)),
        [tensor.dtype for tensor in tensors],
        list(map(Tensor.size, tensors)),
        list(map(Tensor.stride, tensors)),
        True in map(torch.is_neg, tensors),
        list(map(Tensor.data_ptr, tensors)).count(0),
    )
