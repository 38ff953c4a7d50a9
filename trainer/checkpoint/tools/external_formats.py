"""Weights and optimizer state by position: the files of LeRobot and of plain PyTorch. Reading them runs no code."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from optimizer.state import (
    LEROBOT_SCHEDULER,
    TENSORS,
    VALUES,
    lerobot_state_dict,
    scheduler_position,
    unsavable_name_reason,
    without_sharing,
    write_new,
    write_tensors,
)
from optimizer.types import JsonObject, ParamGroup, StateDict

from ...run_layout import WEIGHTS
from ...runtime.files import DamagedCheckpointError, opened_tensors, read_json, read_json_list, read_tensors
from ..contents import expected_content
from .torch_files import read_torch_file, write_torch_file

TRAINING_STATE = "training_state"
PRETRAINED_MODEL = "pretrained_model"
OPTIMIZER_FILE = "_opt.pt"


@dataclass(frozen=True)
class PositionalState:
    """One component and its optimizer, whose parameters have positions and may have no names."""

    weights: dict[str, Tensor]
    optimizer: StateDict | None
    """A state dict of torch.optim, with the schedule's position under "scheduler" if known; None: no optimizer."""
    source: Path
    """The file or folder that it was read from."""


def lerobot_folder(path: Path) -> Path | None:
    """Return the folder of LeRobot's optimizer state: `path`, or the one in it if `path` is a checkpoint; or None."""
    return next((folder for folder in (path, path / TRAINING_STATE) if os.path.lexists(folder / TENSORS)), None)


def read_lerobot(folder: Path) -> PositionalState:
    """Read a folder of LeRobot's optimizer state, and the weights beside it.

    Raises:
        DamagedCheckpointError: A file is missing, or LeRobot did not write it.
    """
    tensors, groups = read_tensors(folder / TENSORS), read_json_list(folder / VALUES)
    try:
        optimizer = lerobot_state_dict(folder, tensors, groups, read_json)
    except ValueError as error:
        raise DamagedCheckpointError(str(error)) from error
    there = folder / WEIGHTS, folder.parent / PRETRAINED_MODEL / WEIGHTS
    weights = _first_existing(*there)
    if weights is None:
        raise DamagedCheckpointError(f"{there[0]}: is missing, as is {there[1]}. Put the weights into one of them.")
    return PositionalState(_read_shared_tensors(weights), optimizer, folder)


def torch_names(folder: Path) -> list[str]:
    """Return the names of the modules whose state dicts are in a folder as NAME.pt, perhaps with NAME_opt.pt."""
    files = sorted(path.name for path in folder.glob("*.pt"))
    names = dict.fromkeys(name.removesuffix(OPTIMIZER_FILE).removesuffix(".pt") for name in files)
    return [name for name in names if name.strip(".")]  # the others are not valid names of folders: "..pt" would be "."


def read_torch(folder: Path, name: str) -> PositionalState:
    """Read NAME.pt and NAME_opt.pt.

    Raises:
        DamagedCheckpointError: A file is not a state dict, or reading it would run code.
    """
    path, optimizer_path = folder / f"{name}.pt", folder / f"{name}{OPTIMIZER_FILE}"
    weights = read_torch_file(path)
    if not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in weights.items()):
        raise DamagedCheckpointError(f"{path}: is not a module's state dict: not every entry is a tensor with a name")
    if problem := next(filter(None, map(unsavable_name_reason, weights)), None):
        raise DamagedCheckpointError(f"{path}: has a tensor that cannot be saved: {problem}")
    if not os.path.lexists(optimizer_path):
        return PositionalState(weights, None, path)
    optimizer = read_torch_file(optimizer_path)
    if lacking := [key for key in ("state", "param_groups") if key not in optimizer]:
        raise DamagedCheckpointError(
            f"{optimizer_path}: is not an optimizer's state dict: it lacks {' and '.join(lacking)}"
        )
    with expected_content(optimizer_path):
        groups = [{key: _plain_betas(value) for key, value in group.items()} for group in optimizer["param_groups"]]
        optimizer = {**optimizer, "state": dict(optimizer["state"]), "param_groups": groups}
    if "scheduler" in optimizer:
        try:
            optimizer["scheduler"] = scheduler_position(optimizer_path, optimizer["scheduler"])
        except ValueError as error:
            raise DamagedCheckpointError(str(error)) from error
    return PositionalState(weights, optimizer, optimizer_path)


def write_lerobot(folder: Path, component: PositionalState) -> None:
    """Write the files of LeRobot into the new folder `folder`.

    Raises:
        ValueError: LeRobot's files cannot hold the state.
        OSError: A file cannot be written.
    """
    folder.mkdir()
    write_tensors(folder / WEIGHTS, component.weights, {"format": "pt"})
    optimizer = component.optimizer
    if optimizer is None:
        return
    flat = {
        f"state/{position}/{entry}": value
        for position, entries in optimizer["state"].items()
        for entry, value in entries.items()
        if value is not None
    }
    if odd := [path for path, value in flat.items() if not isinstance(value, Tensor) or path.count("/") != 2]:
        raise ValueError(
            f"{component.source}: LeRobot's files hold tensors only, which these are not: {', '.join(odd)}"
        )
    write_tensors(folder / TENSORS, without_sharing(flat))
    groups = [_lerobot_group(group) for group in optimizer["param_groups"]]
    write_new(folder / VALUES, _to_json(component, groups))
    if "scheduler" in optimizer:
        state = _lerobot_scheduler(groups, optimizer["scheduler"]["last_epoch"])
        write_new(folder / LEROBOT_SCHEDULER, _to_json(component, state))


def write_torch(folder: Path, name: str, component: PositionalState) -> None:
    """Write NAME.pt and, of a component with an optimizer, NAME_opt.pt.

    Args:
        folder: The folder to write into.
        name: The component's.
        component: Its weights and optimizer.

    Raises:
        ValueError: Another component's files have these names.
        OSError: A file cannot be written.
    """
    for file in (f"{name}.pt", f"{name}{OPTIMIZER_FILE}"):
        if (folder / file).exists():
            raise ValueError(f"{component.source}: {file} would be two components' file. Convert them one by one.")
    write_torch_file(folder / f"{name}.pt", component.weights)
    if component.optimizer is not None:
        write_torch_file(folder / f"{name}{OPTIMIZER_FILE}", component.optimizer)


def _to_json(component: PositionalState, values: object) -> str:
    """Return `values` as LeRobot writes them, which cannot hold numbers that are not finite. Raises ValueError."""
    try:
        return json.dumps(values, indent=4, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{component.source}: LeRobot's JSON cannot hold an option: {error}") from error


def _first_existing(*paths: Path) -> Path | None:
    return next((path for path in paths if os.path.lexists(path)), None)


def _read_shared_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file, also under the names that safetensors' save_model left out as duplicates."""
    tensors = read_tensors(path)
    with opened_tensors(path) as file:
        same = file.metadata() or {}
    shared = {name: tensors[kept].clone() for name, kept in same.items() if kept in tensors and name not in tensors}
    return {**tensors, **shared}


def _plain_betas(value: object) -> object:
    """Return an option of several numbers, which torch also accepts as tensors, as plain numbers."""
    if not isinstance(value, tuple):
        return value
    return tuple(one.item() if isinstance(one, Tensor) and one.ndim == 0 else one for one in value)


def _lerobot_group(group: ParamGroup) -> ParamGroup:
    """Return a group as LeRobot's optimizer has it, entry for entry: it names no parameters and no implementation."""
    result = {key: value for key, value in group.items() if key != "param_names"}
    if "train_mode" not in group:  # schedule-free classes have a foreach that is a bool
        result |= {key: None for key in ("foreach", "fused") if key in group}
    return result


def _lerobot_scheduler(groups: list[ParamGroup], last_epoch: int) -> JsonObject:
    """Return the state of the LambdaLR that LeRobot has beside its optimizer, after `last_epoch` updates."""
    bases = [float(group["initial_lr" if "initial_lr" in group else "lr"]) for group in groups]
    dummy = torch.optim.SGD([{"params": [torch.zeros(1)], "lr": base} for base in bases])
    state = LambdaLR(dummy, [lambda _: 1.0] * len(groups)).state_dict()
    last = [float(group["lr"]) for group in groups]
    return {**state, "last_epoch": last_epoch, "_step_count": last_epoch + 1, "_last_lr": last}
