"""Compares two checkpoints: config, positions, and tensors, one pair in memory at a time."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from optimizer.config import counted, shown, shown_value
from optimizer.state import torch_name
from optimizer.types import JsonObject

from ...reporting.tables import aligned
from ...run_layout import RNG_TENSORS, TRAINER
from ...runtime.files import DamagedCheckpointError, opened_tensors
from ..concurrent_reading import read_checkpoint
from ..contents import (
    COMPONENT_STATE,
    RUN_STATE,
    WEIGHTS_STATE,
    StateFiles,
    expected_content,
    read_flat_values,
    read_progress,
)
from ..fingerprint import Row, differing_leaves, fingerprint_leaves, leaves
from ..names import is_file, is_folder

SHOWN = 20
"""Rows of a table of differences, unless all are asked for."""

_ABSENT = object()
_IN_DATA = ("epoch", "batch")
"""The fields of the trainer's `data` that are positions and not choices."""

Sides = tuple[Path, Path]


@dataclass
class _TensorDifferences:
    only: list[str] = field(default_factory=list)
    """A line for each tensor that one side lacks."""
    other: list[str] = field(default_factory=list)
    """A line for each tensor of another shape or type."""
    rows: list[tuple[str, str, str, float, float]] = field(default_factory=list)
    """Owner, label, name, largest absolute and relative difference of each other tensor that differs."""
    summary: list[str] = field(default_factory=list)
    """A line for each owner, and one for the random number generators."""
    differ: bool = False
    """Whether anything differs."""


def differences(first: Path, second: Path, show_all: bool = False) -> tuple[bool, str]:
    """Compare two checkpoints. NaN equals NaN.

    Args:
        first: A checkpoint's folder, or a run, of which the newest checkpoint is taken.
        second: The same for the other side.
        show_all: Whether to show all rows of each table.

    Returns:
        Whether the checkpoints are identical, and their differences as text.

    Raises:
        ValueError: There is no checkpoint, or it is damaged.
    """
    return read_checkpoint(first, lambda a: read_checkpoint(second, lambda b: _compare((a, b), show_all)))


def _compare(sides: Sides, show_all: bool) -> tuple[bool, str]:
    config, positions = _compare_values(sides)
    tensors = _compare_tensors(sides)
    blocks = [[f"A: {sides[0]}", f"B: {sides[1]}"]]
    blocks += [["config, A and B:", *_first_lines(_row_lines(config), show_all)]] if config else []
    blocks += [["positions and options, A and B:", *_first_lines(_row_lines(positions), show_all)]] if positions else []
    blocks += [_first_lines(tensors.only, show_all)] if tensors.only else []
    blocks += [["of another shape or type, A and B:", *_first_lines(tensors.other, show_all)]] if tensors.other else []
    if tensors.rows:
        shown = sorted(tensors.rows, key=lambda row: (row[1] == WEIGHTS_STATE.label, *row[3:]), reverse=True)
        lines = [(*row[:3], f"{row[3]:.3g}", f"{row[4]:.3g}") for row in shown]
        header = ("component", "of", "tensor", "largest difference", "relative")
        head, *body = aligned([header, *lines], right=(3, 4))
        blocks.append([head, *_first_lines(body, show_all)])
    identical = not (config or positions or tensors.differ)
    for folder in sides:
        if not is_folder(folder):  # removed meanwhile: files that were not found may have been there
            raise DamagedCheckpointError(f"{folder}: is missing")
    return identical, "\n\n".join("\n".join(block) for block in [*blocks, tensors.summary])


def _compare_values(sides: Sides) -> tuple[list[Row], list[Row]]:
    """Return the differences in the config, and those in all other plain values."""
    (config, positions), (other_config, other_positions) = map(_read_values, sides)
    return (
        differing_leaves(config, other_config, _ABSENT),
        differing_leaves(positions, other_positions, _ABSENT),
    )


def _read_values(folder: Path) -> tuple[JsonObject, JsonObject]:
    """Return the fingerprint, and all other plain values, by dotted path."""
    values = read_progress(folder).values
    with expected_content(folder / TRAINER):
        return fingerprint_leaves(values), _positions(folder, values)


def _positions(folder: Path, values: JsonObject) -> JsonObject:
    step = read_progress(folder).step
    trainer = {"step": step, **{key: values["data"][key] for key in _IN_DATA}}
    trainer |= {key: values[key] for key in ("horizon", "scaler", "best", "components") if key in values}
    flat = leaves(trainer)
    owners = [(f"{name}.", folder / name, COMPONENT_STATE) for name in values["components"]]
    for prefix, owner_folder, kinds in [*owners, ("", folder, RUN_STATE)]:
        for state in kinds:
            found = read_flat_values(owner_folder, state)
            flat |= {f"{prefix}{state.name}.{path}": value for path, value in found.items()}
    return flat


def _row_lines(rows: list[Row]) -> list[str]:
    return aligned([(f"  {shown(path)}", _value_text(first), _value_text(second)) for path, first, second in rows])


def _value_text(value: object) -> str:
    return "absent" if value is _ABSENT else shown_value(value)


def _first_lines(lines: list[str], show_all: bool) -> list[str]:
    hidden = len(lines) - SHOWN
    return lines if show_all or hidden <= 0 else [*lines[:SHOWN], f"… and {hidden} more; --all shows them"]


def _compare_tensors(sides: Sides) -> _TensorDifferences:
    found = _TensorDifferences()
    components = [read_progress(folder).values["components"] for folder in sides]
    for name in {**components[0], **components[1]}:
        owners = [label for label, known in zip("AB", components, strict=True) if name in known]
        if len(owners) == 1:
            found.differ = True
            found.summary.append(f"{shown(name)}: only in {owners[0]}")
        else:
            _compare_files((sides[0] / name, sides[1] / name), name, COMPONENT_STATE, found)
    for state in RUN_STATE:
        if any(is_file(folder / state.tensors) for folder in sides):
            _compare_files(sides, f"state of {state.name}", [state], found)
    differ = _rng_differ(sides)
    found.differ |= differ
    found.summary.append("random number generators: " + ("differ" if differ else "identical"))
    return found


def _compare_files(folders: Sides, owner: str, states: Iterable[StateFiles], found: _TensorDifferences) -> None:
    """Add the differences between the tensors of one owner, which are in both `folders`, to `found`."""
    differing = total = 0
    name = shown(owner)
    for state in states:
        for tensor, (first, second) in _pairs(folders, state.tensors):
            total += 1
            if first is None or second is None:
                side = "B" if first is None else "A"
                found.only.append(f"only in {side}: {name}, {state.label}: {shown(tensor)}")
            elif (first.shape, first.dtype) != (second.shape, second.dtype):
                forms = f"{_shape_and_dtype(first)}, {_shape_and_dtype(second)}"
                found.other.append(f"  {name}, {state.label}: {shown(tensor)}: {forms}")
            elif (largest := largest_difference(first, second)) is not None:
                found.rows.append((name, state.label, shown(tensor), *largest))
            else:
                continue
            differing += 1
    found.differ |= differing > 0
    found.summary.append(
        f"{name}: " + (f"{differing} of {counted(total, 'tensor')} differ" if differing else "identical")
    )


def _pairs(folders: Sides, file: str) -> Iterator[tuple[str, tuple[Tensor | None, Tensor | None]]]:
    """Yield the tensors of a file on both sides by name; None where a side lacks it. A missing file has none."""
    with ExitStack() as stack:
        there = [folder / file for folder in folders]
        opened = [stack.enter_context(opened_tensors(path)) if is_file(path) else None for path in there]
        names: list[dict[str, None]] = [{} if one is None else dict.fromkeys(one.keys()) for one in opened]
        for name in names[0] | names[1]:
            first, second = (
                one.get_tensor(name) if one is not None and name in known else None
                for one, known in zip(opened, names, strict=True)
            )
            yield name, (first, second)


def largest_difference(first: Tensor, second: Tensor) -> tuple[float, float] | None:
    """Return the largest absolute and relative difference of two tensors; None if they are equal.

    Args:
        first: A tensor of any shape and type.
        second: A tensor of the same shape and type. NaN equals NaN, and is infinitely far from every other value.
    """
    wide = torch.complex128 if first.is_complex() else torch.float64
    if first.is_floating_point():  # exact, and has operations that the 8-bit types lack
        first, second = first.to(wide), second.to(wide)
    unequal = (first != second) & ~(torch.isnan(first) & torch.isnan(second))
    if not bool(unequal.any()):
        return None
    a, b = first[unequal].to(wide), second[unequal].to(wide)
    absolute = (a - b).abs().nan_to_num(nan=torch.inf, posinf=torch.inf)
    relative = (absolute / torch.maximum(a.abs(), b.abs())).nan_to_num(nan=torch.inf, posinf=torch.inf)
    return float(absolute.max()), float(relative.max())


def _shape_and_dtype(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {torch_name(tensor.dtype)}"


def _rng_differ(sides: Sides) -> bool:
    plain = [read_progress(folder).values["rng"] for folder in sides]
    return plain[0] != plain[1] or any(
        first is None or second is None or not torch.equal(first, second)
        for _, (first, second) in _pairs(sides, RNG_TENSORS)
    )
