"""An optimizer's state on disk: safetensors and JSON, under the names that LeRobot gives the two files."""

import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.optim import Optimizer

from ..transforms.shards import is_sharded
from ..types import HasSchedule, JsonObject
from .atomic_files import ASIDE, MAX_JSON_BYTES, check_is_file, flush, read_limited, write_json
from .checks import StateMismatchError
from .joint_failures import failing_together, first_rank, largest_mesh
from .lerobot_files import TENSORS, VALUES, lerobot_state_dict
from .loading import match_groups
from .named import NamedState, has_names, named_state, parameters_of, state_by_position
from .named_loading import load_named_state, load_state_by_position
from .placing import place_state
from .plain_json import decode_json
from .savable_tensors import unsavable_reason
from .sharded_tensors import gathered, own_rank
from .strides import restore_strides, without_sharing
from .tensor_files import write_tensors

BY_POSITION = "by_position"
"""Marks values whose parameters are named by their positions."""

_DIGEST = "sha256"
"""The checksum of TENSORS, in VALUES: the two belong together."""
_CALL = "saved_with"
"""The same in the values of all optimizers that one call saved."""

Saved = TypeVar("Saved", bound=Optimizer | Mapping[str, Optimizer])


@dataclass(frozen=True)
class _SavedFiles:
    """The content of the two files in a folder."""

    folder: Path
    tensors: dict[str, Tensor]
    values: JsonObject | list[object]
    """A list, where LeRobot wrote them."""

    @property
    def call(self) -> str | None:
        """The mark of the call that saved several optimizers; None if they were saved one by one."""
        return self.values.get(_CALL) if isinstance(self.values, dict) else None


def save_optimizer_state(optimizer: Optimizer | Mapping[str, Optimizer], save_dir: str | Path) -> None:
    """Write the state of an optimizer, its schedule's included, into a directory; of several into one each by name.

    Each optimizer has two files, which are written aside and then get their places. If the process is stopped at any
    moment, either the previous state or the new one can be loaded. An optimizer that was built from parameters without
    names is saved and loaded by their positions.

    The state of sharded parameters (DTensors) is written whole, as that of the unsharded ones: all ranks call this
    together, the first one writes, and the others return when it has. Any number of processes can load it.

    Args:
        optimizer: an optimizer, or several by name.
        save_dir: the folder of its files, or the parent of one folder for each name.

    Raises:
        ValueError: A part of the state cannot be saved.
        OSError: A file cannot be written, by this or another rank.
    """
    folder = Path(save_dir)
    if isinstance(optimizer, Mapping):
        optimizers = {folder / name: one for name, one in optimizer.items()}
        extra = {_CALL: secrets.token_hex(8)}
    else:
        optimizers, extra = {folder: optimizer}, {}
    mesh = largest_mesh(parameter for one in optimizers.values() for parameter in parameters_of(one))
    asides: dict[Path, Path] = {}
    try:
        for place, one in optimizers.items():
            state = _whole_state(one, first_rank(mesh))
            with failing_together(mesh):
                if own_rank() == first_rank(mesh):
                    asides[place] = _written_aside(state, place, extra)
    except BaseException:
        _remove(asides)
        raise
    with failing_together(mesh):
        _put_in_place(asides)


def load_optimizer_state(optimizer: Saved, save_dir: str | Path) -> Saved:
    """Load the state that `save_optimizer_state` wrote, or LeRobot's function of that name.

    State is matched by name where both sides have names, else by the parameters' positions. LeRobot's is matched by
    position, and the schedule's position is read from its scheduler_state.json. The state of sharded parameters is cut
    into their shards: each rank reads the files.

    Args:
        optimizer: an optimizer, or several by name.
        save_dir: the folder that was given to `save_optimizer_state`.

    Returns:
        `optimizer`.

    Raises:
        FileNotFoundError: A file is missing.
        OSError: A file cannot be read.
        StateMismatchError: The state does not fit, is damaged, or belongs to several optimizers that were not saved
            together.
    """
    folder = Path(save_dir)
    if not isinstance(optimizer, Mapping):
        _load_files(optimizer, _read_files(folder))
        return optimizer
    if missing := [name for name in optimizer if not (folder / name).is_dir()]:
        raise FileNotFoundError(f"{folder}: no state of {', '.join(missing)}")
    read = _read_together(folder, list(optimizer))
    for name, one in optimizer.items():
        _load_files(one, read[name])
    return optimizer


def _whole_state(optimizer: Optimizer, rank: int) -> NamedState:
    """Return the state of an optimizer as it is written; the tensors only on `rank`."""
    named = has_names(optimizer.param_groups)
    state = named_state(optimizer) if named else state_by_position(optimizer)
    return NamedState(gathered(state.tensors, rank), state.values | ({} if named else {BY_POSITION: True}))


def _written_aside(state: NamedState, folder: Path, extra: Mapping[str, str]) -> Path:
    """Write the two files of an optimizer into a new folder in `folder`, and return it."""
    _check_savable(state.tensors)
    values = {**state.values, **extra}
    folder.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=ASIDE, dir=folder))  # no other user may enter it: no link can be put there
    try:
        digest = hashlib.new(_DIGEST)
        write_tensors(aside / TENSORS, without_sharing(state.tensors), None, digest.update)
        try:
            write_json(aside / VALUES, {**values, _DIGEST: digest.hexdigest()})
        except (TypeError, RecursionError) as error:
            raise ValueError(f"an option cannot be saved: {error}") from error
        for path in (aside / VALUES, aside):
            flush(path)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return aside


def _put_in_place(asides: Mapping[Path, Path]) -> None:
    """Move the files in the folders `asides`, by their places, to these."""
    placed = False
    try:
        for place, aside in asides.items():
            for name in (TENSORS, VALUES):
                (aside / name).replace(place / name)
                placed = True
            flush(place)
    finally:
        if not placed:  # else what is in them may be needed: see `_read_together`
            _remove(asides)
    for place in asides:
        _remove_left(place)


def _remove(asides: Mapping[Path, Path]) -> None:
    for aside in asides.values():
        shutil.rmtree(aside, ignore_errors=True)


def _remove_left(folder: Path) -> None:
    """Remove the folders, empty by now, from which files got their place, and those of processes that were killed."""
    for left in folder.glob(f"{ASIDE}*"):
        if left.is_dir() and not left.is_symlink() and {path.name for path in left.iterdir()} <= {TENSORS, VALUES}:
            shutil.rmtree(left, ignore_errors=True)


def _check_savable(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if problem := unsavable_reason(name, tensor):
            raise ValueError(f"the optimizer's state {name!r} cannot be saved: {problem}")


def _read_files(folder: Path) -> _SavedFiles:
    """Read the two files. A save may have been stopped after the first of them got its place."""
    check_is_file(folder / TENSORS)
    try:
        with safe_open(folder / TENSORS, framework="pt") as file:
            read = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 not a dict
            tensors = restore_strides(read, file.metadata())
        digest = None
        for path in filter(os.path.lexists, [folder / VALUES, *sorted(folder.glob(f"{ASIDE}*/{VALUES}"))]):
            values = _read_json(path)
            if isinstance(values, list):
                return _SavedFiles(folder, tensors, values)
            digest = digest or _digest(folder / TENSORS)
            if isinstance(values, dict) and values.pop(_DIGEST, None) == digest:
                return _SavedFiles(folder, tensors, values)
        check_is_file(folder / VALUES)  # else it is missing
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise StateMismatchError(f"{folder}: {TENSORS} or {VALUES} is damaged: {error}") from error
    raise StateMismatchError(f"{folder}: {TENSORS} and {VALUES} do not belong together, or are damaged")


def _read_together(folder: Path, names: list[str]) -> dict[str, _SavedFiles]:
    """Read the files of several optimizers that one call saved.

    The call may have been stopped after some of them got their place. Raises StateMismatchError if there is no call
    that saved all of them.
    """
    there = [name for name in names if os.path.lexists(folder / name / TENSORS)]
    placed = {name: _read_files(folder / name) for name in there or names}
    calls = dict.fromkeys(one.call for one in placed.values())
    for call in calls:
        found: dict[str, _SavedFiles] = {}
        for name in names:
            one = placed.get(name)
            if call is not None and (one is None or one.call != call):
                one = _not_placed(folder / name, call) or one
            if one is not None and one.call in (call, None):  # None: a user saved it alone, and wants it so
                found[name] = one
        if len(found) == len(names):
            return found
    for name in names:
        _read_files(folder / name)  # where one is missing, that is the reason
    raise StateMismatchError(
        f"{folder}: {', '.join(names)} were not saved together: a save was stopped between them. Load each"
        " alone to use them all the same."
    )


def _not_placed(folder: Path, call: str) -> _SavedFiles | None:
    """Read the files that a call saved in `folder` and that have not got their place; None if there are none."""
    for aside in sorted(folder.glob(f"{ASIDE}*")):
        with suppress(OSError, StateMismatchError):
            if not aside.is_symlink() and (one := _read_files(aside)).call == call:
                return one
    return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, _DIGEST).hexdigest()


def _read_json(path: Path) -> object:
    return decode_json(read_limited(path, MAX_JSON_BYTES))


def _load_files(optimizer: Optimizer, read: _SavedFiles) -> None:
    if isinstance(read.values, list):
        try:
            state = lerobot_state_dict(read.folder, read.tensors, read.values, _read_json)
        except (ValueError, RecursionError) as error:
            raise StateMismatchError(f"{read.folder}: is not a state that LeRobot wrote: {error}") from error
        if not isinstance(optimizer, HasSchedule) and any(map(is_sharded, parameters_of(optimizer))):
            matches = match_groups(optimizer.param_groups, state["param_groups"])
            state["state"] = place_state(optimizer, [match.ids for match in matches], state["state"])
        optimizer.load_state_dict(state)
        return
    values = {key: value for key, value in read.values.items() if key not in (BY_POSITION, _CALL)}
    if read.values.get(BY_POSITION) or not has_names(optimizer.param_groups):
        load_state_by_position(optimizer, NamedState(read.tensors, values))
    else:
        load_named_state(optimizer, NamedState(read.tensors, values))
