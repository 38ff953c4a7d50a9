"""Whether the tensors of a checkpoint are finite."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from optimizer.config import listed

from ..loop.nonfinite import has_nonfinite
from ..run_layout import OPTIMIZER_VALUES, WEIGHTS
from ..runtime.files import read_json, read_tensors

_SHOWN = 4


def nonfinite_names(files: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the names of tensors that hold what no training can continue from, as COMPONENT.NAME.

    That is a NaN anywhere, or an infinite value in a trained weight. Buffers (causal masks, say) may hold infinities.

    Args:
        files: what a checkpoint's files hold, by path: tensors for .safetensors, plain values for .json.
    """
    found: list[str] = []
    for path, content in files.items():
        if path.endswith(".safetensors"):
            trained = _trained(files.get(f"{Path(path).parent.as_posix()}/{OPTIMIZER_VALUES}", {}))
            found += _nonfinite_in(path, content, trained)
    return found


def nonfinite_in(folder: Path, names: Iterable[str]) -> list[str]:
    """Return what `nonfinite_names` does of the files `names` of the checkpoint in `folder`, one file in memory at a
    time. Raises DamagedCheckpointError, UnreadableError.
    """
    files, found = set(names), []
    for path in sorted(name for name in files if name.endswith(".safetensors")):
        values = f"{Path(path).parent.as_posix()}/{OPTIMIZER_VALUES}"
        trained = _trained(read_json(folder / values)) if values in files else set()
        found += _nonfinite_in(path, read_tensors(folder / path), trained)
    return found


def some(names: list[str]) -> str:
    """Return the names as text: the first few, and how many more there are."""
    return listed(names, _SHOWN)


def _nonfinite_in(path: str, tensors: Mapping[str, Tensor], trained: set[str]) -> list[str]:
    component, is_weights = Path(path).parent.as_posix(), Path(path).name == WEIGHTS
    return [
        f"{component}.{name}"
        for name, tensor in tensors.items()
        if has_nonfinite(tensor, is_weights and name in trained)
    ]


def _trained(optimizer_values: Mapping[str, Any]) -> set[str]:
    shapes = optimizer_values.get("shapes")
    return set(shapes) if isinstance(shapes, Mapping) else set()
