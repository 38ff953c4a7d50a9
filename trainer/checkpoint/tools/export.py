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
from ...runtime.files import read_tensors, written_out
from ..concurrent_reading import read_checkpoint
from ..directory import verify
from ..selection import foreign_note


def export_weights(path: Path, out: Path, component: str | None = None, overwrite: bool = False) -> str:
    """Write the weights of a checkpoint into a file, under the names COMPONENT.PARAMETER.

    Args:
        path: Leads to the checkpoint: its folder, LATEST or BEST, or a run.
        out: The file, which must end in .safetensors.
        component: The component to write, under the names of its parameters alone; None: all components.
        overwrite: Whether to replace an existing file.

    Returns:
        A line on the file, after one on ignored files in the checkpoint's folder if there are some.

    Raises:
        ValueError: There is no checkpoint or no such component, it is damaged, or the file exists or cannot be written.
    """
    check_new_file(out, overwrite)
    found = read_checkpoint(path, lambda folder: _read_weights(folder, component))
    with written_out(out) as aside:
        write_tensors(aside, found.tensors, {"format": "pt"})
    values = sum(tensor.numel() for tensor in found.tensors.values())
    extent = f"{counted(len(found.tensors), 'tensor')}, {counted(values, 'value', count(values))}"
    line = f"{out}: {extent}, of {', '.join(found.components)}"
    return f"{found.note}\n{line}" if found.note else line


@dataclass(frozen=True)
class _Weights:
    tensors: dict[str, Tensor]
    """By exported name."""
    components: list[str]
    note: str
    """A line on files that were ignored; may be empty."""


def _read_weights(folder: Path, component: str | None) -> _Weights:
    manifest = verify(folder)
    listed = manifest["files"]
    known = [name.removesuffix(f"/{WEIGHTS}") for name in listed if name.endswith(f"/{WEIGHTS}")]
    if component is not None and component not in known:
        raise ConfigError(
            f"--component: {folder} has no component {component!r}{nearest(component, known)}"
            f" It has {', '.join(known)}."
        )
    chosen = known if component is None else [component]
    tensors: dict[str, Tensor] = {}
    for name in chosen:
        prefix = f"{name}." if component is None else ""
        tensors |= {f"{prefix}{key}": tensor for key, tensor in read_tensors(folder / name / WEIGHTS).items()}
    return _Weights(tensors, chosen, foreign_note(folder, manifest))


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
