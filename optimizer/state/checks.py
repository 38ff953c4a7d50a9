"""The form of saved optimizer state: names, shapes and the plain values around them."""

from collections.abc import Container, Iterable, Mapping
from typing import NotRequired, TypedDict, cast

from ..config.messages import listed, shown, shown_value
from ..types import JsonObject, ParamGroup, StateTable

Shapes = dict[str, list[int]]
"""The shape of each tensor by name."""


class StateMismatchError(ValueError):
    """Saved state that does not fit. The message lists every missing, extra and mis-shaped name."""


class NamedValues(TypedDict):
    """The values of a `NamedState`."""

    param_groups: list[ParamGroup]
    """Groups with `param_names` in place of `params`."""
    shapes: Shapes
    """Of the parameters."""
    state: dict[str, dict[str, object]]
    """Specs, as `to_json` returns them, of the entries that are not tensors, by parameter and entry."""
    scheduler: NotRequired[JsonObject]
    further: NotRequired[object]
    """The spec of two dicts: state that belongs to no parameter, and additions of the class to its state dict."""


def compare_shapes(saved: Shapes, own: Shapes) -> list[str]:
    """Return the differences between two sets of named shapes: at most one line for missing, extra and mis-shaped."""
    mis_shaped = [
        f"{shown(name)} (saved {saved[name]}, here {own[name]})"
        for name in sorted(own.keys() & saved.keys())
        if list(saved[name]) != list(own[name])
    ]
    return compare_names(saved, own) + ([f"mis-shaped: {listed(mis_shaped)}"] if mis_shaped else [])


def compare_names(saved: Iterable[str], own: Iterable[str]) -> list[str]:
    """Return the names that are on one side only: at most one line for missing and extra."""
    kinds = {"missing": sorted(set(own) - set(saved)), "extra": sorted(set(saved) - set(own))}
    return [f"{kind}: {listed(names)}" for kind, names in kinds.items() if names]


def check_state_dict(values: Mapping[str, object]) -> None:
    """Check that `values` has the two parts of every optimizer's state dict.

    Raises:
        StateMismatchError: One is missing, or is not a dict or list.
    """
    for key, kind in (("state", dict), ("param_groups", list)):
        if not isinstance(values.get(key), kind):
            raise StateMismatchError(
                f"the state dict has no `{key}` (a {kind.__name__}); it has {listed(list(values))}"
            )


def parse_values(values: Mapping[str, object]) -> NamedValues:
    """Return the values of a NamedState, of which files may hold anything, after a check of their form.

    Raises:
        ValueError: They have another form.
    """
    groups, shapes, entries = (values.get(name) for name in ("param_groups", "shapes", "state"))
    if not (isinstance(groups, list) and all(_is_group(group) for group in groups)):
        raise ValueError("param_groups: must be a list of groups with a list `param_names`")
    if not (isinstance(shapes, dict) and all(_is_list_of(int, shape) for shape in shapes.values())):
        raise ValueError("shapes: must be an object with the shape of each parameter")
    if not (isinstance(entries, dict) and all(isinstance(of_one, dict) for of_one in entries.values())):
        raise ValueError("state: must be an object with the entries of each parameter")
    return cast(NamedValues, values)  # as was checked


def _is_group(group: object) -> bool:
    return isinstance(group, dict) and _is_list_of(str, group.get("param_names"))


def _is_list_of(kind: type[object], value: object) -> bool:
    return isinstance(value, list) and all(type(item) is kind for item in value)


def check_pair(value: object) -> tuple[StateTable, JsonObject]:
    """Return the two dicts in a list.

    Raises:
        ValueError: `value` is not a list of two dicts.
    """
    if not (isinstance(value, list) and len(value) == 2 and all(isinstance(item, dict) for item in value)):
        raise ValueError("further: must be a list of two objects")
    return value[0], value[1]


def check_parameter(name: str, known: Container[str]) -> None:
    """Check that there is a parameter `name`.

    Raises:
        StateMismatchError: There is not.
    """
    if name not in known:
        raise StateMismatchError(f"there is state of {shown_value(name)}, which is not a parameter here")
