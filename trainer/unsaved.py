"""Notices what training changes and no checkpoint holds."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import xxhash
from torch import Tensor, nn

from optimizer.shown import listed

SHOWN = 8
"""How many names are listed in full."""

LARGEST = 1 << 24
"""Elements of the largest tensor that is looked at; of a larger one, whether torch has written into it."""

_OF_MODULES = {*vars(nn.Module()), "training"}


class Unsaved:
    """What components, objective and data set have besides their saved state, as it was when this was made.

    components: by name; their non-persistent buffers and plain attributes (numbers, text) are watched. parts: by path,
    objects whose plain attributes, tensors, generators and lengths of containers are watched.
    """

    def __init__(self, components: nn.ModuleDict, parts: Mapping[str, Any]) -> None:
        self._components, self._parts = components, parts
        self._before: dict[str, str] | None = self._marks()

    def report(self, say: Callable[[str], None]) -> None:
        """Print one line on what has changed since, the first time that this is called."""
        if self._before is None:
            return
        before, self._before = self._before, None
        now = self._marks()
        changed = [name for name, mark in now.items() if before.get(name, mark) != mark]
        if changed:
            say(
                f"warning: training changes {listed(changed, SHOWN)}, which is not saved: a resumed run may"
                " differ. Register a buffer as persistent, keep counts in buffers, and give an objective or data set"
                " a state_dict and load_state_dict (docs/extending.md)."
            )

    def _marks(self) -> dict[str, str]:
        """Return a mark of each watched value, by its name; another value has another mark."""
        marks = {}
        for name, component in self._components.items():
            saved = component.state_dict(keep_vars=True)
            for path, buffer in component.named_buffers():
                if path not in saved:
                    marks[f"model.components.{name}: buffer {path}"] = _of_tensor(buffer)
            for path, module in component.named_modules():
                for attribute, value in _plain_attributes(module):
                    marks[f"model.components.{name}: attribute {path and path + '.'}{attribute}"] = repr(value)
        for path, part in self._parts.items():
            for attribute, value in getattr(part, "__dict__", {}).items():
                if (mark := _mark(value)) is not None:
                    marks[f"{path}: attribute {attribute}"] = mark
        return marks


def _plain_attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, value in vars(module).items():
        if name not in _OF_MODULES and type(value) in (bool, int, float, str):
            yield name, value


def _mark(value: Any) -> str | None:
    """Return a mark of a value of a kind that can be state; None for other kinds."""
    if value is None or type(value) in (bool, int, float, str):
        return repr(value)
    if isinstance(value, Tensor):
        return _of_tensor(value)
    if isinstance(value, list | dict | set | deque):
        return f"length {len(value)}"
    if isinstance(value, torch.Generator):
        return _of_tensor(value.get_state())
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    return None


def _of_tensor(tensor: Tensor) -> str:
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized or tensor.numel() > LARGEST:
        return f"{id(tensor)} {tensor._version}"
    content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return f"{list(tensor.shape)} {tensor.dtype} {xxhash.xxh3_128_hexdigest(content.data)}"
