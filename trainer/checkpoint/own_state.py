"""The state of the user's objective and data set, as files of a checkpoint."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from optimizer.config import joined
from optimizer.state import compare_shapes, from_json, shapes_by_name, to_json, unsavable_reason
from optimizer.types import JsonObject

from ..errors import ConfigError, raised
from ..interfaces.dataset import DataSet
from ..interfaces.objective import Objective, own_modules
from ..runtime.files import DamagedCheckpointError, checksum_of, checksum_of_tensors, read_json, read_tensors
from .contents import DATA_STATE, OBJECTIVE_STATE, Contents, Progress, StateFiles, expected_content, user_state
from .unsaved import UnsavedChanges

Owner = Objective | DataSet

STATE_FILES = {"train.objective": OBJECTIVE_STATE, "data": DATA_STATE}
"""The files of the state of each owner, by the owner's path in the config."""

_TYPES = (
    "State is made of tensors, numbers, text, true, false and null, in dicts (by text or whole numbers), lists, tuples"
    " and sets. (A numpy array: torch.from_numpy, or its tolist().)"
)
_DEFAULTS = {
    "state_dict": (Objective.state_dict, DataSet.state_dict, nn.Module.state_dict),
    "load_state_dict": (Objective.load_state_dict, DataSet.load_state_dict, nn.Module.load_state_dict),
}
_OVERRIDE = "--resume.on_change=override resumes without it: it starts as it is built"


class _ModuleValue(NamedTuple):
    """An entry in the state dict of a module that an objective is or has."""

    module: nn.Module
    key: str
    """Its name in the module."""
    value: Tensor


class OwnState:
    """The state that a run's objective and data set return from `state_dict`, saved and restored.

    An objective that defines no `state_dict`, and is an nn.Module or has some as attributes, has their tensors as its
    state, except those of components, which are saved with the components.

    Args:
        objective: The run's, as it is before the first update.
        data: The same of the data set; None: without one.
        components: By name.
        workers: Processes that make batches, each with a copy of the data set.
        log: Prints a line.

    Raises:
        ConfigError: There is state that could not be saved and restored.
    """

    def __init__(
        self,
        objective: Objective,
        data: DataSet | None,
        components: nn.ModuleDict,
        workers: int,
        log: Callable[[str], None],
    ) -> None:
        self._owners: dict[str, Owner] = {"train.objective": objective, **({} if data is None else {"data": data})}
        self._components, self._log = components, log
        for path in self._owners:
            self._check(path, workers)
        stateless: dict[str, object] = {path: owner for path, owner in self._owners.items() if not _defines(owner)}
        if data is not None and "data" in stateless:
            stateless |= {"data.train": data.train, "data.held_out": data.held_out}
        self._unsaved = UnsavedChanges(components, stateless)

    def files(self) -> Contents:
        """Return the files with the state of each owner that has some. The tensors are the owners', not copies.

        State that cannot be saved is logged and left out, so that the run does not lose the rest. Values that training
        changes and that are nobody's state are logged at the first call.
        """
        self._unsaved.report(self._log)
        content: Contents = {}
        for path in self._owners:
            try:
                content |= self._files(path)
            except ValueError as error:
                self._log(f"{error}\nThe checkpoint is without this state. At a resume: {_OVERRIDE}.")
        return content

    def parts_with_state(self) -> list[str]:
        """Return the paths in the config of the owners that have state."""
        found = []
        for path in self._owners:
            with suppress(ValueError):  # its state cannot be saved
                if self._spec(path)[0] is not None:
                    found.append(path)
        return found

    def checksums(self) -> dict[str, str]:
        """Return a checksum of the state of each owner that has some which can be saved, by its path in the config."""
        found = {}
        for path in self._owners:
            with suppress(ValueError):  # the next save reports it
                spec, tensors = self._spec(path)
                if spec is not None:
                    found[path] = f"{checksum_of({path: spec})} {checksum_of_tensors(tensors)}"
        return found

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Run the body, an evaluation, and afterwards undo its changes to the owners' state."""
        states = {}
        for path in self._owners:
            with suppress(ValueError):  # unsavable state cannot be put back either; the next save reports it
                spec, tensors = self._spec(path)
                if spec is not None:
                    copies = {name: tensor.detach().clone() for name, tensor in tensors.items()}
                    states[path] = from_json(spec, copies)
        try:
            yield
        finally:
            for path, state in states.items():
                _load(self._owners[path], self._components, state)

    def restore(
        self, folder: Path, progress: Progress, changed: Collection[str], on_change: str | None, device: torch.device
    ) -> None:
        """Load the state of each owner from the checkpoint in `folder`.

        Args:
            folder: The checkpoint's.
            progress: The checkpoint's.
            changed: Paths of the config that differ from the checkpoint's.
            on_change: The run's `resume.on_change`.
            device: The run's, for tensors that were not on the CPU.

        Raises:
            ValueError: The state does not fit, or is missing.
        """
        for path, owner in self._owners.items():
            kind, files = type(owner).__name__, STATE_FILES[path]
            lenient = on_change in ("override", "rescale")
            is_saved, has_state = (folder / files.values).is_file(), bool(self._files(path))
            try:
                if f"{path}.type" in changed and (is_saved or has_state):
                    raise ValueError(f"the checkpoint's is of another class than {kind}")
                if is_saved:
                    _load(owner, self._components, _read_state(folder, files, device))
                elif has_state:
                    lenient = lenient or not progress.values["provenance"]  # from before such state was saved
                    raise ValueError(f"the checkpoint has no state of it, and {kind} has a state_dict")
            except DamagedCheckpointError:
                raise
            except ValueError as error:
                if not lenient:
                    reason = f"the state of {path} cannot be restored: {error}"
                    raise ValueError(f"{folder}: {reason}. {_OVERRIDE}.") from error
                self._log(f"{path}: its state is not restored, it starts as it is built: {error}")

    def _check(self, path: str, workers: int) -> None:
        """Raise ConfigError if the owner's state could not be saved and restored."""
        owner = self._owners[path]
        kind = type(owner).__name__
        try:
            files = self._files(path)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        defined = [method for method in _DEFAULTS if _defines(owner, method)]
        if len(defined) == 1:
            missing = next(method for method in _DEFAULTS if method not in defined)
            raise ConfigError(
                f"{path}: {kind} defines {defined[0]} and no {missing}, so that a resume could not restore its state."
                " Define both (docs/extending.md)."
            )
        if path == "data" and workers and files:
            raise ConfigError(
                f"data.workers: must be 0 for {kind}, which has a state_dict; got {workers}. Each worker process would"
                " change a copy of that state, and none of it would be saved."
            )

    def _files(self, path: str) -> Contents:
        """Return the files of one owner. Raises ValueError, with the path in the state, if it cannot be saved."""
        spec, tensors = self._spec(path)
        if spec is None:
            return {}
        files = STATE_FILES[path]
        elsewhere = sorted(name for name, tensor in tensors.items() if tensor.device.type != "cpu")
        values = {"state": spec, "on_device": elsewhere}
        return {files.values: values, files.tensors: tensors}

    def _spec(self, path: str) -> tuple[object, dict[str, Tensor]]:
        """Return an owner's state as `to_json` does, with its tensors; None if it has no state. Raises ValueError."""
        tensors: dict[str, Tensor] = {}
        try:
            state = self._state(self._owners[path])
            spec = to_json(state, STATE_FILES[path].name, tensors) if state else None
            json.dumps(spec, ensure_ascii=False).encode()
            for name, tensor in tensors.items():
                if problem := unsavable_reason(name, tensor):
                    raise ValueError(f"the tensor {name}: {problem.removesuffix('.')}")
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # the owner is the user's code, which may raise anything
            reason = str(error) if isinstance(error, ValueError) else raised(error)
            raise ValueError(f"{path}: its state cannot be saved: {reason}. {_TYPES}") from error
        return spec, tensors

    def _state(self, owner: Owner) -> JsonObject:
        if not _defines(owner):
            return {name: entry.value for name, entry in _module_values(owner, self._components).items()}
        state: object = owner.state_dict()
        if not isinstance(state, Mapping):
            kind = type(owner).__name__
            raise ValueError(f"{kind}.state_dict returns a {type(state).__name__}, where a dict is expected")
        return dict(state)


def load_objective(folder: Path, objective: Objective, components: nn.ModuleDict, device: torch.device) -> None:
    """Load the objective's state in the checkpoint in `folder`, if there is some, without the data set.

    Args:
        folder: The checkpoint's.
        objective: The run's, which no data set has prepared.
        components: By name.
        device: For tensors that were not on the CPU.

    Raises:
        ValueError: The state does not fit.
    """
    if (folder / OBJECTIVE_STATE.values).is_file():
        _load(objective, components, _read_state(folder, OBJECTIVE_STATE, device))


def _module_values(owner: Owner, components: nn.ModuleDict) -> dict[str, _ModuleValue]:
    """Return the state of an objective's own modules by name; empty if the objective defines its state itself."""
    if not isinstance(owner, Objective) or _defines(owner):
        return {}
    modules = {f"{name}." if name else "": module for name, module in own_modules(owner).items()}
    if not modules:
        return {}
    states = [component.state_dict(keep_vars=True) for component in components.values()]
    saved_already = {id(tensor) for tensors in states for tensor in tensors.values()}
    return {
        f"{prefix}{key}": _ModuleValue(module, key, value)
        for prefix, module in modules.items()
        for key, value in _module_state(module).items()
        if id(value) not in saved_already
    }


def _load(owner: Owner, components: nn.ModuleDict, state: JsonObject) -> None:
    """Load the owner's state. Raises ValueError."""
    entries = _module_values(owner, components)
    if not entries:
        try:
            owner.load_state_dict(state)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # the owner is the user's code
            raise ValueError(f"{type(owner).__name__}.load_state_dict fails: {raised(error)}") from error
        return
    saved = shapes_by_name({str(name): value for name, value in state.items()})
    problems = compare_shapes(saved, shapes_by_name({name: entry.value for name, entry in entries.items()}))
    if problems:
        raise ValueError(f"it does not fit {type(owner).__name__}: {joined(problems)}")
    for module in {id(entry.module): entry.module for entry in entries.values()}.values():
        own = {entry.key: state[name] for name, entry in entries.items() if entry.module is module}
        if isinstance(module, Objective):  # whose load_state_dict takes no `strict`
            nn.Module.load_state_dict(module, own, strict=False)
        else:
            module.load_state_dict(own, strict=False)


def _defines(owner: Owner, method: str = "state_dict") -> bool:
    """Return whether the class of `owner` overrides `method`."""
    return getattr(type(owner), method) not in _DEFAULTS[method]


def _module_state(module: nn.Module) -> dict[str, Tensor]:
    """Return the state dict of `module` with the parameters and buffers themselves."""
    if isinstance(module, Objective):  # whose state_dict takes no arguments
        return nn.Module.state_dict(module, keep_vars=True)
    return module.state_dict(keep_vars=True)


def _read_state(folder: Path, files: StateFiles, device: torch.device) -> JsonObject:
    """Return the state in a checkpoint, each tensor on its device at the save. Raises DamagedCheckpointError."""
    path = folder / files.values
    values, tensors = read_json(path), read_tensors(folder / files.tensors)
    with expected_content(path):
        moved = {name: tensors[name].to(device) for name in values["on_device"]}
        return user_state(values, {**tensors, **moved})
