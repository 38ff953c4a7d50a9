"""Finds values that training changes and no checkpoint holds."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
import xxhash
from torch import Tensor, nn

from optimizer.config import listed

from ..interfaces.component import config_path

SHOWN = 8
"""Names that are listed in full."""

LARGEST = 1 << 24
"""Elements of the largest tensor whose content is compared. For a larger one, torch's count of writes is compared."""

_MODULE_ATTRIBUTES = {*vars(nn.Module()), "training"}


class UnsavedChanges:
    """Compares the values of components, objective and data set that are not saved with those at construction.

    Args:
        components: By name; their non-persistent buffers and plain attributes (numbers, text) are watched.
        parts: Objects by path; their plain attributes, tensors, generators and lengths of containers are watched.
    """

    def __init__(self, components: nn.ModuleDict, parts: Mapping[str, object]) -> None:
        self._components, self._parts = components, parts
        self._before: dict[str, str] | None = self._read_texts()

    def report(self, log: Callable[[str], None]) -> None:
        """Log one line that names the values which have changed since. The second and later calls do nothing."""
        if self._before is None:
            return
        before, self._before = self._before, None
        now = self._read_texts()
        changed = [name for name, text in now.items() if before.get(name, text) != text]
        if changed:
            log(
                f"warning: training changes {listed(changed, SHOWN)}, which is not saved: a resumed run may"
                " differ. Register a buffer as persistent, keep counts in buffers, and give an objective or data set"
                " a state_dict and load_state_dict (docs/extending.md)."
            )

    def _read_texts(self) -> dict[str, str]:
        """Return a text for each watched value by name; it differs if the value does."""
        texts = {}
        for name, component in self._components.items():
            saved, place = component.state_dict(keep_vars=True), config_path(self._components, name)
            for path, buffer in component.named_buffers():
                if path not in saved:
                    texts[f"{place}: buffer {path}"] = _tensor_text(buffer)
            for path, module in component.named_modules():
                for attribute, value in _plain_attributes(module):
                    texts[f"{place}: attribute {path and path + '.'}{attribute}"] = repr(value)
        for path, part in self._parts.items():
            for attribute, value in getattr(part, "__dict__", {}).items():
                if (text := _value_text(value)) is not None:
                    texts[f"{path}: attribute {attribute}"] = text
        return texts


def _plain_attributes(module: nn.Module) -> Iterator[tuple[str, object]]:
    for name, value in vars(module).items():
        if name not in _MODULE_ATTRIBUTES and type(value) in (bool, int, float, str):
            yield name, value


def _value_text(value: object) -> str | None:
    """Return a text that differs if the value does, for kinds of values that can be state; None for other kinds."""
    if value is None or type(value) in (bool, int, float, str):
        return repr(value)
    if isinstance(value, Tensor):
        return _tensor_text(value)
    if isinstance(value, list | dict | set | deque):
        return f"length {len(value)}"
    if isinstance(value, torch.Generator):
        return _tensor_text(value.get_state())
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    return None


def _tensor_text(tensor: Tensor) -> str:
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized or tensor.numel() > LARGEST:
        return f"{id(tensor)} {tensor._version}"
    content = tensor.detach().cpu().contiguous().unsqueeze(-1).view(torch.uint8).numpy()
    return f"{list(tensor.shape)} {tensor.dtype} {xxhash.xxh3_128_hexdigest(content.data)}"
