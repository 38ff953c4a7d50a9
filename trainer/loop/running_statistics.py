"""BatchNorm's running statistics as they were before an update."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


def statistics_of(component: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the running statistics in a component, by name."""
    for path, module in component.named_modules():
        if isinstance(module, _NormBase):
            yield from ((f"{path}.{key}" if path else key, buffer) for key, buffer in module.named_buffers())


class KeptStatistics:
    """A copy of the running statistics of `components`, to restore after an update that is left out.

    A forward pass writes them: one batch with a NaN would leave NaNs in them for good.
    """

    def __init__(self, components: Iterable[nn.Module]) -> None:
        self._own = [buffer for component in components for _, buffer in statistics_of(component)]
        self._copies: list[Tensor] = []

    def keep(self) -> None:
        """Copy them as they are."""
        if self._copies:
            torch._foreach_copy_(self._copies, self._own)
        else:
            self._copies = [buffer.clone() for buffer in self._own]

    def put_back(self) -> None:
        """Restore them as they were at the last `keep`; nothing happens without one."""
        if self._copies:
            # As the layers write them: a graph of this update whose backward pass is still to come stays valid.
            torch._foreach_copy_([buffer.data for buffer in self._own], self._copies)
