"""What a checkpoint holds and whether it is whole, told without loading a tensor."""

import re
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from trainer.checkpoint import (
    OPTIMIZER_TENSORS,
    OPTIMIZER_VALUES,
    TRAINER,
    WEIGHTS,
    Progress,
    expected_content,
    read_progress,
)
from trainer.checkpoint_files import (
    BEST,
    LATEST,
    complete_checkpoints,
    existing_checkpoint,
    pointed,
    read_manifest,
    step_of,
    verify,
)
from trainer.disk import DamagedCheckpointError, opened_tensors, read_json
from trainer.own_state import PARTS, own_values
from trainer.tables import aligned, count, size

_HEADER = ("component", "trains", "tensors", "values", "weights", "optimizer", "state", "position", "next lr")
_NUMBERS = (2, 3, 4, 6, 7, 8)


def inspection(path: Path) -> str:
    """Return what the checkpoint that `path` leads to holds, as text. Raises ValueError where there is none, or damage.

    Of tensors only the headers are read.
    """
    folder = existing_checkpoint(path)
    manifest, progress = read_manifest(folder), read_progress(folder)
    rows = [_row(folder, name, progress) for name in progress.values["components"]]
    with expected_content(folder / TRAINER):
        data = progress.values["data"]
        place = f"epoch {data['epoch']}, batch {data['batch']} of {data['steps_per_epoch']}"
    headline = f"{folder}: after {progress.step} updates ({place})"
    files = f"format version {manifest['format_version']}, {_files(folder, manifest)}"
    own = [_own(folder, name) for name in PARTS if (folder / f"{name}.json").is_file()]
    return "\n".join([headline, files, *aligned([_HEADER, *rows], right=_NUMBERS), *own])


def verification(path: Path) -> tuple[bool, str]:
    """Return whether every checkpoint of a run, or the one that `path` is or names, is whole, and a line for each
    that is and for each damage. Raises ValueError where there is no checkpoint.
    """
    folder = existing_checkpoint(path)
    in_run = path / "checkpoints"
    folders = sorted(complete_checkpoints(in_run), key=step_of) if in_run.is_dir() else [folder]
    lines, damaged = [], False
    for one in folders:
        try:
            lines.append(f"{one}: ok ({_files(one, verify(one))})")
        except DamagedCheckpointError as error:
            lines.append(str(error))
            damaged = True
    if in_run.is_dir():
        astray = [name for name in (LATEST, BEST) if (in_run / name).exists() and pointed(in_run, name) is None]
        lines += [f"{in_run / name}: names no checkpoint that is there" for name in astray]
        damaged = damaged or bool(astray)
    return not damaged, "\n".join(lines)


def _own(folder: Path, name: str) -> str:
    """Return a line on the state of the objective or the data set."""
    tensors, values, weight = _extent(folder / f"{name}.safetensors")
    plain = ", ".join(path.partition(".")[2] for path in own_values(folder, name))
    extent = f"{tensors} tensors, {count(values)} values, {size(weight)}" if tensors else "no tensors"
    return f"state of {name}: {extent}" + (f"; {plain}" if plain else "")


def _files(folder: Path, manifest: Mapping[str, Any]) -> str:
    with expected_content(folder):
        total = sum(description["size_bytes"] for description in manifest["files"].values())
    return f"{size(total)} in {len(manifest['files'])} files"


def _row(folder: Path, name: str, progress: Progress) -> tuple[str, ...]:
    tensors, values, weights = _extent(folder / name / WEIGHTS)
    how = str(progress.values["components"][name])
    start = (name, how, str(tensors), count(values), size(weights))
    path = folder / name / OPTIMIZER_VALUES
    if not path.is_file():
        return *start, "-", "-", "-", "-"
    saved = read_json(path)
    with expected_content(path):
        lrs = [_number(group["lr"]) for group in saved["param_groups"]]
        position = str(saved.get("scheduler", {}).get("last_epoch", "-"))
    with expected_content(folder / TRAINER):
        kind = str(progress.values["config"]["model"]["component_optims"][name]["type"])
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
