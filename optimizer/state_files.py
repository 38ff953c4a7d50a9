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

from optimizer.named_state import NamedState, load_named_state, named_state
from optimizer.state_checks import StateMismatchError

TENSORS = "optimizer_state.safetensors"
VALUES = "optimizer_param_groups.json"
LEROBOTS_SCHEDULER = "scheduler_state.json"

Saved = TypeVar("Saved", bound=Optimizer | Mapping[str, Optimizer])


def save_optimizer_state(optimizer: Optimizer | Mapping[str, Optimizer], save_dir: str | Path) -> None:
    """Write the state of an optimizer, its schedule's included, into a directory; of several into one each by name.

    A file is there whole or not at all, and the two of an optimizer say that they belong together.
    Raises ValueError if an optimizer was built from parameters without names.
    """
    folder = Path(save_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(optimizer, Mapping):
        for name, one in optimizer.items():
            save_optimizer_state(one, folder / name)
        return
    state = named_state(optimizer)
    tensors = save(independent(state.tensors))
    values = json.dumps({**state.values, "sha256": hashlib.sha256(tensors).hexdigest()}, indent=1)
    _write(folder / TENSORS, tensors)
    _write(folder / VALUES, values.encode())


def load_optimizer_state(optimizer: Saved, save_dir: str | Path) -> Saved:
    """Load what `save_optimizer_state` wrote, or LeRobot's function of that name, and return the optimizer.

    LeRobot's state goes by the parameters' positions; the schedule's position is in its scheduler_state.json.
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
        tensors = load(content)
        values = json.loads((folder / VALUES).read_bytes())
    except (SafetensorError, ValueError) as error:
        raise StateMismatchError(f"{folder}: {TENSORS} or {VALUES} is damaged: {error}") from error
    if isinstance(values, list):
        optimizer.load_state_dict(_of_lerobot(folder, tensors, values))
        return optimizer
    if values.pop("sha256", None) != hashlib.sha256(content).hexdigest():
        raise StateMismatchError(f"{folder}: {TENSORS} and {VALUES} do not belong together, or are damaged")
    load_named_state(optimizer, NamedState(tensors, values))
    return optimizer


def independent(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors as safetensors takes them: contiguous, none sharing memory with another."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        plain = tensor.detach().resolve_conj().resolve_neg().contiguous()  # else their bits are the other value's
        result[name] = plain.clone() if storage in seen else plain
        seen.add(storage)
    return result


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
