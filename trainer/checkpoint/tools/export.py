"""Writes the weights of a checkpoint as one plain safetensors file."""

import os
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from optimizer.config import counted, nearest
from optimizer.state import write_tensors

from ...errors import ConfigError
from ...reporting.tables import count
from ...run_layout import WEIGHTS
from ...runtime.files import read_tensors, replacing_output
from ..concurrent_reading import read_checkpoint
from ..contents import averaged_components, read_averages
from ..directory import verify
from ..selection import foreign_note


def export_weights(
    path: Path, out: Path, component: str | None = None, overwrite: bool = False, averages: bool = True
) -> str:
    """Write the weights of a checkpoint into a file, under the names COMPONENT.PARAMETER.

    Args:
        path: Leads to the checkpoint: its folder, LATEST or BEST, or a run.
        out: The file, which must end in .safetensors.
        component: The component to write, under the names of its parameters alone; None: all components.
        overwrite: Whether to replace an existing file.
        averages: Whether to write the averages of `train.ema` where the checkpoint has some.

    Returns:
        A line on the file, after one on ignored files in the checkpoint's folder if there are some.

    Raises:
        ValueError: There is no checkpoint or no such component, it is damaged, or the file exists or cannot be written.
    """
    check_new_file(out, overwrite)
    found = read_checkpoint(path, lambda folder: _read_weights(folder, component, averages))
    with replacing_output(out) as aside:
        write_tensors(aside, found.tensors, {"format": "pt"})
    values = sum(tensor.numel() for tensor in found.tensors.values())
    extent = f"{counted(len(found.tensors), 'tensor')}, {counted(values, 'value', count(values))}"
    of_ema = f" (averages of train.ema: {', '.join(found.averaged)})" if found.averaged else ""
    line = f"{out}: {extent}, of {', '.join(found.components)}{of_ema}"
    return f"{found.note}\n{line}" if found.note else line


@dataclass(frozen=True)
class _Weights:
    tensors: dict[str, Tensor]
    """By exported name."""
    components: list[str]
    averaged: list[str]
    """The components whose weights are averages."""
    note: str
    """A line on files that were ignored; may be empty."""


def _read_weights(folder: Path, component: str | None, averages: bool) -> _Weights:
    manifest = verify(folder)
    listed = manifest["files"]
    known = [name.removesuffix(f"/{WEIGHTS}") for name in listed if name.endswith(f"/{WEIGHTS}")]
    if component is not None and component not in known:
        raise ConfigError(
            f"--component: {folder} has no component {component!r}{nearest(component, known)}"
            f" It has {', '.join(known)}."
        )
    chosen = known if component is None else [component]
    averaged = [name for name in averaged_components(manifest) if averages and name in chosen]
    tensors: dict[str, Tensor] = {}
    for name in chosen:
        prefix = f"{name}." if component is None else ""
        own = read_averages(folder / name) if name in averaged else read_tensors(folder / name / WEIGHTS)
        tensors |= {f"{prefix}{key}": tensor for key, tensor in own.items()}
    return _Weights(tensors, chosen, averaged, foreign_note(folder, manifest))


def check_new_file(out: Path, overwrite: bool) -> None:
    """Check that the file `out` can be written.

    Raises:
        ConfigError: Its name is wrong, its directory is missing, or it exists and `overwrite` is False.
    """
    if out.suffix != ".safetensors":
        raise ConfigError(f"--out: must end in .safetensors; got {out}")
    if not out.parent.is_dir():
        raise ConfigError(f"--out: there is no directory {out.parent}. Make it first.")
    if os.path.lexists(out) and not overwrite:
        raise ConfigError(f"--out: {out} is there already. Choose another file, or replace it with --overwrite.")
