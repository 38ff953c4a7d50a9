"""The weights of a checkpoint as one plain safetensors file."""

from pathlib import Path

from torch import Tensor

from optimizer.files import replacing, write_tensors
from optimizer.registry import nearest
from trainer.checkpoint import WEIGHTS
from trainer.checkpoint_files import existing_checkpoint, verify
from trainer.disk import read_tensors
from trainer.errors import ConfigError
from trainer.tables import count
from trainer.taking_up import foreign_note


def export_weights(path: Path, out: Path, component: str | None = None, overwrite: bool = False) -> str:
    """Write the weights of the checkpoint that `path` leads to into the file `out`; return a line that says so,
    and one that names files in the checkpoint's folder that were ignored.

    Names are COMPONENT.PARAMETER; of one `component` alone, PARAMETER. Raises ValueError where there is no checkpoint
    or no such component, for damage, and if `out` is there and is not to be overwritten; OSError if it cannot be
    written.
    """
    check_new_file(out, overwrite)
    folder = existing_checkpoint(path)
    manifest = verify(folder)
    listed = manifest["files"]
    known = [name.removesuffix(f"/{WEIGHTS}") for name in listed if name.endswith(f"/{WEIGHTS}")]
    if component is not None and component not in known:
        raise ConfigError(
            f"--component: {folder} has no component {component!r}{nearest(component, known)}"
            f" It has {', '.join(known)}."
        )
    tensors: dict[str, Tensor] = {}
    for name in known if component is None else [component]:
        prefix = f"{name}." if component is None else ""
        tensors |= {f"{prefix}{key}": tensor for key, tensor in read_tensors(folder / name / WEIGHTS).items()}
    with replacing(out) as aside:
        write_tensors(aside, tensors, {"format": "pt"})
    values = count(sum(tensor.numel() for tensor in tensors.values()))
    note = foreign_note(folder, manifest)
    line = f"{out}: {len(tensors)} tensors, {values} values, of {component or ', '.join(known)}"
    return f"{note}\n{line}" if note else line


def check_new_file(out: Path, overwrite: bool) -> None:
    """Raise ConfigError if `out` cannot be written as it is asked for."""
    if out.suffix != ".safetensors":
        raise ConfigError(f"--out: must end in .safetensors; got {out}")
    if not out.parent.is_dir():
        raise ConfigError(f"--out: there is no directory {out.parent}. Make it first.")
    if out.exists() and not overwrite:
        raise ConfigError(f"--out: {out} is there already. Choose another file, or replace it with --overwrite.")
    if out.is_dir():
        raise ConfigError(f"--out: {out} is a directory. Name a file.")
