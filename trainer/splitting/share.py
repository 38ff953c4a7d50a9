"""The share of one component in a module that several components have parts of; the module itself stays whole."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, Self

from torch import Tensor, nn


class Share(nn.Module):
    """The children, parameters and buffers of one module that belong to one component.

    The module keeps all of them, and a forward pass runs through it. The names in the state dict are those of the
    module, and attributes that the share has not itself are the module's. The last share whose mode is set decides the
    mode of the module, until `settle_containers` does.

    Args:
        source: The module.
        parameters: The names of its direct parameters that belong to the component.
        owns_buffers: Whether its direct buffers do.
    """

    def __init__(self, source: nn.Module, parameters: Collection[str], owns_buffers: bool) -> None:
        super().__init__()
        self.__dict__["_source"] = source  # a plain attribute: nn.Module would register it
        own = source._parameters
        # One dict for both, where possible: a tensor that is moved or replaced in one is so in the other.
        self._parameters = own if own.keys() <= set(parameters) else {name: own[name] for name in parameters}
        if owns_buffers:
            self._buffers = source._buffers
            self._non_persistent_buffers_set = source._non_persistent_buffers_set

    def forward(self, *args: Any, **options: Any) -> Any:
        """Return the result of the whole module."""
        return whole_module(self)(*args, **options)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the module, such as a method of its class, that the share has not itself."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "_source" not in self.__dict__:  # before its construction ends, or in a copy that is being made
                raise
        return getattr(whole_module(self), name)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all that the share holds, and of the module itself."""
        super().train(mode)
        whole_module(self).training = mode
        return self

    def follow_source(self) -> None:
        """Take over the parameters that the module has got in place of those of before, as sharding does."""
        source = whole_module(self)._parameters
        self._parameters.update({name: source[name] for name in self._parameters})

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(function, recurse)  # type: ignore[no-untyped-call]  # torch
        whole_module(self)._parameters.update(self._parameters)
        return self


def whole_module(component: nn.Module) -> nn.Module:
    """Return the module that `component` is a share of, or the component itself."""
    source: nn.Module = component.__dict__["_source"] if isinstance(component, Share) else component
    return source


def is_in_parts(component: nn.Module) -> bool:
    """Return whether `component` has a share of a module only."""
    return isinstance(component, Share)


def owned_modules(component: nn.Module) -> Iterator[nn.Module]:
    """Yield the topmost modules that belong to `component` as a whole: itself, or those that its shares hold."""
    if not isinstance(component, Share):
        yield component
        return
    for child in component.children():
        yield from owned_modules(child)


def settle_containers(components: Iterable[nn.Module]) -> None:
    """Set the modes of the modules that are shared, once those of all `components` are set.

    Such a module is in train mode if anything in it is. The `train` of its class may put some of it into eval mode, and
    nothing into train mode.
    """
    shares: defaultdict[nn.Module, list[Share]] = defaultdict(list)
    for component in components:
        for module in component.modules():
            if isinstance(module, Share):
                shares[whole_module(module)].append(module)
    for source in reversed(list(shares)):  # the innermost first
        inner = (module.training for module in source.modules() if module not in shares)
        source.training = any(share.training for share in shares[source]) or any(inner)
        if source.training and type(source).train is not nn.Module.train:
            before = {module: module.training for module in source.modules()}
            source.train()
            for module, was in before.items():
                module.training = module.training and was
