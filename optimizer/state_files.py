"""An optimizer's state on disk: safetensors and JSON, under the names that LeRobot gives the two files."""

import hashlib
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.optim import Optimizer

from optimizer.files import ASIDE, MOST_JSON, check_is_file, content, flush, write_json, write_tensors
from optimizer.named_loading import load_named_state, load_state_by_position
from optimizer.named_state import NamedState, named_state, state_by_position
from optimizer.plain_json import decoded
from optimizer.savable_tensors import unsavable_name, unsavable_tensor
from optimizer.state_checks import StateMismatchError
from optimizer.strides import independent, unpacked

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


def save_optimizer_state(optimizer: Optimizer | Mapping[str, Optimizer], save_dir: str | Path) -> None:
    """Write the state of an optimizer, its schedule's included, into a directory; of several into one each by name.

    Each optimizer has two files, which are written aside and then get their places. Whatever stops the process, what
    was saved before can be loaded, or what is saved now. An optimizer that was built from parameters without names is
    saved, and loaded again, by their positions.
    Raises ValueError for state that cannot be saved, OSError.
    """
    folder = Path(save_dir)
    if isinstance(optimizer, Mapping):
        call = secrets.token_hex(8)
        for name, one in optimizer.items():
            _save(one, folder / name, {_CALL: call})
    else:
        _save(optimizer, folder, {})


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
    read = {name: _read(folder / name) for name in optimizer}
    calls = {one.values.get(_CALL) for one in read.values() if isinstance(one.values, dict)} - {None}
    if len(calls) > 1:
        raise StateMismatchError(
            f"{folder}: {', '.join(optimizer)} were not saved together: a save was stopped between them. Load each"
            " alone to use them all the same."
        )
    for name, one in optimizer.items():
        _load(one, read[name])
    return optimizer


def _save(optimizer: Optimizer, folder: Path, further: Mapping[str, Any]) -> None:
    named = _has_names(optimizer)
    state = named_state(optimizer) if named else state_by_position(optimizer)
    _check_savable(state.tensors)
    values = {**state.values, **further} | ({} if named else {BY_POSITION: True})
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
        for name in (TENSORS, VALUES):
            (aside / name).replace(folder / name)
        flush(folder)
    finally:
        if not _is_half_placed(aside):
            shutil.rmtree(aside, ignore_errors=True)
    for left in folder.glob(f"{ASIDE}*"):  # by processes that were killed
        if left.is_dir() and not left.is_symlink() and {path.name for path in left.iterdir()} <= {TENSORS, VALUES}:
            shutil.rmtree(left, ignore_errors=True)


def _is_half_placed(aside: Path) -> bool:
    """Return whether only the tensors got their place: `_read` finds their values in `aside`."""
    return (aside / VALUES).exists() and not (aside / TENSORS).exists()


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
        values = decoded(content(folder / VALUES, MOST_JSON))
        if isinstance(values, list):
            return _Read(folder, tensors, values)
        digest = _digest(folder / TENSORS)
        for path in [folder / VALUES, *sorted(folder.glob(f"{ASIDE}*/{VALUES}"))]:
            values = decoded(content(path, MOST_JSON))
            if isinstance(values, dict) and values.pop(_DIGEST, None) == digest:
                return _Read(folder, tensors, values)
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise StateMismatchError(f"{folder}: {TENSORS} or {VALUES} is damaged: {error}") from error
    raise StateMismatchError(f"{folder}: {TENSORS} and {VALUES} do not belong together, or are damaged")


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


def _of_lerobot(folder: Path, tensors: Mapping[str, Tensor], groups: list[dict[str, Any]]) -> dict[str, Any]:
    state: dict[int, dict[str, Tensor]] = {}
    for path, tensor in tensors.items():
        _, position, entry = path.split("/")
        state.setdefault(int(position), {})[entry] = tensor
    groups = [{key: tuple(value) if key == "betas" else value for key, value in group.items()} for group in groups]
    state_dict: dict[str, Any] = {"state": state, "param_groups": groups}
    scheduler = next(
        (path for path in (folder / LEROBOTS_SCHEDULER, folder.parent / LEROBOTS_SCHEDULER) if path.exists()), None
    )
    if scheduler is not None:
        state_dict["scheduler"] = {"last_epoch": decoded(content(scheduler, MOST_JSON))["last_epoch"]}
    return state_dict
