"""Nested optimizer state (lists, dicts, sets of tensors and numbers) as flat tensors and a plain outline."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..config.messages import shown_value

_PLAIN = (bool, int, float, str)
_DTYPE = "torch_dtype"
_SEQUENCES: dict[str, type[Any]] = {"list": list, "tuple": tuple, "set": set}


def to_json(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Return `value` as JSON takes it, its tensors put into `tensors` under paths below `path`.

    Raises ValueError for what is neither a tensor, nor plain, nor a container of such.
    """
    if value is None or type(value) in _PLAIN:
        return value
    if isinstance(value, Tensor):
        while path in tensors:  # {"a/b": one, "a": {"b": another}}
            path = f"{path}'"
        tensors[path] = value
        return {"tensor": path}
    if isinstance(value, torch.dtype):
        return {_DTYPE: str(value).removeprefix("torch.")}
    if isinstance(value, dict) and all(type(key) in (int, str) for key in value):
        named = [(key, key if isinstance(key, str) else f"[{key}]", item) for key, item in value.items()]
        return {"dict": [[key, to_json(item, f"{path}/{name}", tensors)] for key, name, item in named]}
    for kind, cls in _SEQUENCES.items():
        if isinstance(value, cls):
            return {kind: [to_json(item, f"{path}/{index}", tensors) for index, item in enumerate(value)]}
    raise ValueError(f"the state {path} is a {type(value).__name__}, which cannot be saved")


def from_json(plan: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return the value that `to_json` made `plan` of. Raises ValueError if it did not."""
    kind, content = _checked(plan)
    if kind is None:
        return content
    if kind == "tensor":
        if content not in tensors:
            raise ValueError(f"there is no tensor {shown_value(content)}")
        return tensors[content]
    if kind == _DTYPE:
        return dtype_named(content)
    if kind == "dict":
        return {key: from_json(item, tensors) for key, item in content}
    try:
        return _SEQUENCES[kind](from_json(item, tensors) for item in content)
    except TypeError as error:
        raise ValueError(f"this is no {kind}: {error}") from error


def dtype_named(name: Any) -> torch.dtype:
    """Return the dtype that is called `name`, with or without `torch.`. Raises ValueError if there is none."""
    dtype = getattr(torch, name.removeprefix("torch."), None) if isinstance(name, str) else None
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{shown_value(name)} is no type of tensors")
    return dtype


def with_paths(plan: Any, new_path: Callable[[str], str]) -> Any:
    """Return `plan` with each tensor under the path that `new_path` gives it. Raises ValueError."""
    kind, content = _checked(plan)
    if kind is None or kind == _DTYPE:
        return plan
    if kind == "tensor":
        return {kind: new_path(content)}
    if kind == "dict":
        return {kind: [[key, with_paths(item, new_path)] for key, item in content]}
    return {kind: [with_paths(item, new_path) for item in content]}


def paths(plan: Any) -> set[str]:
    """Return the paths of the tensors in `plan`. Raises ValueError if it is none of `to_json`."""
    kind, content = _checked(plan)
    if kind is None or kind == _DTYPE:
        return set()
    if kind == "tensor":
        return {content}
    return set().union(*(paths(item[1] if kind == "dict" else item) for item in content))


def _checked(plan: Any) -> tuple[str | None, Any]:
    """Return what kind of value `plan` stands for, with its content; None: it is the value. Raises ValueError."""
    if plan is None or type(plan) in _PLAIN:
        return None, plan
    if isinstance(plan, dict) and len(plan) == 1:
        ((kind, content),) = plan.items()
        if kind == _DTYPE or (kind == "tensor" and isinstance(content, str)):
            return kind, content
        if (kind in _SEQUENCES and isinstance(content, list)) or (kind == "dict" and _are_items(content)):
            return kind, content
    raise ValueError(f"{str(plan)[:80]} stands for no value")


def _are_items(content: Any) -> bool:
    return isinstance(content, list) and all(
        isinstance(item, list) and len(item) == 2 and type(item[0]) in (int, str) for item in content
    )
