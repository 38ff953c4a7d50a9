"""Nested optimizer state (lists, dicts, sets of tensors and numbers) as flat tensors and a JSON spec of the nesting.

A spec is a plain value, `{"tensor": PATH}`, `{"torch_dtype": NAME}`, `{"dict": [[KEY, SPEC], …]}`, or a list of specs
under "list", "tuple" or "set".
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..config.messages import shown_value
from .dtypes import parse_dtype, torch_name

_PLAIN = (bool, int, float, str)
_DTYPE = "torch_dtype"
_SEQUENCES: dict[str, type[list[object] | tuple[object, ...] | set[object]]] = {
    "list": list,
    "tuple": tuple,
    "set": set,
}


def to_json(value: object, path: str, tensors: dict[str, Tensor]) -> object:
    """Return the spec of `value`.

    Args:
        value: a tensor, a plain value, a dtype, or a container of such.
        path: where its tensors are put in `tensors`, or the beginning of their paths.
        tensors: receives the tensors of `value`.

    Raises:
        ValueError: A value is of another type.
    """
    if value is None or type(value) in _PLAIN:
        return value
    if isinstance(value, Tensor):
        while path in tensors:  # {"a/b": one, "a": {"b": another}}
            path = f"{path}'"
        tensors[path] = value
        return {"tensor": path}
    if isinstance(value, torch.dtype):
        return {_DTYPE: torch_name(value)}
    if isinstance(value, dict) and all(type(key) in (int, str) for key in value):
        named = [(key, key if isinstance(key, str) else f"[{key}]", item) for key, item in value.items()]
        return {"dict": [[key, to_json(item, f"{path}/{name}", tensors)] for key, name, item in named]}
    for kind, cls in _SEQUENCES.items():
        if isinstance(value, cls):
            return {kind: [to_json(item, f"{path}/{index}", tensors) for index, item in enumerate(value)]}
    raise ValueError(f"the state {path} is a {type(value).__name__}, which cannot be saved")


def from_json(spec: object, tensors: Mapping[str, Tensor]) -> Any:
    """Return the value of a spec.

    Args:
        spec: as `to_json` returned it.
        tensors: the tensors that `to_json` collected, by path.

    Raises:
        ValueError: `spec` is not a spec, or a tensor is missing.
    """
    kind, content = _parse_spec(spec)
    if kind is None:
        return content
    if kind == "tensor":
        if content not in tensors:
            raise ValueError(f"there is no tensor {shown_value(content)}")
        return tensors[content]
    if kind == _DTYPE:
        return parse_dtype(content)
    if kind == "dict":
        return {key: from_json(item, tensors) for key, item in content}
    try:
        return _SEQUENCES[kind](from_json(item, tensors) for item in content)
    except TypeError as error:
        raise ValueError(f"not a valid {kind}: {error}") from error


def rename_paths(spec: object, new_path: Callable[[str], str]) -> object:
    """Return `spec` with each tensor under the path that `new_path` gives it.

    Raises:
        ValueError: `spec` is not a spec.
    """
    kind, content = _parse_spec(spec)
    if kind is None or kind == _DTYPE:
        return spec
    if kind == "tensor":
        return {kind: new_path(content)}
    if kind == "dict":
        return {kind: [[key, rename_paths(item, new_path)] for key, item in content]}
    return {kind: [rename_paths(item, new_path) for item in content]}


def tensor_paths(spec: object) -> set[str]:
    """Return the paths of the tensors in `spec`.

    Raises:
        ValueError: `spec` is not a spec.
    """
    kind, content = _parse_spec(spec)
    if kind is None or kind == _DTYPE:
        return set()
    if kind == "tensor":
        return {content}
    items: Iterable[object] = (item[1] for item in content) if kind == "dict" else content
    return set().union(*map(tensor_paths, items))


def _parse_spec(spec: object) -> tuple[str | None, Any]:
    """Return the kind of a spec and its content; for a plain value None and the value. Raises ValueError."""
    if spec is None or type(spec) in _PLAIN:
        return None, spec
    if isinstance(spec, dict) and len(spec) == 1:
        ((kind, content),) = spec.items()
        if kind == _DTYPE or (kind == "tensor" and isinstance(content, str)):
            return kind, content
        if (kind in _SEQUENCES and isinstance(content, list)) or (kind == "dict" and _are_items(content)):
            return kind, content
    raise ValueError(f"{str(spec)[:80]} does not describe a value")


def _are_items(content: object) -> bool:
    return isinstance(content, list) and all(
        isinstance(item, list) and len(item) == 2 and type(item[0]) in (int, str) for item in content
    )
