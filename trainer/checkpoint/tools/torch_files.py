"""Files that torch.save wrote: read without running code, and refused where they would fill the memory."""

import pickle
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from optimizer.state import check_is_file, unsavable_tensor_reason

from ...runtime.files import DamagedCheckpointError, reading

_TIMES = 16
"""How many times the size of a file its tensors may take in all: tied weights are one tensor under several names."""

_VALUES, _LEVELS = 1_000_000, 64
"""How many values a file may hold, and how deeply they may be nested: one container may be in many others."""

_SHOWN = 200


def read_torch_file(path: Path) -> dict[Any, Any]:
    """Return the dict in a file, of plain values and of dense tensors on the CPU.

    Raises DamagedCheckpointError for anything else, also for what would run code and for tensors that take more memory
    than the file can account for; UnreadableError.
    """
    with reading(path):
        check_is_file(path)
        most = _TIMES * path.stat().st_size
    _check_archive(path, most)
    value = _loaded(path)
    if not isinstance(value, dict):
        raise DamagedCheckpointError(f"{path}: must hold a state dict; it holds a {type(value).__name__}")
    _check(path, value, most)
    return dict(value)


def write_torch_file(path: Path, value: Any) -> None:
    """Write `value` to the new file `path`. Raises OSError."""
    with path.open("xb") as file:
        try:
            torch.save(value, file)
        except RuntimeError as error:  # torch's word for an OSError
            raise OSError(f"{path}: cannot be written: {_first_line(error)}") from error


def _check_archive(path: Path, most: int) -> None:
    """Raise DamagedCheckpointError for a compressed archive that unpacks to more than `most` bytes."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(record.file_size for record in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):  # torch says what is wrong with it
        return
    if unpacked > most:
        raise DamagedCheckpointError(
            f"{path}: unpacks to {unpacked:,} bytes, more than {_TIMES} times its size. torch.save does"
            " not compress: save it again with it."
        )


def _loaded(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of its own storages and of what is refused afterwards
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DamagedCheckpointError(f"{path}: is missing") from error
    except pickle.UnpicklingError as error:
        raise DamagedCheckpointError(
            f"{path}: cannot be read without running code that it names, or is damaged; only tensors and plain values"
            " are taken. Save the state_dict() of the module, and that of the optimizer."
        ) from error
    except Exception as error:  # whatever is in the file, torch stumbles over it in many ways
        reason = f"{type(error).__name__}: {_first_line(error)}"
        raise DamagedCheckpointError(
            f"{path}: cannot be read: it is damaged, or torch.save did not write it ({reason})"
        ) from error


def _check(path: Path, found: Mapping[Any, Any], most: int) -> None:
    """Raise DamagedCheckpointError for a tensor that cannot be converted, and for more than the file can hold."""
    try:
        extent = _Measure(most).of(found, ())
    except ValueError as error:
        raise DamagedCheckpointError(f"{path}: {error}") from error
    if extent.values > _VALUES:
        raise DamagedCheckpointError(f"{path}: holds more than {_VALUES:,} values")
    if extent.size_bytes > most:
        raise DamagedCheckpointError(
            f"{path}: its tensors need {extent.size_bytes:,} bytes, and may take {_TIMES} times the file's size: one"
            " tensor has too many names"
        )


@dataclass(frozen=True)
class _Extent:
    """What a value is, written out. levels: how deeply it is nested."""

    values: int
    size_bytes: int = 0
    levels: int = 0


class _Measure:
    """Measures values without writing them out: each container is looked at once, in however many others it is."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: dict[int, _Extent] = {}

    def of(self, value: Any, place: tuple[Any, ...]) -> _Extent:
        """Return the extent of `value`, which is at `place`. Raises ValueError for what cannot be converted."""
        if isinstance(value, Tensor):
            return _Extent(1, self._size(value, place))
        if isinstance(value, Mapping):
            parts: Iterable[tuple[Any, Any]] = value.items()
        elif isinstance(value, list | tuple | set | frozenset):
            parts = enumerate(value)
        else:
            return _Extent(1)
        if len(place) > _LEVELS:  # also one that holds itself
            raise ValueError(f"holds values nested more than {_LEVELS} deep")
        known = self._known.get(id(value))
        if known is None:
            inner = [self.of(part, (*place, key)) for key, part in parts]
            known = self._known[id(value)] = _Extent(
                1 + sum(one.values for one in inner),
                sum(one.size_bytes for one in inner),
                1 + max((one.levels for one in inner), default=0),
            )
        if len(place) + known.levels > _LEVELS:
            raise ValueError(f"holds values nested more than {_LEVELS} deep")
        return known

    def _size(self, tensor: Tensor, place: tuple[Any, ...]) -> int:
        if problem := _problem(tensor):
            raise ValueError(f"{_shown(place)} cannot be taken: {problem}")
        size = tensor.numel() * tensor.itemsize
        if size > self._most:
            raise ValueError(
                f"{_shown(place)} of shape {list(tensor.shape)} needs more memory than the file can account for:"
                f" {_TIMES} times its size. Save expanded tensors with .contiguous()."
            )
        return size


def _problem(tensor: Tensor) -> str | None:
    if type(tensor) not in (Tensor, nn.Parameter, nn.Buffer):
        return f"it is a {type(tensor).__name__}, where a plain tensor is expected. Save its plain values."
    return unsavable_tensor_reason(tensor)


def _shown(place: tuple[Any, ...]) -> str:
    return ".".join(key if isinstance(key, str) else str(key)[:_SHOWN] for key in place)[:_SHOWN]


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "").partition(". ")[0][:_SHOWN]
