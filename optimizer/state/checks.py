"""The form of saved optimizer state: names, shapes and the plain values around them."""

from collections.abc import Iterable, Mapping
from typing import Any

from ..config.messages import listed, shown, shown_value


class StateMismatchError(ValueError):
    """Saved state that does not fit. The message lists every missing, extra and mis-shaped name."""


def compare_shapes(saved: dict[str, list[int]], own: dict[str, list[int]]) -> list[str]:
    """Return what keeps tensors of the `saved` names and shapes out of `own`: one line a kind."""
    mis_shaped = [
        f"{shown(name)} (saved {saved[name]}, here {own[name]})"
        for name in sorted(own.keys() & saved.keys())
        if list(saved[name]) != list(own[name])
    ]
    return compare_names(saved, own) + ([f"mis-shaped: {listed(mis_shaped)}"] if mis_shaped else [])


def compare_names(saved: Iterable[str], own: Iterable[str]) -> list[str]:
    """Return which names are on one side only: one line a kind."""
    kinds = {"missing": sorted(set(own) - set(saved)), "extra": sorted(set(saved) - set(own))}
    return [f"{kind}: {listed(names)}" for kind, names in kinds.items() if names]


def check_state_dict(values: Mapping[str, Any]) -> None:
    """Raise StateMismatchError unless `values` has the two parts of every optimizer's state dict."""
    for key, kind in (("state", dict), ("param_groups", list)):
        if not isinstance(values.get(key), kind):
            raise StateMismatchError(
                f"the state dict has no `{key}` (a {kind.__name__}); it has {listed(list(values))}"
            )


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
        raise StateMismatchError(f"there is state of {shown_value(name)}, which is no parameter")
