"""Checks that files can hold the contents of a checkpoint, and that shapes and types stay the same in a run."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import torch

from optimizer.config import shown_value
from optimizer.state import torch_name, unsavable_reason

from ..errors import ConfigError
from ..run_layout import CHECKPOINTS, OPTIMIZER_TENSORS, WEIGHTS
from .directory import Files
from .names import folder_name

_SHOWN = 12
_REMEDY = (
    "The run could not be resumed from that. Give the tensors their final shape and type in the constructor; use"
    " register_buffer(…, persistent=False) for tensors that need not be saved."
)
_NAME_MAX, _PATH_MAX = 255, 4096
"""Bytes of a file's name and of a path, if the system does not name its limits."""


def check_savable(files: Files, config_paths: Mapping[str, str] = MappingProxyType({})) -> None:
    """Check that the `files` of a checkpoint can be written. Nothing is copied, and no tensor's values are read.

    Args:
        files: By path.
        config_paths: The paths of components in the config by name, for those that are not in model.components.

    Raises:
        ValueError: They cannot. The message has a line for each tensor and value.
    """
    problems = [
        line
        for path, content in files.items()
        for line in _file_problems(path, content, _config_path(path, config_paths))
    ]
    if problems:
        more = [f"… and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        raise ValueError("\n".join([*problems[:_SHOWN], *more]))


class SavedForm:
    """The names, shapes and types of the tensors in the components' weights files.

    A run can only be resumed from a checkpoint whose weights have the form that the components are built with.

    Args:
        files: By path.
        config_paths: As in `check_savable`.
    """

    def __init__(self, files: Files, config_paths: Mapping[str, str] = MappingProxyType({})) -> None:
        self._form, self._config_paths = _forms(files), config_paths

    def check(self, files: Files) -> None:
        """Check that `files` have the same form.

        Raises:
            ValueError: They have another one. The message consists of the lines of `problems`.
        """
        if lines := self.problems(files):
            raise ValueError("\n".join(lines))

    def problems(self, files: Files) -> list[str]:
        """Return a line for each tensor whose form is another one in `files`, and the remedy."""
        now = _forms(files)
        lines = [
            f"{_config_path(path, self._config_paths)}: its tensor {name!r} was {_form_text(before.get(name))} before"
            f" the first update and is {_form_text(now.get(path, {}).get(name))} now"
            for path, before in self._form.items()
            for name in sorted({*before, *now.get(path, {})})
            if before.get(name) != now.get(path, {}).get(name)
        ]
        return [*lines[:_SHOWN], _REMEDY] if lines else []


def check_lengths(run_dir: Path, components: Mapping[str, str]) -> None:
    """Check that the file system accepts the names and paths of a run's files.

    Args:
        run_dir: The run's directory, which need not exist.
        components: The path in the config by name.

    Raises:
        ConfigError: A name or a path is too long.
    """
    place = run_dir.absolute()
    longest = max(components, key=lambda name: len(os.fsencode(name)))
    deepest = place / CHECKPOINTS / f".unfinished-{folder_name(0)}" / longest / OPTIMIZER_TENSORS
    # os.path.exists: Path.exists raises for a name that is too long.
    there = next(parent for parent in (place, *place.parents) if os.path.exists(parent))
    name_max, path_max = _system_limit(there, "PC_NAME_MAX", _NAME_MAX), _system_limit(there, "PC_PATH_MAX", _PATH_MAX)
    for name in deepest.parts:
        if len(os.fsencode(name)) > name_max:
            path = components.get(name, "train.run_dir")
            raise ConfigError(f"{path}: a name of a folder must have at most {name_max} bytes; got {shown_value(name)}")
    if len(os.fsencode(deepest)) >= path_max:
        raise ConfigError(
            f"train.run_dir: the longest path in it would have {len(os.fsencode(deepest))} bytes, and must have fewer"
            f" than {path_max}. Choose a shorter run_dir."
        )


def _system_limit(folder: Path, name: str, default: int) -> int:
    try:
        limit = os.pathconf(folder, name)
    except (AttributeError, OSError, ValueError):  # Windows has no pathconf; a file system may not know
        return default
    return limit if limit > 0 else default


def _file_problems(path: str, content: Mapping[str, object], owner: str) -> Iterator[str]:
    if not path.endswith(".safetensors"):
        try:
            json.dumps(content, ensure_ascii=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            yield f"{owner}: its state cannot be saved as JSON: {error}"
        return
    for name, tensor in content.items():
        if problem := unsavable_reason(name, tensor):
            yield f"{owner}: {name!r} cannot be saved: {problem}"


def _config_path(path: str, config_paths: Mapping[str, str]) -> str:
    """Return the path in the config of the component or optimizer that is saved in the file `path`."""
    component, _, file = path.partition("/")
    if not file:
        return path
    if file.startswith("optimizer"):
        return f"model.component_optims.{component}"
    return config_paths.get(component, f"model.components.{component}")


def _forms(files: Files) -> dict[str, dict[str, tuple[list[int], torch.dtype]]]:
    return {
        path: {name: (list(tensor.shape), tensor.dtype) for name, tensor in content.items()}
        for path, content in files.items()
        if path.endswith(f"/{WEIGHTS}")
    }


def _form_text(form: tuple[list[int], torch.dtype] | None) -> str:
    return "not there" if form is None else f"{torch_name(form[1])} {form[0]}"
