"""What saved optimizer state must be like before it is loaded."""

import inspect
import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from optimizer.combined import Combined
from optimizer.embedding import ScheduledOptimizer

_LIKE_PARAMETERS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "sum", "y", "z")
_OF_PACKAGES = ("torch.optim.", "schedulefree.")
"""State that has its parameter's shape, and where the classes are from of which that is known."""


class StateMismatchError(ValueError):
    """Saved state that does not fit. The message lists every missing, extra and mis-shaped name."""


def compare_shapes(saved: dict[str, list[int]], own: dict[str, list[int]]) -> list[str]:
    """Return what keeps tensors of the `saved` names and shapes out of `own`: one line a kind."""
    kinds = {
        "missing": sorted(own.keys() - saved.keys()),
        "extra": sorted(saved.keys() - own.keys()),
        "mis-shaped": [
            f"{name} (saved {saved[name]}, here {own[name]})"
            for name in sorted(own.keys() & saved.keys())
            if list(saved[name]) != list(own[name])
        ],
    }
    return [f"{kind}: {', '.join(names)}" for kind, names in kinds.items() if names]


def check_structure(values: Mapping[str, Any]) -> None:
    """Raise ValueError unless `values` are built as those of a NamedState."""
    groups, shapes, entries = (values.get(name) for name in ("param_groups", "shapes", "state"))
    if not (isinstance(groups, list) and all(_is_group(group) for group in groups)):
        raise ValueError("param_groups is no list of groups with the names of their parameters")
    if not (isinstance(shapes, dict) and all(_is_list_of(int, shape) for shape in shapes.values())):
        raise ValueError("shapes is no table of shapes by parameter")
    if not (isinstance(entries, dict) and all(isinstance(of_one, dict) for of_one in entries.values())):
        raise ValueError("state is no table of entries by parameter")


def _is_group(group: Any) -> bool:
    return isinstance(group, dict) and _is_list_of(str, group.get("param_names"))


def _is_list_of(kind: type[Any], value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is kind for item in value)


def two_dicts(value: Any) -> list[dict[Any, Any]]:
    """Return `value` if it is a list of two dicts. Raises ValueError if not."""
    if not (isinstance(value, list) and len(value) == 2 and all(isinstance(item, dict) for item in value)):
        raise ValueError("further is not two dicts")
    return value


def check_known(name: str, known: Mapping[str, Any]) -> None:
    """Raise StateMismatchError for state of a parameter that there is not."""
    if name not in known:
        raise StateMismatchError(f"there is state of {name!r}, which is no parameter")


def check_tensors(optimizer: Optimizer, state: Mapping[Any, Mapping[Any, Any]]) -> None:
    """Refuse moments that have not their parameter's shape: the fused kernels of torch write beyond such ones."""
    numbers = itertools.count()
    for group in optimizer.param_groups:
        owner = optimizer.part_of(group) if isinstance(optimizer, Combined) else optimizer
        known = any(
            f"{cls.__module__}.".startswith(_OF_PACKAGES) for cls in type(owner).__mro__ if cls is not Optimizer
        )
        for parameter, param_id in zip(group["params"], numbers, strict=False):
            for entry, value in state.get(param_id, {}).items() if known else ():
                if entry in _LIKE_PARAMETERS and value is not None:
                    _check_like(entry, value, parameter)


def _check_like(entry: str, value: Any, parameter: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise StateMismatchError(f"{entry} is {value!r}, where a tensor is expected")
    if value.shape != parameter.shape:
        raise StateMismatchError(f"{entry} has shape {list(value.shape)}, and its parameter {list(parameter.shape)}")


def check_entries(optimizer: Optimizer, state: Mapping[Any, Mapping[Any, Any]]) -> None:
    """Raise StateMismatchError if the state of a parameter lacks what a step with the options of its group makes.

    state: by the position of the parameter. What a step makes is seen on a small parameter of as many dimensions, where
    the class can be made for it.
    """
    numbers = itertools.count()
    for group in optimizer.param_groups:
        owner = optimizer.part_of(group) if isinstance(optimizer, Combined) else optimizer
        made: dict[int, set[Any]] = {}
        for parameter, param_id in zip(group["params"], numbers, strict=False):
            if parameter.ndim not in made:
                made[parameter.ndim] = _entries_made(type(owner), group, parameter)
            missing = made[parameter.ndim] - state.get(param_id, {}).keys()
            if missing and state.get(param_id):
                lacks = ", ".join(sorted(map(str, missing)))
                raise StateMismatchError(f"the saved state lacks {lacks}, which {type(owner).__name__} makes and needs")


def _entries_made(cls: type[Any], group: Mapping[str, Any], parameter: Tensor) -> set[Any]:
    bare: Any = next(base for base in cls.__mro__ if not issubclass(base, ScheduledOptimizer))
    options = {name: group[name] for name in inspect.signature(bare).parameters if name in group and name != "params"}
    small = nn.Parameter(torch.zeros([min(size, 2) for size in parameter.shape], dtype=parameter.dtype))
    small.grad = torch.ones_like(small)
    try:
        stand_in = bare([small], **options)
        getattr(stand_in, "train", lambda: None)()
        stand_in.step()
    except Exception:  # a class of another library may need more than that
        return set()
    return set(stand_in.state[small])
