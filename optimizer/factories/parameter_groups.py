"""From everything that `build` takes to parameter groups: a module, parameters, named parameters, or groups."""

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from ..types import ParamGroup

Params = nn.Module | Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[ParamGroup]
"""The parameters of an optimizer. Of a module, those that require a gradient are used."""

Item = Tensor | tuple[str, Tensor]
"""An item of a group's `params`: a parameter, or its name and the parameter."""


def trainable_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of `module` that require a gradient, by name. A shared one has the first of its names."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def parameter_groups(params: Params) -> list[ParamGroup]:
    """Return `params` as parameter groups, copies whose `params` are lists.

    Raises:
        ValueError: There is nothing to optimize, an item is not a parameter, or a parameter or name occurs twice.
    """
    items: list[object]
    if isinstance(params, nn.Module):
        items = [*trainable_parameters(params).items()]
    else:
        items = _list_items(params, "params", "a module, parameters, named parameters or groups")
    if not items:
        frozen = " that requires a gradient" if isinstance(params, nn.Module) else ""
        raise ValueError(f"there is no parameter{frozen} to build an optimizer for")
    are_groups = isinstance(items[0], Mapping)
    groups = [_copy_group(index, item) for index, item in enumerate(items)] if are_groups else [{"params": items}]
    for index, group in enumerate(groups):
        path = f"parameter group {index}: params" if are_groups else "params"
        given = group["params"]
        group["params"] = [given] if isinstance(given, Tensor) else _list_items(given, path, "parameters")
        for number, item in enumerate(group["params"]):
            _check_item(item, f"{path}.{number}")
    _refuse_duplicates(groups)
    return groups


def name_of(item: Item) -> str:
    """Return the name of an item of `params`; empty if it has none."""
    return item[0] if isinstance(item, tuple) else ""


def tensor_of(item: Item) -> Tensor:
    """Return the parameter of an item of `params`."""
    return item[1] if isinstance(item, tuple) else item


def _copy_group(index: int, given: object) -> ParamGroup:
    """Return a copy of a group: torch writes its defaults into the dicts that it is given."""
    if not isinstance(given, Mapping):
        raise ValueError(f"parameter group {index}: must be a dict with `params`; got a {type(given).__name__}")
    if "params" not in given:
        raise ValueError(f"parameter group {index}: has no `params`")
    return dict(given)


def _list_items(given: object, path: str, expected: str) -> list[object]:
    """Return `given` as a list.

    Raises:
        ValueError: `given` is not iterable or has no order.
    """
    if isinstance(given, set | frozenset):
        raise ValueError(
            f"{path}: a {type(given).__name__} has another order in each process, and state goes by order: give a list"
        )
    if isinstance(given, Mapping | Tensor | str | bytes) or not isinstance(given, Iterable):
        raise ValueError(f"{path}: must be {expected}; got a {type(given).__name__}{_remedy(given)}")
    return list(given)


def _check_item(item: object, path: str) -> None:
    name, parameter = item if isinstance(item, tuple) and len(item) == 2 else ("", item)
    if not isinstance(name, str) or not isinstance(parameter, Tensor):
        raise ValueError(
            f"{path}: must be a parameter, or a name and a parameter; got a {type(item).__name__}{_remedy(item)}"
        )


def _remedy(given: object) -> str:
    """Return the end of a message that `given` is not a list of parameters: the remedy."""
    if isinstance(given, nn.Module):
        return ". Give the module alone, or its parameters() or named_parameters()"
    if isinstance(given, str):
        return (
            f", {given!r}. A name goes with its parameter, as in named_parameters(); rules by name are `param_groups`"
        )
    if isinstance(given, Mapping):
        return ". Give its items() if it holds parameters by name, or a list of groups"
    return ". Give it in a list" if isinstance(given, Tensor) else ""


def _refuse_duplicates(groups: list[ParamGroup]) -> None:
    names_by_id: dict[int, str] = {}
    names: set[str] = set()
    for group in groups:
        for item in group["params"]:
            parameter, name = tensor_of(item), name_of(item)
            shown = name if isinstance(item, tuple) else f"number {len(names_by_id)}"
            if id(parameter) in names_by_id:
                raise ValueError(f"parameter {shown!r} occurs twice: it is also {names_by_id[id(parameter)]!r}")
            if isinstance(item, tuple) and name in names:
                raise ValueError(f"two parameters are called {name!r}: named_parameters(PREFIX) makes names distinct")
            names_by_id[id(parameter)] = shown
            names.add(shown)
