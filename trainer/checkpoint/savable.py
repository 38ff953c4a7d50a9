"""What the files of a checkpoint can hold, and whether it stays what it was before the first update."""

import json
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from optimizer.config import shown_value
from optimizer.state import torch_name, unsavable_reason

from ..errors import ConfigError
from ..run_layout import CHECKPOINTS, OPTIMIZER_TENSORS
from .directory import Files
from .names import folder_name

_SHOWN = 12
_REMEDY = (
    "The run could not be resumed from that. Give the tensors their final shape and type in the constructor; leave out"
    " what need not be saved with register_buffer(…, persistent=False)."
)
_NAME_MAX, _PATH_MAX = 255, 4096
"""Bytes of a file's name and of a path, where the system does not say."""


def check_savable(files: Files) -> None:
    """Raise ValueError, with a line for each tensor and value that the `files` of a checkpoint cannot hold.

    Nothing is copied, and no tensor's values are read.
    """
    problems = [line for path, content in files.items() for line in _problems(path, content)]
    if problems:
        more = [f"… and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        raise ValueError("\n".join([*problems[:_SHOWN], *more]))


class SavedForm:
    """The names, shapes and types of the tensors in the components' weights files.

    A run can only be resumed from a checkpoint whose weights have the form that the components are built with.
    """

    def __init__(self, files: Files) -> None:
        self._form = _form(files)

    def check(self, files: Files) -> None:
        """Raise ValueError, with the lines of `problems`, if there are some."""
        if lines := self.problems(files):
            raise ValueError("\n".join(lines))

    def problems(self, files: Files) -> list[str]:
        """Return a line for each tensor whose form is another one in `files`, and what to do."""
        now = _form(files)
        lines = [
            f"{_owner(path)}: its tensor {name!r} was {_described(before.get(name))} before the first update and is"
            f" {_described(now.get(path, {}).get(name))} now"
            for path, before in self._form.items()
            for name in sorted({*before, *now.get(path, {})})
            if before.get(name) != now.get(path, {}).get(name)
        ]
        return [*lines[:_SHOWN], _REMEDY] if lines else []


def check_lengths(run_dir: Path, components: Collection[str]) -> None:
    """Raise ConfigError if a file of the run would have a longer name or path than its file system takes."""
    place = run_dir.absolute()
    longest = max(components, key=lambda name: len(os.fsencode(name)))
    deepest = place / CHECKPOINTS / f".unfinished-{folder_name(0)}" / longest / OPTIMIZER_TENSORS
    # os.path.exists: Path.exists raises for a name that is too long.
    there = next(parent for parent in (place, *place.parents) if os.path.exists(parent))
    name_max, path_max = _limit(there, "PC_NAME_MAX", _NAME_MAX), _limit(there, "PC_PATH_MAX", _PATH_MAX)
    for name in deepest.parts:
        if len(os.fsencode(name)) > name_max:
            path = f"model.components.{name}" if name in components else "train.run_dir"
            raise ConfigError(f"{path}: a name of a folder must have at most {name_max} bytes; got {shown_value(name)}")
    if len(os.fsencode(deepest)) >= path_max:
        raise ConfigError(
            f"train.run_dir: the longest path in it would have {len(os.fsencode(deepest))} bytes, and must have fewer"
            f" than {path_max}. Choose a shorter run_dir."
        )


def _limit(folder: Path, name: str, default: int) -> int:
    try:
        limit = os.pathconf(folder, name)
    except (AttributeError, OSError, ValueError):  # Windows has no pathconf; a file system may not know
        return default
    return limit if limit > 0 else default


def _problems(path: str, content: Mapping[str, Any]) -> Iterator[str]:
    if not path.endswith(".safetensors"):
        try:
            json.dumps(content, ensure_ascii=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            yield f"{_owner(path)}: its state cannot be saved as JSON: {error}"
        return
    for name, tensor in content.items():
        if problem := unsavable_reason(name, tensor):
            yield f"{_owner(path)}: {name!r} cannot be saved: {problem}"


def _owner(path: str) -> str:
    """Return the path in the config of what is saved in the file `path`."""
    component, _, file = path.partition("/")
    if not file:
        return path
    return f"model.{'component_optims' if file.startswith('optimizer') else 'components'}.{component}"


def _form(files: Files) -> dict[str, dict[str, tuple[list[int], torch.dtype]]]:
    return {
        path: {name: (list(tensor.shape), tensor.dtype) for name, tensor in content.items()}
        for path, content in files.items()
        if path.endswith("/model.safetensors")
    }


def _described(form: tuple[list[int], torch.dtype] | None) -> str:
    return "not there" if form is None else f"{torch_name(form[1])} {form[0]}"
