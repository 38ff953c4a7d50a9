"""Converts an optimizer's state by position to one by parameter name, and back."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from optimizer import NamedState
from optimizer.config import counted, joined, listed, shown
from optimizer.factories import trainable_parameters
from optimizer.state import (
    Shapes,
    compare_shapes,
    has_names,
    names_by_id,
    option_from_json,
    shapes_by_name,
    state_by_id,
    state_by_name,
)
from optimizer.transforms import MEMBER
from optimizer.types import INITIAL, POSITION, ParamGroup

from ...run_layout import OPTIMIZER_VALUES, WEIGHTS
from ...runtime.files import read_tensors
from ..contents import expected_content, read_optimizer
from ..init_from import check_kinds
from .external_formats import PositionalState

_OPTIONS = ("lr", "initial_lr")
"""Options that torch keeps in a group as a tensor if they are given as one."""


def name_by_model(found: PositionalState, component: nn.Module | None) -> NamedState | None:
    """Return the optimizer's state of `found` by parameter name; None if it has none.

    Args:
        found: A component's weights and optimizer.
        component: Names the parameters if the state has no names; its shapes and types are those expected.

    Raises:
        ValueError: The weights or the state do not fit, or the names cannot be determined.
    """
    shapes = shapes_by_name(found.weights)
    if component is not None:
        state = component.state_dict()
        own = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        if problems := compare_shapes(shapes, shapes_by_name(own)):
            raise ValueError(f"{found.source}: the weights do not fit the config's component: {joined(problems)}")
        check_kinds(found.weights, own, list(own), found.source)
    if found.optimizer is None:
        return None
    with expected_content(found.source):
        names = _parameter_names(found, component)
        _check_state(found, names, shapes)
        groups = [
            {**group, "param_names": [names[position] for position in group["params"]]}
            for group in found.optimizer["param_groups"]
        ]
        state_dict = {**found.optimizer, "param_groups": groups}
        return state_by_name(state_dict, {name: shapes[name] for name in names.values()}, _OPTIONS)


def by_position(folder: Path) -> PositionalState:
    """Return a component and its optimizer as a state dict of the bare torch class.

    Args:
        folder: The component's folder in a checkpoint.

    Raises:
        ValueError: A file is damaged, or the optimizer consists of several classes.
    """
    weights, path = read_tensors(folder / WEIGHTS), folder / OPTIMIZER_VALUES
    if not path.is_file():
        return PositionalState(weights, None, folder)
    saved = read_optimizer(folder)
    with expected_content(path):
        groups = saved.values["param_groups"]
        if len({group.get(MEMBER) for group in groups}) > 1:
            raise ValueError("its optimizer is of several classes, whose state no single class elsewhere can load")
        names = [name for group in groups for name in group["param_names"]]
        ids = {name: position for position, name in enumerate(names)}
        state, extra = state_by_id(saved, ids)
        bare = [{**_bare_group(group), "params": [ids[name] for name in group["param_names"]]} for group in groups]
        optimizer = {**extra, "state": state, "param_groups": bare}
        if "scheduler" in saved.values:
            optimizer["scheduler"] = {"last_epoch": saved.values["scheduler"]["last_epoch"]}
    return PositionalState(weights, optimizer, folder)


def _bare_group(group: ParamGroup) -> ParamGroup:
    """Return a group without the entries of an optimizer with a schedule inside, each value in torch's type."""
    known = {*group, "beta1", "beta2"} - {"lr"}  # torch's schedulers keep an initial_lr too
    ours = {POSITION, MEMBER, *(INITIAL + option for option in known)}
    values = {key: option_from_json(value, None) for key, value in group.items() if key not in ours}
    return {
        key: tuple(value) if isinstance(value, list) and key != "param_names" else value
        for key, value in values.items()
    }


def _parameter_names(found: PositionalState, component: nn.Module | None) -> dict[int, str]:
    """Return the parameters' names by position."""
    assert found.optimizer is not None, "there is an optimizer to name the parameters of"
    groups = found.optimizer["param_groups"]
    if has_names(groups):
        return names_by_id(groups)
    if component is None:
        raise ValueError("goes by position and has no names. Give the config of the component with --config.")
    if len(groups) > 1:
        raise ValueError(
            f"has {len(groups)} parameter groups and no names: which parameter is in which would be a guess. Save it"
            " from an optimizer that is built from named_parameters()."
        )
    trainable = [*trainable_parameters(component)]
    positions = groups[0]["params"]
    every = [name for name, _ in component.named_parameters()]  # some loops also pass frozen parameters
    for names in (trainable, every):
        if len(names) == len(positions):
            return dict(zip(positions, names, strict=True))
    raise ValueError(
        f"has {counted(len(positions), 'parameter')}; the config's component trains {len(trainable)}:"
        f" {listed(trainable)}"
    )


def _check_state(found: PositionalState, names: Mapping[int, str], shapes: Shapes) -> None:
    """Raise ValueError, with all that is wrong, unless every name has weights and all state their shapes."""
    assert found.optimizer is not None, "there is an optimizer to check"
    given = Counter(names.values())
    problems = [f"{shown(name)} is there twice" for name, times in sorted(given.items()) if times > 1]
    problems += [f"{shown(name)} is not among the weights" for name in sorted(given.keys() - shapes.keys())]
    for position, entries in found.optimizer["state"].items():
        name = names.get(position)
        if name is None:
            if isinstance(position, int):
                problems.append(f"the state of position {position} is of no parameter")
            continue
        problems += [
            f"{shown(entry)} of {shown(name)} has shape {list(value.shape)}, the parameter {shapes[name]}"
            for entry, value in entries.items()
            if name in shapes and isinstance(value, Tensor) and not _fits(list(value.shape), shapes[name])
        ]
    if problems:
        raise ValueError(f"the optimizer's state does not fit: {joined(problems)}")


def _fits(shape: list[int], parameter: list[int]) -> bool:
    """Return whether a state tensor of `shape` can be a parameter's: one value, its shape, or factors of it."""
    if shape in ([], [1]):
        return True
    return len(shape) == len(parameter) and all(own in (1, size) for own, size in zip(shape, parameter, strict=True))
