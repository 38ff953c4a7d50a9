"""An optimizer's state on disk: safetensors and JSON, under the names that LeRobot gives the two files."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from torch.optim import Optimizer

from optimizer.named_loading import load_named_state, load_state_by_position
from optimizer.named_state import NamedState, named_state, state_by_position
from optimizer.state_checks import StateMismatchError
from optimizer.strides import independent, packed, unpacked

TENSORS = "optimizer_state.safetensors"
VALUES = "optimizer_param_groups.json"
BY_POSITION = "by_position"
"""Marks values whose parameters are called by their positions."""
LEROBOTS_SCHEDULER = "scheduler_state.json"

Saved = TypeVar("Saved", bound=Optimizer | Mapping[str, Optimizer])


def save_optimizer_state(optimizer: Optimizer | Mapping[str, Optimizer], save_dir: str | Path) -> None:
    """Write the state of an optimizer, its schedule's included, into a directory; of several into one each by name.

    A file is there whole or not at all, and the two of an optimizer say that they belong together. An optimizer that
    was built from parameters without names is saved, and loaded again, by their positions.
    Raises ValueError for state that cannot be saved.
    """
    folder = Path(save_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(optimizer, Mapping):
        for name, one in optimizer.items():
            save_optimizer_state(one, folder / name)
        return
    named = _has_names(optimizer)
    state = named_state(optimizer) if named else state_by_position(optimizer)
    tensors = save(*packed(independent(state.tensors)))
    values = {**state.values, "sha256": hashlib.sha256(tensors).hexdigest()} | ({} if named else {BY_POSITION: True})
    _write(folder / TENSORS, tensors)
    _write(folder / VALUES, json.dumps(values, indent=1).encode())


def load_optimizer_state(optimizer: Saved, save_dir: str | Path) -> Saved:
    """Load what `save_optimizer_state` wrote, or LeRobot's function of that name, and return the optimizer.

    State is matched by name where both sides have names, else by the parameters' positions, as LeRobot's is, whose
    schedule's position is in its scheduler_state.json.
    Raises FileNotFoundError for a missing file, StateMismatchError if the state does not fit or is damaged.
    """
    folder = Path(save_dir)
    if isinstance(optimizer, Mapping):
        if missing := [name for name in optimizer if not (folder / name).is_dir()]:
            raise FileNotFoundError(f"{folder}: no state of {', '.join(missing)}")
        for name, one in optimizer.items():
            load_optimizer_state(one, folder / name)
        return optimizer
    content = (folder / TENSORS).read_bytes()
    try:
        tensors = unpacked(load(content), _metadata(content))
        values = json.loads((folder / VALUES).read_bytes())
    except (SafetensorError, ValueError) as error:
        raise StateMismatchError(f"{folder}: {TENSORS} or {VALUES} is damaged: {error}") from error
    if isinstance(values, list):
        optimizer.load_state_dict(_of_lerobot(folder, tensors, values))
        return optimizer
    if values.pop("sha256", None) != hashlib.sha256(content).hexdigest():
        raise StateMismatchError(f"{folder}: {TENSORS} and {VALUES} do not belong together, or are damaged")
    if values.pop(BY_POSITION, False) or not _has_names(optimizer):
        load_state_by_position(optimizer, NamedState(tensors, values))
    else:
        load_named_state(optimizer, NamedState(tensors, values))
    return optimizer


def _has_names(optimizer: Optimizer) -> bool:
    return all("param_names" in group for group in optimizer.param_groups)


def _metadata(content: bytes) -> dict[str, str]:
    """Return the metadata of a safetensors file that could be read."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    metadata: dict[str, str] = header.get("__metadata__", {})
    return metadata


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
        state_dict["scheduler"] = {"last_epoch": json.loads(scheduler.read_text(encoding="utf-8"))["last_epoch"]}
    return state_dict


def _write(path: Path, content: bytes) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
