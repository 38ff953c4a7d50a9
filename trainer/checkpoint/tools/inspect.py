"""What a checkpoint holds and whether it is whole, told without loading a tensor."""

import os
import re
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from optimizer.config import counted, listed, shown, shown_value

from ...errors import NewerFormatError, UnreadableError
from ...reporting.tables import align_columns, count, size
from ...run_layout import BEST, CHECKPOINTS, LATEST, OPTIMIZER_TENSORS, OPTIMIZER_VALUES, TRAINER, WEIGHTS
from ...runtime.files import DamagedCheckpointError, opened_tensors, read_json, stat_of
from ..concurrent_reading import is_still_there, read_checkpoint
from ..contents import Progress, expected_content, read_progress
from ..directory import complete_checkpoints, existing_checkpoint, is_run, read_manifest, verify
from ..health import some
from ..names import is_folder, read_pointer, step_named_in, step_of
from ..own_state import PARTS, own_values
from ..selection import foreign_note, nonfinite_weights
from ..writing import DAMAGED

_HEADER = ("component", "trains", "tensors", "values", "weights", "optimizer", "state", "position", "next lr")
_NUMBERS = (2, 3, 4, 6, 7, 8)


def inspection(path: Path) -> str:
    """Return what the checkpoint that `path` leads to holds, as text. Raises ValueError where there is none, or damage.

    Of tensors only the headers are read.
    """
    return read_checkpoint(path, _inspected)


def _inspected(folder: Path) -> str:
    manifest, progress = read_manifest(folder), read_progress(folder)
    if strange := [name for name in progress.values["components"] if f"{name}/{WEIGHTS}" not in manifest["files"]]:
        raise DamagedCheckpointError(
            f"{folder}: has no weights of {shown_value(strange[0])}, which its trainer.json names"
        )
    rows = [_row(folder, name, progress, manifest) for name in progress.values["components"]]
    with expected_content(folder / TRAINER):
        data = progress.values["data"]
        place = f"epoch {data['epoch']}, batch {data['batch']} of {data['steps_per_epoch']}"
    headline = f"{folder}: after {counted(progress.step, 'update')} ({place})"
    files = f"format version {manifest['format_version']}, {_files(folder, manifest)}"
    own = [_own(folder, name) for name in PARTS if (folder / f"{name}.json").is_file()]
    return "\n".join([headline, files, *align_columns([_HEADER, *rows], right=_NUMBERS), *own])


def verification(path: Path) -> tuple[bool, str]:
    """Return whether every checkpoint of a run, or the one that `path` is or names, is whole, and a line for each
    that is and for each damage. Raises ValueError where there is no checkpoint.
    """
    results: list[tuple[bool, list[str]]] = []
    while not results:
        folder = existing_checkpoint(path)
        checkpoints = path / CHECKPOINTS if is_run(path) else None
        folders = [folder] if checkpoints is None else sorted(complete_checkpoints(checkpoints), key=step_of)
        results = [result for one in folders if (result := _verified(one)) is not None]
    lines, whole = [line for _, lines in results for line in lines], all(good for good, _ in results)
    if checkpoints is not None:
        astray = [name for name in (LATEST, BEST) if _leads_nowhere(checkpoints, name)]
        lines += [f"{checkpoints / name}: names no checkpoint that is there" for name in astray]
        whole = whole and not astray
        aside = sorted(checkpoints.glob(f"{DAMAGED}*"))
        lines += [f"{one}: set aside as damaged by a resume; remove it when it is of no use" for one in aside]
    return whole, "\n".join(lines)


def _verified(folder: Path) -> tuple[bool, list[str]] | None:
    """Return whether a checkpoint is whole, and the lines that say so; None if it was removed meanwhile.

    A run that trains removes old checkpoints, and may write one again: what is missing then is not damage.
    """
    before = stat_of(folder)
    try:
        manifest = verify(folder)
        ok = f"{folder}: ok ({_files(folder, manifest)})"
        names = nonfinite_weights(folder, manifest)
        notes = [note] if (note := foreign_note(folder, manifest)) else []
        return True, [ok + (f"; not finite: {some(names)}" if names else ""), *notes]
    except (DamagedCheckpointError, UnreadableError, NewerFormatError) as error:
        if is_still_there(folder, before):
            return False, [str(error)]
        return _verified(folder) if is_folder(folder) else None


def _leads_nowhere(checkpoints: Path, name: str) -> bool:
    """Return whether LATEST or BEST is there and names no checkpoint, nor another one a moment later."""
    while os.path.lexists(checkpoints / name):
        text = step_named_in(checkpoints / name)
        if read_pointer(checkpoints, name) is not None:
            return False
        if step_named_in(checkpoints / name) == text:
            return os.path.lexists(checkpoints / name)
    return False


def _own(folder: Path, name: str) -> str:
    """Return a line on the state of the objective or the data set."""
    tensors, values, weight = _extent(folder / f"{name}.safetensors")
    plain = listed([path.partition(".")[2] for path in own_values(folder, name)])
    extent = (
        f"{counted(tensors, 'tensor')}, {counted(values, 'value', count(values))}, {size(weight)}"
        if tensors
        else "no tensors"
    )
    return f"state of {name}: {extent}" + (f"; {plain}" if plain else "")


def _files(folder: Path, manifest: Mapping[str, Any]) -> str:
    with expected_content(folder):
        total = sum(description["size_bytes"] for description in manifest["files"].values())
    return f"{size(total)} in {counted(len(manifest['files']), 'file')}"


def _row(folder: Path, name: str, progress: Progress, manifest: Mapping[str, Any]) -> tuple[str, ...]:
    tensors, values, weights = _extent(folder / name / WEIGHTS)
    how = shown(progress.values["components"][name])
    start = (shown(name), how, str(tensors), count(values), size(weights))
    path = folder / name / OPTIMIZER_VALUES
    if f"{name}/{OPTIMIZER_VALUES}" not in manifest["files"]:
        return *start, "-", "-", "-", "-"
    saved = read_json(path)
    with expected_content(path):
        lrs = [_number(group["lr"]) for group in saved["param_groups"]]
        position = shown(saved.get("scheduler", {}).get("last_epoch", "-"))
    with expected_content(folder / TRAINER):
        kind = shown(progress.values["config"]["model"]["component_optims"][name]["type"])
    lr = f"{lrs[0]:.4g}" if len(set(lrs)) == 1 else f"{min(lrs):.4g} to {max(lrs):.4g}"
    return *start, kind, size(_extent(folder / name / OPTIMIZER_TENSORS)[2]), position, lr


def _extent(path: Path) -> tuple[int, int, int]:
    """Return how many tensors are in a safetensors file, how many values in them, and in how many bytes."""
    with opened_tensors(path) as file:
        slices = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118  # it is no dict
        numbers = [prod(one.get_shape()) for one in slices]
        bits = [number * _bits(one.get_dtype()) for number, one in zip(numbers, slices, strict=True)]
    return len(slices), sum(numbers), sum(bits) // 8


def _bits(dtype: str) -> int:
    """Return the bits of a safetensors type: F32, BF16, F8_E4M3, BOOL …"""
    number = re.search(r"\d+", dtype)
    return int(number[0]) if number else 8


def _number(value: Any) -> float:
    return float(value["scalar"] if isinstance(value, dict) else value)
