"""BatchNorm's running statistics."""

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


def statistics_of(component: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the running statistics in a component, by name."""
    for path, module in component.named_modules():
        if isinstance(module, _NormBase):
            yield from ((f"{path}.{key}" if path else key, buffer) for key, buffer in module.named_buffers())
