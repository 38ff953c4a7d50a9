"""Whether saved state fits the parameters of an optimizer and the entries that its class makes for them."""

import inspect
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..config.messages import joined, listed, shown
from ..transforms.trial_step import class_of, trial_step
from ..types import MOMENTS
from .checks import StateMismatchError

IMPLEMENTATION = frozenset(("fused", "foreach", "capturable", "differentiable"))
"""Options that say how a step is computed."""

_LIKE_PARAMETERS = frozenset((*MOMENTS, "max_exp_avg_sq", "exp_inf", "momentum_buffer", "square_avg")) | (
    frozenset(("acc_delta", "grad_avg", "sum", "prev", "step_size", "ax", "y", "z"))
)
_OF_PACKAGES = ("torch.optim.", "schedulefree.")
"""Entries that have their parameter's shape, and where the classes are from for which that is known by the name."""

_SIZES = (2, 3, 5, 7)
"""Sizes of a stand-in's dimensions at most; they differ, so that an entry's shape tells where it comes from."""

Group = Mapping[str, Any]
Entries = Mapping[Any, Any]


@dataclass(frozen=True)
class Made:
    """An entry that a class makes in a step. is_like_parameter: whether it has the shape of its parameter."""

    dtype: torch.dtype | None
    is_like_parameter: bool


class Makers:
    """What the classes of an optimizer make for a parameter, seen in a step of theirs on a small one."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._seen: dict[Hashable, dict[Any, Made] | None] = {}
        self._arguments: dict[type[Any], frozenset[str]] = {}

    def class_of(self, group: Group) -> type[Any]:
        """Return the class that updates a group of the optimizer, without the schedule that is mixed in."""
        return class_of(self._optimizer, group)

    def entries(self, group: Group, parameter: Tensor, options: Group | None = None) -> dict[Any, Made] | None:
        """Return what a step makes for `parameter` of `group`; None where the class cannot be tried.

        options: those to try, where they are not the group's.
        """
        cls = self.class_of(group)
        if cls not in self._arguments:  # reading a signature takes longer than all else here
            self._arguments[cls] = frozenset(inspect.signature(cls).parameters)
        accepted = self._arguments[cls] - IMPLEMENTATION - {"params", "lr"}
        given = {name: value for name, value in (options or group).items() if name in accepted}
        key = cls, parameter.ndim, parameter.dtype, repr(sorted(given.items()))
        if key not in self._seen:
            lr = {"lr": float(group["lr"]) or 1e-3} if "lr" in self._arguments[cls] else {}
            small = nn.Parameter(_small(parameter), requires_grad=parameter.dtype.is_floating_point)
            self._seen[key] = _entries_made(cls, small, given | lr)
        return self._seen[key]


def check_fit(optimizer: Optimizer, ids: Sequence[Sequence[Hashable]], saved: Sequence[Group], state: Entries) -> None:
    """Refuse `state` unless every parameter's entries are those that its class makes, in the parameter's shape.

    torch's fused kernels write beyond moments of another shape, and a missing entry is found in the next step only.

    Args:
        optimizer: what is to load the state.
        ids: for each of its groups the keys of its parameters in `state`, in order.
        saved: for each of its groups the options that were saved.
        state: the entries by parameter.

    Raises:
        StateMismatchError: with everything that does not fit, by parameter.
    """
    makers = Makers(optimizer)
    lacking: dict[tuple[str, str], list[str]] = {}
    problems: list[str] = []
    for group, keys, options in zip(optimizer.param_groups, ids, saved, strict=True):
        names = group.get("param_names") or [f"parameter {key}" for key in keys]
        for name, parameter, key in zip(names, group["params"], keys, strict=True):
            if not (entries := state.get(key)):
                continue
            if not isinstance(entries, Mapping):
                problems.append(f"{shown(name)}: its state is {shown(entries, 80)}, where a dict is expected")
                continue
            made, cls = makers.entries(group, parameter), makers.class_of(group)
            if missing := (made or {}).keys() - entries.keys():
                lacking.setdefault((_listed(missing), cls.__name__), []).append(name)
            elif made == {} and not entries.keys() & (makers.entries(group, parameter, options) or {}).keys():
                problems.append(f"{shown(name)}: the state has {_listed(entries)}, which {cls.__name__} does not make")
            problems += [
                f"{shown(name)}: {problem}" for problem in _mis_shaped(entries, parameter, _like(cls, group, made))
            ]
    lines = [
        f"the saved state lacks {what}, which {cls_name} makes and needs, of {listed(of)}"
        for (what, cls_name), of in lacking.items()
    ]
    if problems:
        lines.append("the optimizer state does not fit: " + joined(problems))
    if lines:
        raise StateMismatchError("; ".join(lines))


def _like(cls: type[Any], group: Group, made: dict[Any, Made] | None) -> frozenset[Any]:
    """Return the entries that must have their parameter's shape."""
    if any(f"{base.__module__}.".startswith(_OF_PACKAGES) for base in cls.__mro__ if base is not Optimizer):
        return _LIKE_PARAMETERS | {"step"}
    if any("rank" in str(option) for option in group):
        return frozenset()  # moments of a projection, whose rank a small parameter does not show
    return _LIKE_PARAMETERS & {name for name, entry in (made or {}).items() if entry.is_like_parameter}


def _mis_shaped(entries: Entries, parameter: Tensor, like: frozenset[Any]) -> list[str]:
    problems = []
    for entry in [entry for entry in entries if entry in like and entries[entry] is not None]:
        value = entries[entry]
        if entry == "step":
            if isinstance(value, Tensor) and value.numel() != 1:
                problems.append(f"step has shape {list(value.shape)}, where one number is expected")
        elif not isinstance(value, Tensor):
            problems.append(f"{entry} is {shown(value, 80)}, where a tensor is expected")
        elif value.shape != parameter.shape:
            problems.append(f"{entry} has shape {list(value.shape)}, and its parameter {list(parameter.shape)}")
        elif _kind(value) != _kind(parameter):
            problems.append(f"{entry} is {value.dtype}, another kind of number than its parameter, {parameter.dtype}")
    return problems


def _kind(tensor: Tensor) -> tuple[bool, bool]:
    return tensor.is_floating_point(), tensor.is_complex()


def _small(parameter: Tensor) -> Tensor:
    sizes = [min(size, most) for size, most in zip(parameter.shape, (*_SIZES, *[2] * parameter.ndim), strict=False)]
    return torch.zeros(sizes, dtype=parameter.dtype)


def _entries_made(cls: Any, small: nn.Parameter, options: dict[str, Any]) -> dict[Any, Made] | None:
    try:
        made = trial_step(cls, small, options).state[small]
    except Exception:  # a class of another library may need more than that
        return None
    return {
        name: Made(value.dtype, value.shape == small.shape) if isinstance(value, Tensor) else Made(None, False)
        for name, value in made.items()
    }


def _listed(names: Any) -> str:
    return listed(sorted(map(str, names)))
