"""What a component has of a module that several components share; the module itself stays whole."""

from collections.abc import Callable, Collection
from typing import Any, Self

from torch import Tensor, nn


class Share(nn.Module):
    """The children, parameters and buffers of `source` that belong to one component.

    `source` keeps all of them, and a forward pass runs through it. The names in the state dict are those of `source`.

    Args:
        source: The module.
        parameters: The names of its direct parameters that belong to the component.
        owns_buffers: Whether its direct buffers do.
        siblings: The shares of `source` so far, to which this one is added.
    """

    def __init__(
        self, source: nn.Module, parameters: Collection[str], owns_buffers: bool, siblings: list["Share"]
    ) -> None:
        super().__init__()
        self.__dict__["whole"] = source  # a plain attribute: nn.Module would register it
        self.__dict__["_siblings"] = siblings
        siblings.append(self)
        own = source._parameters
        # One dict for both, where possible: what moves or replaces a tensor in one does so in the other.
        self._parameters = own if own.keys() <= set(parameters) else {name: own[name] for name in parameters}
        if owns_buffers:
            self._buffers = source._buffers
            self._non_persistent_buffers_set = source._non_persistent_buffers_set

    whole: nn.Module
    """The module that this is a share of."""

    def forward(self, *args: Any, **options: Any) -> Any:
        """Return what the whole module returns."""
        return self.whole(*args, **options)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of this share; the whole module is in train mode if a share of it is."""
        super().train(mode)
        self.whole.training = any(share.training for share in self.__dict__["_siblings"])
        return self

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(function, recurse)  # type: ignore[no-untyped-call]  # torch
        self.whole._parameters.update(self._parameters)
        return self


def whole_module(component: nn.Module) -> nn.Module:
    """Return the module that `component` is a share of, or the component itself."""
    return component.whole if isinstance(component, Share) else component
