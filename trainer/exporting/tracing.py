"""Traces the computation of a run: from inputs in the units of the data to its outputs, as one graph."""

import logging
import re
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export
from torch.fx import Node
from torch.overrides import TorchFunctionMode

from ..errors import ConfigError, raised, user_line
from ..interfaces.dataset import Batch
from ..interfaces.objective import Objective, own_modules
from ..policies.normalization import Normalization
from ..splitting.parts import whole_module

Outputs = Tensor | Mapping[str, Tensor]
Computation = Callable[[nn.ModuleDict, Batch], Outputs]
"""The method that is exported: the `actions` of a policy, or the `predict` of another objective."""

_FIXED_BATCH = "specialized it to be a constant"
"""A part of torch's message on code that was run for one number of samples only."""
_COMPONENTS, _OBJECTIVE = "components.", "objective."


class Whole(nn.Module):
    """The components and the objective's own modules as one module.

    Args:
        components: The components by name.
        objective: The run's.
        computation: Its method.
    """

    def __init__(self, components: nn.ModuleDict, objective: Objective, computation: Computation) -> None:
        super().__init__()
        self.__dict__["given"], self.__dict__["computation"] = components, computation
        self.components, self.objective = nn.ModuleDict(), nn.ModuleDict()
        for name, component in components.items():
            whole = whole_module(component)
            if all(whole is not module for module in self.components.modules()):
                self.components[name] = whole
        for name, module in own_modules(objective).items():
            self.objective[name or "self"] = module

    given: nn.ModuleDict
    computation: Computation

    def forward(self, inputs: Batch) -> Outputs:
        """Return the outputs."""
        return self.computation(self.given, inputs)


@dataclass(frozen=True)
class Traced:
    """The computation of a run, as a graph."""

    program: ExportedProgram
    inputs: Batch
    """An example of the inputs, for a batch of two."""
    whole: Whole


def trace(whole: Whole, inputs: Batch) -> Traced:
    """Return the graph of `whole`, for any number of samples.

    Args:
        whole: The module.
        inputs: Tensors (2, …) by name.

    Raises:
        ConfigError: A component does something that has no fixed graph.
    """
    shapes = {name: {0: Dim("batch")} for name in inputs}
    with torch.no_grad(), _quiet(), _WithoutGenerator():
        try:
            return Traced(export(whole, (inputs,), dynamic_shapes=(shapes,), strict=False), inputs, whole)
        except Exception as error:  # torch raises many kinds, and the components any
            first = error
        try:  # reads the code instead of running it: `len(tensor)` is not a fixed number then
            return Traced(export(whole, (inputs,), dynamic_shapes=(shapes,), strict=True), inputs, whole)
        except Exception as error:
            raise _refused(whole, error if _FIXED_BATCH in str(first) else first) from error


class _WithoutGenerator(TorchFunctionMode):
    """Leaves out `generator=None`, with which torch refuses to trace random numbers for any number of samples."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call `function`."""
        options = kwargs or {}
        given = {name: value for name, value in options.items() if name != "generator" or value is not None}
        return function(*args, **given)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch, which reports failed attempts to trace at length. The error gives the reason."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _refused(whole: Whole, error: Exception) -> ConfigError:
    names = {module: name for name, module in whole.named_modules()}
    place = next((name for module in _modules_in(error) if (name := names.get(module))), "")
    return ConfigError(
        f"--to torch: {place_text(place)} cannot be written as a fixed computation: {_reason(error)}. Not possible are"
        " branches and sizes that depend on the values of tensors, a fixed number of samples, and code that is not"
        " torch's."
    )


def _modules_in(error: BaseException) -> Iterator[nn.Module]:
    """Yield the modules whose methods are in the traceback of `error`, the innermost first."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame in reversed(frames):
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module):
            yield owner


def _reason(error: Exception) -> str:
    if _FIXED_BATCH in str(error):
        return (
            "it takes the number of samples as a number of Python's, where tensor.shape[0] should stay one of torch's"
        )
    text = raised(error)
    first = next(line.strip() for line in text.splitlines() if line.strip())
    return f"{first.rstrip('.')[:300]}{user_line(error)}"


def place_of(node: Node) -> str:
    """Return the name of the module that a node of the graph belongs to: COMPONENT.MODULE, or objective.MODULE.

    Empty: the node belongs to none.
    """
    stack = list(node.meta.get("nn_module_stack", {}).values())
    if not stack or not isinstance(stack[-1], tuple) or stack[-1][0].startswith("_empty"):
        return ""
    path = re.sub(r"\['(.*?)'\]", r".\1", stack[-1][0])
    path = re.sub(r"^computation\.__self__", "objective", path.replace(".whole", "")).replace("._by_name", "")
    return re.sub(r"^(given|components)\.", "", path) or "objective"


def place_text(path: str) -> str:
    """Return the name of a module of `Whole` as a user knows it."""
    path = path.removeprefix(_COMPONENTS)
    return f"train.{path or 'objective'}" if f"{path}.".startswith((_OBJECTIVE, ".")) else f"component {path}"


def tensor_names(whole: Whole) -> dict[str, str]:
    """Return the names in the file by names in `whole`: COMPONENT.PARAMETER, or objective.MODULE.BUFFER.

    The statistics of a feature have its name.
    """
    names = {name: name for name in (*dict(whole.named_parameters()), *dict(whole.named_buffers()))}
    for path, module in whole.named_modules():
        if isinstance(module, Normalization):
            for number, feature in enumerate(module.statistics()):
                start = f"{path}._formulas.{number}."
                names |= {n: f"{path}.{feature}.{n.removeprefix(start)}" for n in names if n.startswith(start)}
    return {name: text.removeprefix(_COMPONENTS) for name, text in names.items()}
