"""Files of torch.save: read without running code, and refused if they would fill the memory."""

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

_MAX_EXPANSION = 16
"""Memory of a file's tensors, in sizes of the file: tied weights are one tensor under several names."""

_MAX_VALUES, _MAX_LEVELS = 1_000_000, 64
"""Values in a file, and levels of nesting: one container may be in many others."""

_MAX_SHOWN = 200


def read_torch_file(path: Path) -> dict[Any, Any]:
    """Return the dict in a file, of plain values and of dense tensors on the CPU.

    Raises:
        DamagedCheckpointError: The file holds anything else, would run code, or has tensors that take more memory than
            the file can account for.
        UnreadableError: The system refuses to read it.
    """
    with reading(path):
        check_is_file(path)
        most = _MAX_EXPANSION * path.stat().st_size
    _check_archive(path, most)
    value = _load(path)
    if not isinstance(value, dict):
        raise DamagedCheckpointError(f"{path}: must hold a state dict; it holds a {type(value).__name__}")
    _check_extent(path, value, most)
    return dict(value)


def write_torch_file(path: Path, value: object) -> None:
    """Write `value` to the new file `path`.

    Raises:
        OSError: The file exists, or cannot be written.
    """
    with path.open("xb") as file:
        try:
            torch.save(value, file)
        except RuntimeError as error:  # torch's substitute for an OSError
            raise OSError(f"{path}: cannot be written: {_first_line(error)}") from error


def _check_archive(path: Path, most: int) -> None:
    """Raise DamagedCheckpointError for a compressed archive that unpacks to more than `most` bytes."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(record.file_size for record in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):  # torch reports the fault
        return
    if unpacked > most:
        raise DamagedCheckpointError(
            f"{path}: unpacks to {unpacked:,} bytes, more than {_MAX_EXPANSION} times its size. torch.save does"
            " not compress: save it again with it."
        )


def _load(path: Path) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's storages, and of values that are refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DamagedCheckpointError(f"{path}: is missing") from error
    except pickle.UnpicklingError as error:
        raise DamagedCheckpointError(
            f"{path}: cannot be read without running code that it names, or is damaged; only tensors and plain values"
            " are accepted. Save the state_dict() of the module, and that of the optimizer."
        ) from error
    except Exception as error:  # torch raises many kinds of errors for files of unexpected content
        reason = f"{type(error).__name__}: {_first_line(error)}"
        raise DamagedCheckpointError(
            f"{path}: cannot be read: it is damaged, or torch.save did not write it ({reason})"
        ) from error


def _check_extent(path: Path, found: Mapping[object, object], most: int) -> None:
    """Raise DamagedCheckpointError if a tensor cannot be converted, or the values exceed the limits."""
    try:
        extent = _Measure(most).measure(found, ())
    except ValueError as error:
        raise DamagedCheckpointError(f"{path}: {error}") from error
    if extent.values > _MAX_VALUES:
        raise DamagedCheckpointError(f"{path}: holds more than {_MAX_VALUES:,} values")
    if extent.size_bytes > most:
        raise DamagedCheckpointError(
            f"{path}: its tensors need {extent.size_bytes:,} bytes, and may take {_MAX_EXPANSION} times the file's"
            " size: one tensor has too many names"
        )


_Place = tuple[object, ...]
"""The keys that lead to a value in nested containers."""


@dataclass(frozen=True)
class _Extent:
    """The extent of a value that is written out."""

    values: int
    size_bytes: int = 0
    levels: int = 0


class _Measure:
    """Measures values without writing them out: each container is measured once, even if it is in many others."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: dict[int, _Extent] = {}

    def measure(self, value: object, place: _Place) -> _Extent:
        """Return the extent of `value`.

        Args:
            value: A tensor, a container or a plain value.
            place: The keys that lead to it.

        Raises:
            ValueError: A tensor cannot be converted, or the nesting is too deep.
        """
        if isinstance(value, Tensor):
            return _Extent(1, self._size(value, place))
        if isinstance(value, Mapping):
            parts: Iterable[tuple[object, object]] = value.items()
        elif isinstance(value, list | tuple | set | frozenset):
            parts = enumerate(value)
        else:
            return _Extent(1)
        if len(place) > _MAX_LEVELS:  # also a container that holds itself
            raise ValueError(f"holds values nested more than {_MAX_LEVELS} deep")
        known = self._known.get(id(value))
        if known is None:
            inner = [self.measure(part, (*place, key)) for key, part in parts]
            known = self._known[id(value)] = _Extent(
                1 + sum(one.values for one in inner),
                sum(one.size_bytes for one in inner),
                1 + max((one.levels for one in inner), default=0),
            )
        if len(place) + known.levels > _MAX_LEVELS:
            raise ValueError(f"holds values nested more than {_MAX_LEVELS} deep")
        return known

    def _size(self, tensor: Tensor, place: _Place) -> int:
        if problem := _tensor_problem(tensor):
            raise ValueError(f"{_place_text(place)} cannot be converted: {problem}")
        size = tensor.numel() * tensor.itemsize
        if size > self._most:
            raise ValueError(
                f"{_place_text(place)} of shape {list(tensor.shape)} needs more memory than the file can account for:"
                f" {_MAX_EXPANSION} times its size. Save expanded tensors with .contiguous()."
            )
        return size


def _tensor_problem(tensor: Tensor) -> str | None:
    if type(tensor) not in (Tensor, nn.Parameter, nn.Buffer):
        return f"it is a {type(tensor).__name__}, where a plain tensor is expected. Save its plain values."
    return unsavable_tensor_reason(tensor)


def _place_text(place: _Place) -> str:
    return ".".join(key if isinstance(key, str) else str(key)[:_MAX_SHOWN] for key in place)[:_MAX_SHOWN]


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "").partition(". ")[0][:_MAX_SHOWN]
