"""Transitions of an .npz file."""

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optimizer.config import listed, nearest, shown

from ..errors import ConfigError
from ..interfaces.features import Feature, FeatureType
from .recorded import ACTION, NEXT, PARAMS, REWARD, TERMINAL, Recorded, spans

STATE = "observation.state"
"""The name of the observation in a batch."""

Content = Literal["obs", "action", "reward", "next_obs", "terminal", "timeout"]
"""The arrays of a file, by their content."""

_REQUIRED: tuple[Content, ...] = ("obs", "action", "reward", "next_obs", "terminal")
_VECTORS = ("obs", "action", "next_obs")

Values = NDArray[Any]


def read_arrays(path: Path, names: Mapping[Content, str], episode_length: int | None) -> Recorded:
    """Return the transitions of an .npz file.

    Args:
        path: The file. Nothing in it is unpickled.
        names: The names of its arrays, where they are called otherwise than in `Content`.
        episode_length: Rows of each episode; None: by the array `timeout`, if there is one.

    Raises:
        ConfigError: The file cannot be read, an array is missing, or has another shape or type than it must have.
    """
    arrays = _arrays(path, names)
    rows = len(arrays["action"])
    for part, array in arrays.items():
        if len(array) != rows:
            raise ConfigError(
                f"{path}: all arrays must have one row a transition; {_called(part, names)} has {len(array):,}, and"
                f" {_called('action', names)} {rows:,}."
            )
    obs, next_obs = arrays["obs"], arrays["next_obs"]
    if obs.shape != next_obs.shape:
        raise ConfigError(
            f"{path}: {_called('obs', names)} and {_called('next_obs', names)} must have the same shape; got"
            f" {list(obs.shape)} and {list(next_obs.shape)}."
        )
    tensors = {
        STATE: _vectors(obs),
        ACTION: _vectors(arrays["action"]),
        REWARD: _numbers(arrays["reward"]),
        NEXT + STATE: _vectors(next_obs),
        TERMINAL: _numbers(arrays["terminal"]),
    }
    features = {
        STATE: Feature(FeatureType.STATE, tuple(tensors[STATE].shape[1:])),
        ACTION: Feature(FeatureType.ACTION, tuple(tensors[ACTION].shape[1:])),
        REWARD: Feature(FeatureType.REWARD, ()),
    }
    ends, is_cut = _ends(path, arrays, episode_length)
    return Recorded(tensors, features, spans(ends) or None, is_cut, str(path))


def _arrays(path: Path, names: Mapping[Content, str]) -> dict[Content, Values]:
    """Return the arrays by their content."""
    if not path.is_file():
        raise ConfigError(f"{PARAMS}.path: must be an .npz file; {shown(path.absolute())} is not there.")
    try:
        with path.open("rb") as opened:  # numpy leaves the file open where it fails
            file = np.load(opened, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ConfigError(f"{PARAMS}.path: must be an .npz file of several arrays; {path} holds one array.")
            return {part: _checked(path, part, names, file[name]) for part, name in _found(path, file.files, names)}
    except ConfigError:
        raise
    except (BadZipFile, EOFError, OSError, ValueError, KeyError) as error:
        hint = " It holds Python objects, which are not read." if "pickle" in str(error) else ""
        raise ConfigError(f"{path}: is not an .npz file that can be read: {shown(error)}.{hint}") from error


def _found(path: Path, there: list[str], names: Mapping[Content, str]) -> list[tuple[Content, str]]:
    """Return the arrays to read, by content and by name."""
    found: list[tuple[Content, str]] = [(part, names.get(part, part)) for part in _REQUIRED]
    timeout = names.get("timeout", "timeout")
    if "timeout" in names or timeout in there:
        found.append(("timeout", timeout))
    for part, name in found:
        if name not in there:
            raise ConfigError(
                f"{path}: there is no array {name!r}{nearest(name, there)} It has {listed(there)}. Give its name in"
                f" {PARAMS}.names.{part}."
            )
    return found


def _checked(path: Path, part: Content, names: Mapping[Content, str], array: Values) -> Values:
    kind, what = array.dtype.kind, _called(part, names)
    if part in _VECTORS:
        if kind != "f":
            discrete = " Actions that are numbers of choices are not supported." if part == "action" else ""
            raise ConfigError(f"{path}: {what} must be floating-point numbers; got {array.dtype}.{discrete}")
        if array.ndim not in (1, 2) or 0 in array.shape[1:]:
            raise ConfigError(f"{path}: {what} must have the shape [rows, size]; got {list(array.shape)}.")
        return array
    if kind not in "biuf":
        raise ConfigError(f"{path}: {what} must be numbers; got {array.dtype}.")
    if array.ndim not in (1, 2) or array.shape[1:] not in ((), (1,)):
        raise ConfigError(f"{path}: {what} must have one number a row; got the shape {list(array.shape)}.")
    return array


def _called(part: Content, names: Mapping[Content, str]) -> str:
    return repr(names.get(part, part))


def _vectors(array: Values) -> Tensor:
    """Return one vector a row, float32; a file of float32 is not copied."""
    return _as_float32(array).reshape(len(array), prod(array.shape[1:]))


def _numbers(array: Values) -> Tensor:
    return _as_float32(array).reshape(len(array))


def _as_float32(array: Values) -> Tensor:
    with np.errstate(over="ignore"):  # what is infinite then is reported as such
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def _ends(path: Path, arrays: Mapping[Content, Values], episode_length: int | None) -> tuple[list[int], bool]:
    """Return one past the last row of each episode, and whether the last one is cut; no rows: they are unknown."""
    rows = len(arrays["action"])
    if episode_length is not None:
        if "timeout" in arrays:
            raise ConfigError(f"{PARAMS}.episode_length: the file has an array of timeouts. Leave it out.")
        if rows % episode_length:
            raise ConfigError(
                f"{PARAMS}.episode_length: must divide the {rows:,} rows of {path}; got {episode_length}."
            )
        is_last = np.arange(rows) % episode_length == episode_length - 1
        if (early := (arrays["terminal"].reshape(rows) != 0) & ~is_last).any():
            raise ConfigError(
                f"{PARAMS}.episode_length: row {int(early.argmax())} (from 0) of {path} is terminal within an episode"
                f" of {episode_length} rows. Save an array `timeout` with the ends of episodes instead."
            )
        return list(range(episode_length, rows + 1, episode_length)), False
    if "timeout" not in arrays:
        return [], False
    timeout = arrays["timeout"].reshape(rows)
    if (wrong := (timeout != 0) & (timeout != 1)).any():
        row = int(wrong.argmax())
        raise ConfigError(f"{path}: 'timeout' must be 0 or 1; row {row} has {timeout[row]:g}.")
    is_last = (timeout != 0) | (arrays["terminal"].reshape(rows) != 0)
    ends = [int(row) + 1 for row in np.flatnonzero(is_last)]
    is_cut = rows > 0 and ends[-1:] != [rows]
    return ends + [rows] * is_cut, is_cut
