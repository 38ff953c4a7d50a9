"""Checks of the weights: which ones moved from one checkpoint to another, and how far."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from optimizer.config import listed

from ..checkpoint.names import is_file, step_of
from ..errors import UnreadableError
from ..run_layout import OPTIMIZER_TENSORS, OPTIMIZER_VALUES, WEIGHTS
from ..runtime.files import DamagedCheckpointError, opened_tensors, read_json
from .evidence import Check, Evidence, Finding

_SHOWN = 6
_TOO_FAR = 0.05
_TOO_LITTLE = 1e-4
_FEWEST_UPDATES = 20


@dataclass
class _Moved:
    """How the weights of a component differ between two checkpoints."""

    still: list[str] = field(default_factory=list)
    """Parameters in the optimizer that are the same bit for bit."""
    parameters: int = 0
    still_statistics: list[str] = field(default_factory=list)
    """Running statistics of BatchNorm that are the same."""
    statistics: int = 0
    squared_distance: float = 0.0
    squared_norm: float = 0.0

    @property
    def share(self) -> float:
        """The length of the way, as a share of the weights' norm."""
        return math.sqrt(self.squared_distance / self.squared_norm) if self.squared_norm > 0 else 0.0

    def add(self, key: str, before: Tensor, after: Tensor, is_trained: bool) -> None:
        """Add a tensor of both checkpoints."""
        if before.shape != after.shape:
            return
        same = torch.equal(before, after)
        if is_trained:
            self.parameters += 1
            self.still += [key] if same else []
            self.squared_distance += float((after.double() - before.double()).square().sum())
            self.squared_norm += float(before.double().square().sum())
        elif key.endswith(("running_mean", "running_var")):
            self.statistics += 1
            self.still_statistics += [key] if same else []


def unmoved(run: Evidence) -> Iterator[Finding]:
    """Look for parameters that an optimizer has and that no update has moved."""
    if len(run.checkpoints) < 2:
        yield from _without_state(run)
        return
    first, last = run.checkpoints[0], run.checkpoints[-1]
    between = f"checkpoints of update {step_of(first)} and {step_of(last)}"
    for name in run.optims:
        moved = _moved(first, last, name)
        if moved is None or moved.parameters == 0 or run.first_update(name) >= step_of(last):
            continue
        lrs = [value for _, value in run.points(f"lr/{name}")]
        if len(moved.still) == moved.parameters:
            why = (
                "Its lr is 0."
                if lrs and max(lrs) == 0
                else "No gradient reaches it, or its lr is too small to round up."
            )
            yield Finding(
                f"never moved: {name}",
                f"all {moved.parameters} parameters identical in the {between}",
                f"The component does not learn. {why}",
                f"Wire {name} into the objective's loss, raise --{run.lr_field(name)}, or freeze it:"
                f" --model.components.{name}.freeze=true",
            )
        elif moved.still:
            measured = f"{len(moved.still)} of {moved.parameters} parameters identical in the {between}"
            meaning = "No gradient reaches them: the forward pass does not use them, or a group's lr is 0."
            yield _never_moved(name, moved.still, measured, meaning)
        if moved.statistics and len(moved.still_statistics) == moved.statistics:
            yield Finding(
                f"BatchNorm stands still: {name}",
                f"{moved.statistics} running statistics identical in the {between}",
                "Its BatchNorm layers run in eval mode while the weights around them train.",
                f"Do not call eval() in the component {name}, or freeze the layers by name.",
            )


def _without_state(run: Evidence) -> Iterator[Finding]:
    """Look in a single checkpoint for parameters that the optimizer has no state of, while it has of others."""
    for folder in run.checkpoints:
        for name in run.optims:
            values, tensors = folder / name / OPTIMIZER_VALUES, folder / name / OPTIMIZER_TENSORS
            if not (is_file(values) and is_file(tensors)):
                continue
            known = _parameters(values)
            with opened_tensors(tensors) as file:
                with_state = {key.rpartition("/")[0] for key in file.keys()}  # noqa: SIM118  not a dict
            if with_state and (bare := [parameter for parameter in known if parameter not in with_state]):
                measured = f"the optimizer has no state of {len(bare)} of {len(known)} parameters"
                meaning = "They never had a gradient: the forward pass does not use them."
                yield _never_moved(name, bare, measured, meaning)


def _never_moved(component: str, parameters: Sequence[str], measured: str, meaning: str) -> Finding:
    remedy = f"Remove them, or freeze them by name: model.components.{component}.freeze: [{parameters[0]}]."
    return Finding(f"never moved: {component}", f"{measured}: {listed(parameters, _SHOWN)}", meaning, remedy)


def update_size(run: Evidence) -> Iterator[Finding]:
    """Compare the way that weights went with their size: far too long or far too short for their updates."""
    if len(run.checkpoints) < 2:
        return
    near = min(
        zip(run.checkpoints, run.checkpoints[1:], strict=False), key=lambda pair: step_of(pair[1]) - step_of(pair[0])
    )
    far = (run.checkpoints[0], run.checkpoints[-1])
    updates, all_updates = (step_of(pair[1]) - step_of(pair[0]) for pair in (near, far))
    losses = run.points("loss")
    falls = len(losses) > 1 and losses[-1][1] < 0.9 * losses[0][1]
    for name in run.optims:
        short, long = _moved(*near, name), _moved(*far, name)
        if short is None or long is None or len(long.still) == long.parameters:
            continue
        if short.share / max(1, updates) > _TOO_FAR:
            yield Finding(
                f"lr too high: {name}",
                f"weights changed by {short.share:.3g} of their norm in {updates} updates,"
                f" {short.share / updates:.2g} an update; usual is 1e-4 to 1e-2",
                "Each update throws away a part of the progress.",
                f"Lower --{run.lr_field(name)}, for example to a tenth.",
            )
        elif all_updates >= _FEWEST_UPDATES and long.share < _TOO_LITTLE and not falls:
            yield Finding(
                f"lr too low: {name}",
                f"weights changed by {long.share:.2g} of their norm in {all_updates} updates, and the loss has not"
                " fallen by a tenth",
                "The component hardly learns.",
                f"Raise --{run.lr_field(name)}; `innerstep lr-find {run.run_dir}/config.yaml --component {name}`"
                " looks for a value.",
            )


def _moved(first: Path, last: Path, name: str) -> _Moved | None:
    """Return how a component's weights differ; None if they are in parts, or one checkpoint lacks them."""
    files = [folder / name / WEIGHTS for folder in (first, last)]
    if not all(map(is_file, (*files, last / name / OPTIMIZER_VALUES))):
        return None
    try:
        trained = set(_parameters(last / name / OPTIMIZER_VALUES))
        with opened_tensors(files[0]) as before, opened_tensors(files[1]) as after:
            found = _Moved()
            for key in sorted(set(before.keys()) & set(after.keys())):
                found.add(key, before.get_tensor(key), after.get_tensor(key), key in trained)
            return found
    except (DamagedCheckpointError, UnreadableError):  # removed by the run meanwhile, or damaged: `verify` reports it
        return None


def _parameters(values: Path) -> list[str]:
    """Return the names of the parameters in an optimizer."""
    shapes = read_json(values).get("shapes")
    return list(shapes) if isinstance(shapes, dict) else []


CHECKS: Iterable[Check] = (unmoved, update_size)
