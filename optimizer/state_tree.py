"""Nested optimizer state (lists, dicts, sets of tensors and numbers) as flat tensors and a plain outline."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

_PLAIN = (bool, int, float, str)
_DTYPE = "torch_dtype"
_SEQUENCES: dict[str, type[Any]] = {"list": list, "tuple": tuple, "set": set}


def outline(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Return `value` as JSON takes it, its tensors put into `tensors` under paths below `path`.

    Raises ValueError for what is neither a tensor, nor plain, nor a container of such.
    """
    if value is None or type(value) in _PLAIN:
        return value
    if isinstance(value, Tensor):
        tensors[path] = value
        return {"tensor": path}
    if isinstance(value, torch.dtype):
        return {_DTYPE: str(value).removeprefix("torch.")}
    if isinstance(value, dict) and all(type(key) in (int, str) for key in value):
        named = [(key, key if isinstance(key, str) else f"[{key}]", item) for key, item in value.items()]
        return {"dict": [[key, outline(item, f"{path}/{name}", tensors)] for key, name, item in named]}
    for kind, cls in _SEQUENCES.items():
        if isinstance(value, cls):
            return {kind: [outline(item, f"{path}/{index}", tensors) for index, item in enumerate(value)]}
    raise ValueError(f"the state {path} is a {type(value).__name__}, which cannot be saved")


def filled(plan: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return the value that `outline` made `plan` of."""
    if not isinstance(plan, dict):
        return plan
    ((kind, content),) = plan.items()
    if kind == "tensor":
        return tensors[content]
    if kind == _DTYPE:
        return getattr(torch, content)
    if kind == "dict":
        return {key: filled(item, tensors) for key, item in content}
    return _SEQUENCES[kind](filled(item, tensors) for item in content)


def with_paths(plan: Any, new_path: Callable[[str], str]) -> Any:
    """Return `plan` with each tensor under the path that `new_path` gives it."""
    if not isinstance(plan, dict):
        return plan
    ((kind, content),) = plan.items()
    if kind == "tensor":
        return {kind: new_path(content)}
    if kind == _DTYPE:
        return plan
    if kind == "dict":
        return {kind: [[key, with_paths(item, new_path)] for key, item in content]}
    return {kind: [with_paths(item, new_path) for item in content]}


def paths(plan: Any) -> set[str]:
    """Return the paths of the tensors in `plan`."""
    if not isinstance(plan, dict):
        return set()
    ((kind, content),) = plan.items()
    if kind == "tensor":
        return {content}
    if kind == _DTYPE:
        return set()
    return set().union(*(paths(item[1] if kind == "dict" else item) for item in content))
