"""State of the user's own parts, the objective and the data set, as files of a checkpoint."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from optimizer.config import joined
from optimizer.state import compare_shapes, from_json, shapes_by_name, to_json, unsavable_reason, without_sharing

from ..errors import ConfigError, raised
from ..interfaces.dataset import DataSet
from ..interfaces.objective import Objective
from ..runtime.files import DamagedCheckpointError, read_json, read_tensors
from .contents import Progress, expected_content
from .unsaved import Unsaved

PARTS = {"objective": "train.objective", "data": "data"}
"""The parts by the names of their files in a checkpoint, and where they are in the config."""

_TAKEN = (
    "State is made of tensors, numbers, text, true, false and null, in dicts (by text or whole numbers), lists, tuples"
    " and sets. (A numpy array: torch.from_numpy, or its tolist().)"
)
_DEFAULTS = {
    "state_dict": (Objective.state_dict, DataSet.state_dict, nn.Module.state_dict),
    "load_state_dict": (Objective.load_state_dict, DataSet.load_state_dict, nn.Module.load_state_dict),
}
_ANEW = "--resume.on_change=override resumes without it: it starts as it is built"

Content = dict[str, dict[str, Any]]


class _Held(NamedTuple):
    """A tensor of a module that an objective is or has. key: its name in the module."""

    module: nn.Module
    key: str
    value: Any


class OwnState:
    """What a run's objective and data set have in their `state_dict`, saved with it and restored.

    An objective that defines none, and is an nn.Module or has some as attributes, has their tensors for its state,
    save those of components, which are saved as such.
    """

    def __init__(
        self,
        objective: Objective,
        data: DataSet,
        components: nn.ModuleDict,
        workers: int,
        log: Callable[[str], None],
    ) -> None:
        """Take the parts as they are before the first update.

        workers: processes that make batches, each with a copy of the data set. log: prints a line. Raises ConfigError
        for state that could not be saved and restored.
        """
        self._parts: dict[str, Any] = {"objective": objective, "data": data}
        self._components, self._say = components, log
        for name in self._parts:
            self._check(name, workers)
        stateless = {PARTS[name]: part for name, part in self._parts.items() if not _defines(part)}
        if "data" in stateless:
            stateless |= {"data.train": data.train, "data.held_out": data.held_out}
        self._unsaved = Unsaved(components, stateless)

    def files(self) -> Content:
        """Return the files with the state of each part that has some. The tensors are the parts' own, not copies.

        State that cannot be saved is reported and left out: a run loses nothing else for it. Once, what training has
        changed and is nobody's state is reported.
        """
        self._unsaved.report(self._say)
        content: Content = {}
        for name in self._parts:
            try:
                content |= self._files(name)
            except ValueError as error:
                self._say(f"{error}\nThe checkpoint is without this state. Of a resume: {_ANEW}.")
        return content

    def parts_with_state(self) -> list[str]:
        """Return where in the config the parts are that have state."""
        found = []
        for name, path in PARTS.items():
            with suppress(ValueError):  # its state cannot be saved
                if self._spec(name)[0] is not None:
                    found.append(path)
        return found

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Run the body, an evaluation, and put back afterwards what it has changed of the parts' state."""
        states = {}
        for name in self._parts:
            with suppress(ValueError):  # what cannot be saved cannot be put back either; the next save reports it
                spec, tensors = self._spec(name)
                if spec is not None:
                    states[name] = from_json(spec, {path: tensor.detach().clone() for path, tensor in tensors.items()})
        try:
            yield
        finally:
            for name, state in states.items():
                self._load(self._parts[name], state)

    def _check(self, name: str, workers: int) -> None:
        """Raise ConfigError for a part whose state could not be saved and restored."""
        part, path = self._parts[name], PARTS[name]
        kind = type(part).__name__
        try:
            files = self._files(name)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        defined = [method for method in _DEFAULTS if _defines(part, method)]
        if len(defined) == 1:
            missing = next(method for method in _DEFAULTS if method not in defined)
            raise ConfigError(
                f"{path}: {kind} defines {defined[0]} and no {missing}, so that a resume could not restore its state."
                " Define both (docs/extending.md)."
            )
        if name == "data" and workers and files:
            raise ConfigError(
                f"data.workers: must be 0 for {kind}, which has a state_dict; got {workers}. Each worker process would"
                " change a copy of that state, and none of it would be saved."
            )

    def restore(
        self, folder: Path, progress: Progress, changed: Collection[str], on_change: str | None, device: torch.device
    ) -> None:
        """Give each part the state that the checkpoint in `folder`, with the given progress, has of it.

        changed: paths of the config that differ from the checkpoint's. on_change: as `resume.on_change`. device: the
        run's; tensors that were not on the CPU are put there. Raises ValueError for what does not fit.
        """
        for name, part in self._parts.items():
            path = PARTS[name]
            lenient = on_change in ("override", "rescale")
            is_saved, has_state = (folder / f"{name}.json").is_file(), bool(self._files(name))
            try:
                if f"{path}.type" in changed and (is_saved or has_state):
                    raise ValueError(f"the checkpoint's is of another class than {type(part).__name__}")
                if is_saved:
                    self._load(part, _read(folder, name, device))
                elif has_state:
                    lenient = lenient or not progress.values["provenance"]  # from before such state was saved
                    raise ValueError(f"the checkpoint has no state of it, and {type(part).__name__} has a state_dict")
            except ValueError as error:
                if isinstance(error, DamagedCheckpointError):
                    raise
                if not lenient:
                    raise ValueError(f"{folder}: the state of {path} cannot be restored: {error}. {_ANEW}.") from error
                self._say(f"{path}: its state is not restored, it starts as it is built: {error}")

    def _files(self, name: str) -> Content:
        """Return the files of one part. Raises ValueError, with the path in the state, for what cannot be saved."""
        spec, tensors = self._spec(name)
        if spec is None:
            return {}
        elsewhere = sorted(path for path, tensor in tensors.items() if tensor.device.type != "cpu")
        values = {"state": spec, "on_device": elsewhere}
        return {f"{name}.json": values, f"{name}.safetensors": without_sharing(tensors)}

    def _spec(self, name: str) -> tuple[Any, dict[str, Tensor]]:
        """Return a part's state as `to_json` has it, with its tensors; None if it has no state. Raises ValueError."""
        tensors: dict[str, Tensor] = {}
        try:
            state = self._state(self._parts[name])
            spec = to_json(state, name, tensors) if state else None
            json.dumps(spec, ensure_ascii=False).encode()
            for path, tensor in tensors.items():
                if problem := unsavable_reason(path, tensor):
                    raise ValueError(f"the tensor {path}: {problem.removesuffix('.')}")
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # the part is the user's code, which may raise anything
            what = str(error) if isinstance(error, ValueError) else raised(error)
            raise ValueError(f"{PARTS[name]}: its state cannot be saved: {what}. {_TAKEN}") from error
        return spec, tensors

    def _state(self, part: Any) -> dict[str, Any]:
        if not _defines(part):
            return {name: held.value for name, held in self._held(part).items()}
        state = part.state_dict()
        if not isinstance(state, Mapping):
            raise ValueError(f"{type(part).__name__}.state_dict returns a {type(state).__name__}, where a dict is due")
        return dict(state)

    def _held(self, part: Any) -> dict[str, _Held]:
        """Return what an objective's own modules save, by name. It has none if it defines its state itself."""
        if not isinstance(part, Objective) or _defines(part):
            return {}
        if isinstance(part, nn.Module):
            modules: dict[str, nn.Module] = {"": part}
        else:
            modules = {f"{name}.": value for name, value in vars(part).items() if isinstance(value, nn.Module)}
        if not modules:
            return {}
        components = [component.state_dict(keep_vars=True) for component in self._components.values()]
        saved_already = {id(tensor) for tensors in components for tensor in tensors.values()}
        return {
            f"{prefix}{key}": _Held(module, key, value)
            for prefix, module in modules.items()
            for key, value in _tensors_of(module).items()
            if id(value) not in saved_already
        }

    def _load(self, part: Any, state: Any) -> None:
        """Hand a part its state. Raises ValueError."""
        held = self._held(part)
        if not held:
            try:
                part.load_state_dict(state)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # likewise
                raise ValueError(f"{type(part).__name__}.load_state_dict fails: {raised(error)}") from error
            return
        saved = shapes_by_name({str(name): value for name, value in state.items()})
        problems = compare_shapes(saved, shapes_by_name({name: one.value for name, one in held.items()}))
        if problems:
            raise ValueError(f"it does not fit {type(part).__name__}: {joined(problems)}")
        for module in {id(one.module): one.module for one in held.values()}.values():
            own = {one.key: state[name] for name, one in held.items() if one.module is module}
            if isinstance(module, Objective):
                nn.Module.load_state_dict(module, own, strict=False)
            else:
                module.load_state_dict(own, strict=False)


def own_values(folder: Path, name: str) -> dict[str, Any]:
    """Return the plain values in the saved state of a part, by dotted path. Raises DamagedCheckpointError."""
    state = _read(folder, name, torch.device("cpu"))
    return dict(_plain_leaves(state, name))


def _plain_leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list | tuple) and value:
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _plain_leaves(item, f"{path}.{key}")
    elif not isinstance(value, Tensor):
        yield path, value


def _defines(part: Any, method: str = "state_dict") -> bool:
    """Return whether the class of `part` has a `method` of its own."""
    return getattr(type(part), method) not in _DEFAULTS[method]


def _tensors_of(module: nn.Module) -> dict[str, Any]:
    """Return what the state dict of `module` has, parameters and buffers themselves."""
    if isinstance(module, Objective):  # whose state_dict takes no arguments
        return nn.Module.state_dict(module, keep_vars=True)
    return module.state_dict(keep_vars=True)


def _read(folder: Path, name: str, device: torch.device) -> Any:
    """Return the state of a part as it was saved. Raises DamagedCheckpointError."""
    values, tensors = read_json(folder / f"{name}.json"), read_tensors(folder / f"{name}.safetensors")
    with expected_content(folder / f"{name}.json"):
        moved = {path: tensors[path].to(device) for path in values["on_device"]}
        state = from_json(values["state"], {**tensors, **moved})
        if not isinstance(state, dict):
            raise ValueError("the state is no dict")
        return state
