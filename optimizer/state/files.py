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
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.optim import Optimizer

from .atomic_files import ASIDE, MOST_JSON, check_is_file, content, flush, write_json, write_tensors
from .checks import StateMismatchError
from .named import NamedState, named_state, state_by_position
from .named_loading import load_named_state, load_state_by_position
from .plain_json import decoded
from .savable_tensors import unsavable_name, unsavable_tensor
from .strides import independent, unpacked

TENSORS = "optimizer_state.safetensors"
VALUES = "optimizer_param_groups.json"
BY_POSITION = "by_position"
"""Marks values whose parameters are called by their positions."""
LEROBOTS_SCHEDULER = "scheduler_state.json"

_DIGEST = "sha256"
"""The checksum of TENSORS, in VALUES: the two belong together."""
_CALL = "saved_with"
"""The same in the values of all optimizers that one call saved."""

Saved = TypeVar("Saved", bound=Optimizer | Mapping[str, Optimizer])


@dataclass(frozen=True)
class _Read:
    """What the two files in `folder` hold. values: a list, where LeRobot wrote them."""

    folder: Path
    tensors: dict[str, Tensor]
    values: dict[str, Any] | list[Any]

    @property
    def call(self) -> str | None:
        """What the values of all optimizers have that one call saved; None if they were saved one by one."""
        return self.values.get(_CALL) if isinstance(self.values, dict) else None


def save_optimizer_state(optimizer: Optimizer | Mapping[str, Optimizer], save_dir: str | Path) -> None:
    """Write the state of an optimizer, its schedule's included, into a directory; of several into one each by name.

    Each optimizer has two files, which are written aside and then get their places. Whatever stops the process, what
    was saved before can be loaded, or what is saved now. An optimizer that was built from parameters without names is
    saved, and loaded again, by their positions.
    Raises ValueError for state that cannot be saved, OSError.
    """
    folder = Path(save_dir)
    if isinstance(optimizer, Mapping):
        optimizers = {folder / name: one for name, one in optimizer.items()}
        extra = {_CALL: secrets.token_hex(8)}
    else:
        optimizers, extra = {folder: optimizer}, {}
    asides: dict[Path, Path] = {}
    placed = False
    try:
        for place, one in optimizers.items():
            asides[place] = _written_aside(one, place, extra)
        for place, aside in asides.items():
            for name in (TENSORS, VALUES):
                (aside / name).replace(place / name)
                placed = True
            flush(place)
    finally:
        if not placed:  # else what is in them may be needed: see `_read_together`
            for aside in asides.values():
                shutil.rmtree(aside, ignore_errors=True)
    for place in asides:
        _remove_left(place)


def load_optimizer_state(optimizer: Saved, save_dir: str | Path) -> Saved:
    """Load what `save_optimizer_state` wrote, or LeRobot's function of that name, and return the optimizer.

    State is matched by name where both sides have names, else by the parameters' positions, as LeRobot's is, whose
    schedule's position is in its scheduler_state.json.
    Raises FileNotFoundError for a missing file, another OSError for one that cannot be read, StateMismatchError if
    the state does not fit, is damaged, or is that of several optimizers which were not saved together.
    """
    folder = Path(save_dir)
    if not isinstance(optimizer, Mapping):
        _load(optimizer, _read(folder))
        return optimizer
    if missing := [name for name in optimizer if not (folder / name).is_dir()]:
        raise FileNotFoundError(f"{folder}: no state of {', '.join(missing)}")
    read = _read_together(folder, list(optimizer))
    for name, one in optimizer.items():
        _load(one, read[name])
    return optimizer


def _written_aside(optimizer: Optimizer, folder: Path, extra: Mapping[str, Any]) -> Path:
    """Write the two files of an optimizer into a new folder in `folder`, and return it."""
    named = _has_names(optimizer)
    state = named_state(optimizer) if named else state_by_position(optimizer)
    _check_savable(state.tensors)
    values = {**state.values, **extra} | ({} if named else {BY_POSITION: True})
    folder.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=ASIDE, dir=folder))  # nobody else may enter it: no link can be put there
    try:
        write_tensors(aside / TENSORS, independent(state.tensors))
        try:
            write_json(aside / VALUES, {**values, _DIGEST: _digest(aside / TENSORS)})
        except (TypeError, RecursionError) as error:
            raise ValueError(f"an option cannot be saved: {error}") from error
        for path in (aside / TENSORS, aside / VALUES, aside):
            flush(path)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return aside


def _remove_left(folder: Path) -> None:
    """Remove the folders, empty by now, from which files got their place, and those of processes that were killed."""
    for left in folder.glob(f"{ASIDE}*"):
        if left.is_dir() and not left.is_symlink() and {path.name for path in left.iterdir()} <= {TENSORS, VALUES}:
            shutil.rmtree(left, ignore_errors=True)


def _check_savable(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if problem := unsavable_name(name) or unsavable_tensor(tensor):
            raise ValueError(f"the optimizer's state {name!r} cannot be saved: {problem}")


def _read(folder: Path) -> _Read:
    """Return what is in the two files. A save may have been stopped after the first of them got its place."""
    check_is_file(folder / TENSORS)
    try:
        with safe_open(folder / TENSORS, framework="pt") as file:
            read = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 not a dict
            tensors = unpacked(read, file.metadata())
        digest = None
        for path in filter(os.path.lexists, [folder / VALUES, *sorted(folder.glob(f"{ASIDE}*/{VALUES}"))]):
            values = decoded(content(path, MOST_JSON))
            if isinstance(values, list):
                return _Read(folder, tensors, values)
            digest = digest or _digest(folder / TENSORS)
            if isinstance(values, dict) and values.pop(_DIGEST, None) == digest:
                return _Read(folder, tensors, values)
        check_is_file(folder / VALUES)  # else it is missing
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise StateMismatchError(f"{folder}: {TENSORS} or {VALUES} is damaged: {error}") from error
    raise StateMismatchError(f"{folder}: {TENSORS} and {VALUES} do not belong together, or are damaged")


def _read_together(folder: Path, names: list[str]) -> dict[str, _Read]:
    """Return what one call saved of several optimizers. It may have been stopped after some of them got their place.

    Raises StateMismatchError if there is no call that saved all of them.
    """
    there = [name for name in names if os.path.lexists(folder / name / TENSORS)]
    placed = {name: _read(folder / name) for name in there or names}
    calls = dict.fromkeys(one.call for one in placed.values())
    for call in calls:
        found: dict[str, _Read] = {}
        for name in names:
            one = placed.get(name)
            if call is not None and (one is None or one.call != call):
                one = _not_placed(folder / name, call) or one
            if one is not None and one.call in (call, None):  # None: a user saved it alone, and wants it so
                found[name] = one
        if len(found) == len(names):
            return found
    for name in names:
        _read(folder / name)  # where one is missing, that is the reason
    raise StateMismatchError(
        f"{folder}: {', '.join(names)} were not saved together: a save was stopped between them. Load each"
        " alone to use them all the same."
    )


def _not_placed(folder: Path, call: str) -> _Read | None:
    """Return what a call saved in `folder` that has not got its place; None if there is no such thing."""
    for aside in sorted(folder.glob(f"{ASIDE}*")):
        with suppress(OSError, StateMismatchError):
            if not aside.is_symlink() and (one := _read(aside)).call == call:
                return one
    return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load(optimizer: Optimizer, read: _Read) -> None:
    if isinstance(read.values, list):
        try:
            state = _of_lerobot(read.folder, read.tensors, read.values)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise StateMismatchError(f"{read.folder}: is not a state that LeRobot wrote: {error!r}") from error
        optimizer.load_state_dict(state)
        return
    values = {key: value for key, value in read.values.items() if key not in (BY_POSITION, _CALL)}
    if read.values.get(BY_POSITION) or not _has_names(optimizer):
        load_state_by_position(optimizer, NamedState(read.tensors, values))
    else:
        load_named_state(optimizer, NamedState(read.tensors, values))


def _has_names(optimizer: Optimizer) -> bool:
    return all("param_names" in group for group in optimizer.param_groups)


def lerobots_state(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """Return the state by position that LeRobot's file holds under names like state/0/exp_avg. Raises ValueError."""
    state: dict[int, dict[str, Tensor]] = {}
    for path, tensor in tensors.items():
        _, position, entry = path.split("/")
        state.setdefault(int(position), {})[entry] = tensor
    return state


def lerobots_groups(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the groups in LeRobot's file as torch has them: JSON has lists only, and betas are a tuple."""
    return [{key: tuple(value) if key == "betas" else value for key, value in group.items()} for group in groups]


def _of_lerobot(folder: Path, tensors: Mapping[str, Tensor], groups: list[dict[str, Any]]) -> dict[str, Any]:
    state_dict: dict[str, Any] = {"state": lerobots_state(tensors), "param_groups": lerobots_groups(groups)}
    scheduler = next(
        (path for path in (folder / LEROBOTS_SCHEDULER, folder.parent / LEROBOTS_SCHEDULER) if path.exists()), None
    )
    if scheduler is not None:
        state_dict["scheduler"] = {"last_epoch": decoded(content(scheduler, MOST_JSON))["last_epoch"]}
    return state_dict
