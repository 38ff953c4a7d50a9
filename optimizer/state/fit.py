"""Whether saved state fits the parameters of an optimizer and the entries that its class makes for them."""

import inspect
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..config.messages import joined, listed, shown
from ..transforms.trial_step import class_of, trial_step
from ..types import MOMENTS, ParamGroup, StateTable
from .checks import StateMismatchError
from .dtypes import number_kind

IMPLEMENTATION = frozenset(("fused", "foreach", "capturable", "differentiable"))
"""Options that choose how a step is computed."""

_LIKE_PARAMETERS = frozenset((*MOMENTS, "max_exp_avg_sq", "exp_inf", "momentum_buffer", "square_avg")) | (
    frozenset(("acc_delta", "grad_avg", "sum", "prev", "step_size", "ax", "y", "z"))
)
"""Entries that have their parameter's shape."""
_PACKAGES = ("torch.optim.", "schedulefree.")
"""Packages in whose classes every entry of these names has that shape."""

_SIZES = (2, 3, 5, 7)
"""The largest sizes of a small parameter's dimensions; they differ, so that the shape of an entry shows its origin."""


@dataclass(frozen=True)
class EntryForm:
    """An entry that a class makes in a step."""

    dtype: torch.dtype | None
    """None: it is not a tensor."""
    is_like_parameter: bool
    """Whether it has the shape of its parameter."""


EntryForms = dict[Hashable, EntryForm]
"""The entries of a parameter, by name."""


class EntryProbe:
    """Finds the entries that the classes of an optimizer make for a parameter, by a step on a small one."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._seen: dict[Hashable, EntryForms | None] = {}
        self._arguments: dict[type[Optimizer], frozenset[str]] = {}

    def class_of(self, group: ParamGroup) -> type[Optimizer]:
        """Return the class that updates a group of the optimizer, without the schedule that is mixed in."""
        return class_of(self._optimizer, group)

    def entries(self, group: ParamGroup, parameter: Tensor, options: ParamGroup | None = None) -> EntryForms | None:
        """Return the entries that a step makes for a parameter.

        Args:
            group: the group of the parameter.
            parameter: of any size; its dimensions and type matter.
            options: the options to try; None: those of the group.

        Returns:
            The entries, or None if the class cannot be tried.
        """
        cls = self.class_of(group)
        if cls not in self._arguments:  # reading a signature is the slowest part
            self._arguments[cls] = frozenset(inspect.signature(cls).parameters)
        accepted = self._arguments[cls] - IMPLEMENTATION - {"params", "lr"}
        given = {name: value for name, value in (options or group).items() if name in accepted}
        key = cls, parameter.ndim, parameter.dtype, repr(sorted(given.items()))
        if key not in self._seen:
            lr = {"lr": float(group["lr"]) or 1e-3} if "lr" in self._arguments[cls] else {}
            small = nn.Parameter(_small_tensor(parameter), requires_grad=parameter.dtype.is_floating_point)
            self._seen[key] = _probe_step(cls, small, given | lr)
        return self._seen[key]


def check_fit(
    optimizer: Optimizer, ids: Sequence[Sequence[Hashable]], saved: Sequence[ParamGroup], state: StateTable
) -> None:
    """Check that every parameter's entries are those that its class makes, in the parameter's shape.

    torch's fused kernels write beyond moments of another shape, and a missing entry is found in the next step only.

    Args:
        optimizer: the optimizer that will load the state.
        ids: for each of its groups the keys of its parameters in `state`, in order.
        saved: for each of its groups the options that were saved.
        state: the entries by parameter.

    Raises:
        StateMismatchError: An entry does not fit; the message lists all of them by parameter.
    """
    probe = EntryProbe(optimizer)
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
            made, cls = probe.entries(group, parameter), probe.class_of(group)
            if missing := (made or {}).keys() - entries.keys():
                lacking.setdefault((_sorted_text(missing), cls.__name__), []).append(name)
            elif made == {} and not entries.keys() & (probe.entries(group, parameter, options) or {}).keys():
                problems.append(
                    f"{shown(name)}: the state has {_sorted_text(entries)}, which {cls.__name__} does not make"
                )
            like = _entries_like_parameter(cls, group, made)
            problems += [f"{shown(name)}: {problem}" for problem in _shape_problems(entries, parameter, like)]
    if lacking or problems:
        raise StateMismatchError(_mismatch_text(lacking, problems))


def _mismatch_text(lacking: Mapping[tuple[str, str], list[str]], problems: list[str]) -> str:
    lines = [
        f"the saved state lacks {what}, which {cls_name} makes and needs, of {listed(of)}"
        for (what, cls_name), of in lacking.items()
    ]
    return "; ".join([*lines, *(["the optimizer state does not fit: " + joined(problems)] if problems else [])])


def _entries_like_parameter(cls: type[Optimizer], group: ParamGroup, made: EntryForms | None) -> frozenset[Hashable]:
    """Return the entries that must have their parameter's shape."""
    if any(f"{base.__module__}.".startswith(_PACKAGES) for base in cls.__mro__ if base is not Optimizer):
        return _LIKE_PARAMETERS | {"step"}
    if any("rank" in str(option) for option in group):
        return frozenset()  # moments of a projection, whose rank a small parameter does not show
    return _LIKE_PARAMETERS & {name for name, entry in (made or {}).items() if entry.is_like_parameter}


def _shape_problems(entries: Mapping[Hashable, object], parameter: Tensor, like: frozenset[Hashable]) -> list[str]:
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
        elif number_kind(value) != number_kind(parameter):
            problems.append(f"{entry} is {value.dtype}, another kind of number than its parameter, {parameter.dtype}")
    return problems


def _small_tensor(parameter: Tensor) -> Tensor:
    sizes = [min(size, most) for size, most in zip(parameter.shape, (*_SIZES, *[2] * parameter.ndim), strict=False)]
    return torch.zeros(sizes, dtype=parameter.dtype)


def _probe_step(cls: type[Optimizer], small: nn.Parameter, options: ParamGroup) -> EntryForms | None:
    try:
        made = trial_step(cls, small, options).state[small]
    except Exception:  # a class of another library may need more than that
        return None
    return {
        name: EntryForm(value.dtype, value.shape == small.shape)
        if isinstance(value, Tensor)
        else EntryForm(None, False)
        for name, value in made.items()
    }


def _sorted_text(names: Iterable[object]) -> str:
    return listed(sorted(map(str, names)))
