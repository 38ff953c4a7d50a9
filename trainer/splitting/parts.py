"""Takes a module apart into components, by the names of its submodules and parameters."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn

from optimizer.config import nearest

from .share import Share, whole_module

REST = "policy"
"""The component that has what no part claims."""


def split(module: nn.Module, parts: Mapping[str, Sequence[str]], rest: str = REST) -> dict[str, nn.Module]:
    """Return the components that `module` is taken apart into, by name; `rest` comes first.

    A part of one submodule is that submodule, with its own names. Any other part, and the rest, keep the names that
    they have in `module`. A buffer goes with its module.

    Args:
        module: The whole.
        parts: For each part the names of submodules and parameters, with `*`.
        rest: The name of the component that has what no part claims.

    Raises:
        ValueError: A pattern matches nothing, or two parts claim the same parameter.
    """
    if not parts:
        return {rest: module}
    owners = _claim(module, parts)
    shares: defaultdict[nn.Module, list[Share]] = defaultdict(list)
    components = {rest: _share(module, "", rest, rest, owners, shares)}
    for name in parts:
        top = [path for path, owner in owners.items() if owner == name and owners.get(_parent(path)) != name]
        modules = dict(module.named_modules())
        is_one = len(top) == 1 and top[0] in modules and not _has_other(top[0], name, owners)
        components[name] = modules[top[0]] if is_one else _share(module, "", name, rest, owners, shares)
    return components


def in_model_order(components: nn.ModuleDict) -> list[nn.Parameter]:
    """Return all parameters, those of a module that was taken apart in its own order."""
    order: dict[nn.Parameter, None] = {}
    for component in components.values():
        order |= dict.fromkeys(whole_module(component).parameters())
    own = {parameter for component in components.values() for parameter in component.parameters()}
    return [parameter for parameter in order if parameter in own]


def _claim(module: nn.Module, parts: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return the part that claims each submodule and parameter, by path; those of the rest are not in it.

    Raises:
        ValueError: A pattern matches nothing, or two parts claim the same.
    """
    paths = [path for path, _ in module.named_modules() if path]
    paths += [path for path, _ in module.named_parameters(remove_duplicate=False)]
    owners: dict[str, str] = {}
    for name, patterns in parts.items():
        for pattern in patterns:
            tops = [path for path in paths if fnmatchcase(path, pattern)]
            if not tops:
                raise ValueError(f"{name}: {pattern!r} matches no submodule or parameter{nearest(pattern, paths)}")
            for path in _below(tops, paths):
                other = owners.setdefault(path, name)
                if other != name:
                    raise ValueError(f"{name}: {path!r} is claimed by {other!r} too. Parts must not overlap.")
    return owners


def _below(tops: Sequence[str], paths: Sequence[str]) -> Iterator[str]:
    """Yield `tops` and all paths below them."""
    starts = tuple(f"{top}." for top in tops)
    chosen = set(tops)
    yield from (path for path in paths if path in chosen or path.startswith(starts))


def _parent(path: str) -> str:
    return path.rpartition(".")[0]


def _has_other(path: str, name: str, owners: Mapping[str, str]) -> bool:
    return any(owner != name for below, owner in owners.items() if below.startswith(f"{path}."))


def _share(
    module: nn.Module,
    path: str,
    name: str,
    rest: str,
    owners: Mapping[str, str],
    shares: defaultdict[nn.Module, list[Share]],
) -> nn.Module:
    """Return the share of `module`, which is at `path`, that the component `name` has."""

    def owner(child: str) -> str:
        return owners.get(f"{path}.{child}" if path else child, rest)

    owns = owners.get(path, rest) == name
    share = Share(module, [key for key in module._parameters if owner(key) == name], owns, shares[module])
    for key, child in module._modules.items():
        below = f"{path}.{key}" if path else key
        if child is None:
            continue
        owned = {owner(key), *(found for each, found in owners.items() if each.startswith(f"{below}."))}
        if owner(key) == name and not _mixed(child, below, name, rest, owners):
            share.add_module(key, child)
        elif name in owned or _mixed(child, below, name, rest, owners):
            share.add_module(key, _share(child, below, name, rest, owners, shares))
    return share


def _mixed(module: nn.Module, path: str, name: str, rest: str, owners: Mapping[str, str]) -> bool:
    """Return whether the component `name` has a part of `module` and another one has another part."""
    found = {owners.get(path, rest)}
    found |= {owners.get(f"{path}.{key}", rest) for key, _ in module.named_modules() if key}
    found |= {owners.get(f"{path}.{key}", rest) for key, _ in module.named_parameters()}
    return name in found and len(found) > 1


__all__ = ["REST", "in_model_order", "split", "whole_module"]
