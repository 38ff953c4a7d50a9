"""Shows the content of a checkpoint, and whether it is whole, without loading a tensor."""

import os
import re
from math import prod
from pathlib import Path

from optimizer.config import counted, listed, shown, shown_value
from optimizer.types import JsonObject

from ...errors import NewerFormatError, UnreadableError
from ...reporting.tables import align_columns, count, size
from ...run_layout import BEST, CHECKPOINTS, LATEST, OPTIMIZER_TENSORS, OPTIMIZER_VALUES, TRAINER, WEIGHTS
from ...runtime.files import DamagedCheckpointError, opened_tensors, read_json, stat_of
from ..concurrent_reading import is_still_there, read_checkpoint
from ..contents import (
    COMPONENT_STATE,
    OPTIMIZER_STATE,
    RUN_STATE,
    WEIGHTS_STATE,
    Progress,
    StateFiles,
    expected_content,
    read_flat_values,
    read_progress,
)
from ..directory import complete_checkpoints, existing_checkpoint, is_run, read_manifest, verify
from ..health import shorten_names
from ..names import is_file, is_folder, read_pointer, read_step_name, step_of
from ..selection import foreign_note, nonfinite_tensors
from ..writing import DAMAGED

_HEADER = ("component", "trains", "tensors", "values", "weights", "optimizer", "state", "position", "next lr")
_NUMBERS = (2, 3, 4, 6, 7, 8)


def inspection(path: Path) -> str:
    """Return the content of the checkpoint that `path` leads to, as text. Of tensors only the headers are read.

    Raises:
        ValueError: There is no checkpoint, or it is damaged.
    """
    return read_checkpoint(path, _content_text)


def _content_text(folder: Path) -> str:
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
    files = f"format version {manifest['format_version']}, {_size_text(folder, manifest)}"
    table = align_columns([_HEADER, *rows], right=_NUMBERS)
    return "\n".join([headline, files, *table, *_lines_below_table(folder, progress)])


def verification(path: Path) -> tuple[bool, str]:
    """Check every file of checkpoints.

    Args:
        path: Leads to a checkpoint, or a run, of which all checkpoints are checked.

    Returns:
        Whether all are whole; and a line for each that is and for each damage.

    Raises:
        ValueError: There is no checkpoint.
    """
    results: list[tuple[bool, list[str]]] = []
    while not results:
        folder = existing_checkpoint(path)
        checkpoints = path / CHECKPOINTS if is_run(path) else None
        folders = [folder] if checkpoints is None else sorted(complete_checkpoints(checkpoints), key=step_of)
        results = [result for one in folders if (result := _verify_one(one)) is not None]
    lines, whole = [line for _, lines in results for line in lines], all(good for good, _ in results)
    if checkpoints is not None:
        dangling = [name for name in (LATEST, BEST) if _is_dangling(checkpoints, name)]
        lines += [f"{checkpoints / name}: names no checkpoint that is there" for name in dangling]
        whole = whole and not dangling
        aside = sorted(checkpoints.glob(f"{DAMAGED}*"))
        lines += [f"{one}: set aside as damaged by a resume; remove it when it is no longer needed" for one in aside]
    return whole, "\n".join(lines)


def _verify_one(folder: Path) -> tuple[bool, list[str]] | None:
    """Return whether a checkpoint is whole, and the lines on it; None if it was removed meanwhile.

    A run that trains removes old checkpoints, and may write one again: missing files are not damage then.
    """
    before = stat_of(folder)
    try:
        manifest = verify(folder)
        ok = f"{folder}: ok ({_size_text(folder, manifest)})"
        names = nonfinite_tensors(folder, manifest)
        notes = [note] if (note := foreign_note(folder, manifest)) else []
        return True, [ok + (f"; not finite: {shorten_names(names)}" if names else ""), *notes]
    except (DamagedCheckpointError, UnreadableError, NewerFormatError) as error:
        if is_still_there(folder, before):
            return False, [str(error)]
        return _verify_one(folder) if is_folder(folder) else None


def _is_dangling(checkpoints: Path, name: str) -> bool:
    """Return whether LATEST or BEST is there and names no checkpoint, also after it was read again."""
    while os.path.lexists(checkpoints / name):
        text = read_step_name(checkpoints / name)
        if read_pointer(checkpoints, name) is not None:
            return False
        if read_step_name(checkpoints / name) == text:
            return os.path.lexists(checkpoints / name)
    return False


def _lines_below_table(folder: Path, progress: Progress) -> list[str]:
    """Return a line for each kind of state that the table does not show."""
    below = [state for state in COMPONENT_STATE if state not in (WEIGHTS_STATE, OPTIMIZER_STATE)]
    states = [
        (folder / name, state, f"{state.label} of {shown(name)}")
        for name in progress.values["components"]
        for state in below
    ]
    states += [(folder, state, f"{state.label} of {state.name}") for state in RUN_STATE]
    return [_state_line(*given) for given in states if is_file(given[0] / (given[1].tensors or given[1].values))]


def _state_line(folder: Path, state: StateFiles, label: str) -> str:
    if not state.tensors:
        return f"{label}: " + listed([f"{path} {value}" for path, value in read_flat_values(folder, state).items()])
    tensors, values, weight = _extent(folder / state.tensors)
    plain = shorten_names(list(read_flat_values(folder, state)))
    extent = f"{counted(tensors, 'tensor')}, {counted(values, 'value', count(values))}, {size(weight)}"
    return f"{label}: {extent if tensors else 'no tensors'}" + (f"; {plain}" if plain else "")


def _size_text(folder: Path, manifest: JsonObject) -> str:
    with expected_content(folder):
        total = sum(description["size_bytes"] for description in manifest["files"].values())
    return f"{size(total)} in {counted(len(manifest['files']), 'file')}"


def _row(folder: Path, name: str, progress: Progress, manifest: JsonObject) -> tuple[str, ...]:
    tensors, values, weights = _extent(folder / name / WEIGHTS)
    how = shown(progress.values["components"][name])
    start = (shown(name), how, str(tensors), count(values), size(weights))
    path = folder / name / OPTIMIZER_VALUES
    if f"{name}/{OPTIMIZER_VALUES}" not in manifest["files"]:
        return *start, "-", "-", "-", "-"
    saved = read_json(path)
    with expected_content(path):
        lrs = [_as_number(group["lr"]) for group in saved["param_groups"]]
        position = shown(saved.get("scheduler", {}).get("last_epoch", "-"))
    with expected_content(folder / TRAINER):
        kind = shown(progress.values["config"]["model"]["component_optims"][name]["type"])
    lr = f"{lrs[0]:.4g}" if len(set(lrs)) == 1 else f"{min(lrs):.4g} to {max(lrs):.4g}"
    return *start, kind, size(_extent(folder / name / OPTIMIZER_TENSORS)[2]), position, lr


def _extent(path: Path) -> tuple[int, int, int]:
    """Return how many tensors are in a safetensors file, how many values in them, and in how many bytes."""
    with opened_tensors(path) as file:
        slices = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118 not a dict
        numbers = [prod(one.get_shape()) for one in slices]
        bits = [number * _bits_per_value(one.get_dtype()) for number, one in zip(numbers, slices, strict=True)]
    return len(slices), sum(numbers), sum(bits) // 8


def _bits_per_value(dtype: str) -> int:
    """Return the bits of a safetensors type: F32, BF16, F8_E4M3, BOOL …"""
    number = re.search(r"\d+", dtype)
    return int(number[0]) if number else 8


def _as_number(value: float | JsonObject) -> float:
    return float(value["scalar"] if isinstance(value, dict) else value)
