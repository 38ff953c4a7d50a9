"""LeRobot's files of an optimizer's state: tensors, groups and the scheduler's position, by parameter position."""

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from torch import Tensor

from ..config.messages import shown_value
from ..types import ParamGroup, StateDict

TENSORS = "optimizer_state.safetensors"
VALUES = "optimizer_param_groups.json"
LEROBOT_SCHEDULER = "scheduler_state.json"
"""In the folder of the other two, or in its parent."""


def lerobot_state_dict(
    folder: Path, tensors: Mapping[str, Tensor], groups: Iterable[object], read_json: Callable[[Path], object]
) -> StateDict:
    """Return the content of LeRobot's files as a state dict of torch.

    Args:
        folder: where the files are.
        tensors: those of TENSORS, under names like state/0/exp_avg.
        groups: the list in VALUES.
        read_json: reads the scheduler's file, if there is one.

    Returns:
        The state by position and the groups; under "scheduler" the position, if it is known.

    Raises:
        ValueError: A file does not have the form that LeRobot writes; the message begins with its path.
    """
    state_dict: StateDict = {
        "state": _parse_state(folder / TENSORS, tensors),
        "param_groups": [_parse_group(folder / VALUES, group) for group in groups],
    }
    places = folder / LEROBOT_SCHEDULER, folder.parent / LEROBOT_SCHEDULER
    scheduler = next((path for path in places if os.path.lexists(path)), None)
    if scheduler is not None:
        state_dict["scheduler"] = scheduler_position(scheduler, read_json(scheduler))
    return state_dict


def scheduler_position(path: Path, scheduler: object) -> dict[str, int]:
    """Return the position in the state of a scheduler of torch, without the rest.

    Args:
        path: the file that it was read from.
        scheduler: its `state_dict()`.

    Raises:
        ValueError: Its `last_epoch` is not a count of updates.
    """
    position = scheduler.get("last_epoch") if isinstance(scheduler, Mapping) else None
    if type(position) is not int or position < 0:
        raise ValueError(f"{path}: the scheduler's last_epoch must be a whole number >= 0; got {shown_value(position)}")
    return {"last_epoch": position}


def _parse_state(path: Path, tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        pieces = name.split("/")
        if len(pieces) != 3 or not pieces[1].isdecimal():
            raise ValueError(f"{path}: must hold tensors with names like state/0/exp_avg; got {shown_value(name)}")
        state.setdefault(int(pieces[1]), {})[pieces[2]] = tensor
    return state


def _parse_group(path: Path, group: object) -> ParamGroup:
    """Return a group as torch has it: betas are a tuple, for which JSON has a list."""
    if not isinstance(group, dict) or not isinstance(group.get("betas", []), list):
        raise ValueError(f"{path}: must hold parameter groups; got {shown_value(group)}")
    return {key: tuple(value) if key == "betas" else value for key, value in group.items()}
