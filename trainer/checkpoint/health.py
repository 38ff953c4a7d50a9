"""Whether the tensors of a checkpoint are finite."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from optimizer.config import listed

from ..loop.nonfinite import has_nonfinite
from ..run_layout import EMA_TENSORS, OPTIMIZER_VALUES, WEIGHTS
from ..runtime.files import read_json, read_tensors
from .directory import Files

_SHOWN = 4


def nonfinite_names(files: Files) -> list[str]:
    """Return the names of tensors from which training cannot continue, as COMPONENT.NAME.

    They hold a NaN, or they are trained weights and hold an infinite value. Buffers may hold infinities: causal masks
    do.

    Args:
        files: The content of a checkpoint's files.
    """
    found: list[str] = []
    for path, content in files.items():
        if path.endswith(".safetensors"):
            trained = _trained_names(files.get(f"{Path(path).parent.as_posix()}/{OPTIMIZER_VALUES}", {}))
            found += _nonfinite_in_file(path, content, trained)
    return found


def nonfinite_in_files(folder: Path, names: Iterable[str]) -> list[str]:
    """Do as `nonfinite_names` for files on disk, with one file in memory at a time.

    Args:
        folder: The checkpoint's.
        names: The paths of the files in it.

    Raises:
        DamagedCheckpointError: A file is not as it was written.
        UnreadableError: The system refuses to read a file.
    """
    files, found = set(names), []
    for path in sorted(name for name in files if name.endswith(".safetensors")):
        values = f"{Path(path).parent.as_posix()}/{OPTIMIZER_VALUES}"
        trained = _trained_names(read_json(folder / values)) if values in files else set()
        found += _nonfinite_in_file(path, read_tensors(folder / path), trained)
    return found


def shorten_names(names: list[str]) -> str:
    """Return the names as text: the first few, and how many more there are."""
    return listed(names, _SHOWN)


def _nonfinite_in_file(path: str, tensors: Mapping[str, Tensor], trained: set[str]) -> list[str]:
    component, is_weights = Path(path).parent.as_posix(), Path(path).name in (WEIGHTS, EMA_TENSORS)
    return [
        f"{component}.{name}"
        for name, tensor in tensors.items()
        if has_nonfinite(tensor, is_weights and name in trained)
    ]


def _trained_names(optimizer_values: Mapping[str, object]) -> set[str]:
    shapes = optimizer_values.get("shapes")
    return set(shapes) if isinstance(shapes, Mapping) else set()
