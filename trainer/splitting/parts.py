"""Takes a module apart into components, by the names of its submodules and parameters."""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn

from optimizer.config import listed, nearest

from .share import Share, is_in_parts, whole_module

REST = "policy"
"""The component that has what no part claims."""

_STATE_METHODS = (
    "state_dict",
    "load_state_dict",
    "_save_to_state_dict",
    "_load_from_state_dict",
    "get_extra_state",
    "set_extra_state",
)
_STATE_HOOKS = (
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


def split(module: nn.Module, parts: Mapping[str, Sequence[str]], rest: str = REST) -> dict[str, nn.Module]:
    """Return the components that `module` is taken apart into, by name; `rest` comes first.

    A part of one submodule is that submodule, with its own names. Any other part, and the rest, keep the names that
    they have in `module`. A module of which a part has one thing and the rest another leaves its buffers to the rest.

    Args:
        module: The whole.
        parts: For each part the names of submodules and parameters, with `*`.
        rest: The name of the component that has what no part claims.

    Raises:
        ValueError: A pattern matches nothing, two components would have the same parameter, a part has none, or the
            class of a shared module has a state that cannot be joined. The message begins with the part's name.
    """
    if not parts:
        return {rest: module}
    layout = _Layout(module, parts, rest)
    layout.check()
    return {name: layout.component(name) for name in (rest, *parts)}


def prefixes(components: Mapping[str, nn.Module]) -> dict[str, str]:
    """Return the text that makes the names in each component's state dict the names in the whole module's.

    Args:
        components: As `split` returned them: the first one leads to the whole.
    """
    wholes = [whole_module(component) for component in components.values()]
    paths = {id(module): f"{path}." if path else "" for whole in wholes[:1] for path, module in whole.named_modules()}
    return {name: paths[id(whole)] for name, whole in zip(components, wholes, strict=True)}


def in_model_order(components: Iterable[nn.Module]) -> list[nn.Parameter]:
    """Return all parameters: first those of a module that was taken apart, in the module's own order."""
    order: dict[nn.Parameter, None] = {}
    own: set[nn.Parameter] = set()
    for component in sorted(components, key=lambda each: not is_in_parts(each)):
        order |= dict.fromkeys(whole_module(component).parameters())
        own |= set(component.parameters())
    return [parameter for parameter in order if parameter in own]


class _Layout:
    """Which component each submodule and parameter of a module belongs to."""

    def __init__(self, module: nn.Module, parts: Mapping[str, Sequence[str]], rest: str) -> None:
        self._modules: dict[str, nn.Module] = dict(module.named_modules(remove_duplicate=False))
        self._parameters = dict(module.named_parameters(remove_duplicate=False))
        self._rest = rest
        self._claims = _claims([*self._modules, *self._parameters], parts)
        """The part by path, of those paths whose parent is not claimed."""
        self._containers_of = {
            name: {"", *(above for path in self._tops(name) for above in _above(path))} for name in parts
        }
        """The paths of the modules around a part's claims, by part."""
        self._containers: set[str] = set().union(*self._containers_of.values())

    def check(self) -> None:
        """Raise ValueError if the components would share a parameter, or one could not be saved."""
        places: dict[nn.Parameter, tuple[str, str]] = {}
        for path, parameter in self._parameters.items():
            owner = self._owner(path)
            other, name = places.setdefault(parameter, (owner, path))
            if other != owner:
                one, two = sorted([(owner, path), (other, name)], key=lambda place: place[0] == self._rest)
                raise ValueError(
                    f"{one[0]}: its parameter {one[1]!r} is also {two[1]!r} of {two[0]}. A parameter can have one"
                    " optimizer only: put both into one part."
                )
        for name in dict.fromkeys(self._claims.values()):
            if not any(owner == name for owner, _ in places.values()):
                raise ValueError(f"{name}: has no parameters: {listed(self._tops(name))}")
        for path in sorted(self._containers):
            if reason := _own_state(self._modules[path]):
                kind, where = type(self._modules[path]).__name__, f"{path!r}" if path else "the policy itself"
                first = next(name for top, name in self._claims.items() if not path or top.startswith(f"{path}."))
                raise ValueError(
                    f"{first}: takes something out of {where}, whose class {kind} {reason}: its state could not be"
                    " joined again. Claim it as a whole, or nothing in it."
                )

    def component(self, name: str) -> nn.Module:
        """Return the component of this name."""
        tops = self._tops(name)
        if len(tops) == 1 and tops[0] in self._modules:
            return self._modules[tops[0]]
        return self._share("", name)

    def _share(self, path: str, name: str) -> Share:
        """Return the share of the component `name` in the container at `path`."""
        module, prefix = self._modules[path], f"{path}." if path else ""
        parameters = [key for key in module._parameters if self._owner(prefix + key) == name]
        share = Share(module, parameters, name == self._rest)
        for key, child in module._modules.items():
            below = prefix + key
            # Past add_module: a child may have the name of an attribute of Share.
            if child is None:
                continue
            if below in self._containers:
                if name == self._rest or below in self._containers_of[name]:
                    share._modules[key] = self._share(below, name)
            elif self._owner(below) == name:
                share._modules[key] = child
        return share

    def _tops(self, name: str) -> list[str]:
        return [path for path, owner in self._claims.items() if owner == name]

    def _owner(self, path: str) -> str:
        """Return the component that has the parameter or the module at `path`. A container has several."""
        return next((self._claims[each] for each in (path, *_above(path)) if each in self._claims), self._rest)


def _claims(paths: Sequence[str], parts: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return the part by path, of the topmost paths that a pattern matches.

    Raises:
        ValueError: A pattern matches nothing, or two parts claim the same.
    """
    matched: dict[str, str] = {}
    known = [path for path in paths if path]
    for name, patterns in parts.items():
        for pattern in patterns:
            found = [path for path in known if fnmatchcase(path, pattern)]
            if not found:
                raise ValueError(f"{name}: {pattern!r} matches no submodule or parameter{nearest(pattern, known)}")
            for path in found:
                if (other := matched.setdefault(path, name)) != name:
                    raise ValueError(f"{name}: {path!r} is claimed by {other!r} too. Parts must not overlap.")
    for path, name in matched.items():
        for above in _above(path):
            if (other := matched.get(above, name)) != name:
                raise ValueError(
                    f"{name}: {path!r} is claimed by {other!r} too, with {above!r}. Parts must not overlap."
                )
    ordered = {path: matched[path] for path in known if path in matched}
    return {path: name for path, name in ordered.items() if not any(above in matched for above in _above(path))}


def _above(path: str) -> list[str]:
    """Return the paths of the modules around `path`, the innermost first, without the outermost module's."""
    names = path.split(".")
    return [".".join(names[:length]) for length in range(len(names) - 1, 0, -1)]


def _own_state(module: nn.Module) -> str:
    """Return the reason why a module's state is more than its parameters and buffers; "" if it is not."""
    for method in _STATE_METHODS:
        if getattr(type(module), method) is not getattr(nn.Module, method):
            return f"overrides {method}"
    return next((f"has hooks on its state ({hooks})" for hooks in _STATE_HOOKS if getattr(module, hooks, None)), "")


__all__ = ["REST", "in_model_order", "prefixes", "split", "whole_module"]
