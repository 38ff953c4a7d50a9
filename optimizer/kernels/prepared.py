"""Compiled steps of all parameters of an optimizer: one call in C for all of equal types, prepared for many steps.

Most of a step of many small tensors would be the collection of their addresses. While the tensors are as they were
checked (`kernels.step_tensors`), only the gradients and the numbers of a step are new.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from operator import is_
from typing import NamedTuple

from torch import Tensor

from ..scheduling.optimizer import ScheduledOptimizer
from ..transforms.local_shards import Waiting, active_shards, move_waiting
from ..transforms.memory_layout import with_strides_of
from ..types import ParamGroup
from . import native
from .moments import count_step
from .step_tensors import StepTensors
from .stepping import supported_tensors

NumbersOf = Callable[[ParamGroup, float], Sequence[float]]
"""Returns the numbers of a step for the parameters of a group with a `Row.key`, as native.c has them."""


_Part = tuple[ParamGroup, int, int]
"""A group, and where its parameters begin and end among those of a step."""


class Row(NamedTuple):
    """The tensors that a step reads beside a parameter and its gradient, and the parameter's numbers.

    Attributes:
        state: in the order of native.c.
        key: a number in which parameters of a group with other numbers differ.
        counter: the count of its steps, which is also its key, and its state's `step`; None: it has none.
    """

    state: tuple[Tensor, ...]
    key: float = 0.0
    counter: Tensor | None = None


@dataclass(frozen=True)
class Formula:
    """The formula of a compiled step.

    Attributes:
        name: the step's in native.c and in gpu.py.
        row: returns the row of a parameter of a group, whose state it makes where that is missing.
        begin: begins a step of an optimizer; returns the numbers of its sets.
        choice_at: which of the numbers chooses between two programs on a device; None: there is one.
    """

    name: str
    row: Callable[[ScheduledOptimizer, ParamGroup, Tensor], Row]
    begin: Callable[[ScheduledOptimizer], NumbersOf]
    choice_at: int | None = None


def take_step(optimizer: ScheduledOptimizer, formula: Formula) -> None:
    """Take a compiled step of all groups; groups and gradients that are not supported are
    handled as by `by_group`.

    Raises:
        RuntimeError, ValueError, TypeError: as `supported_tensors` does.
    """
    tensors = supported_tensors(optimizer)
    if tensors is None:
        return
    gradients = tensors.gradients
    if not optimizer.is_laid_out:
        gradients = list(map(with_strides_of, tensors.parameters, gradients))
    prepared = optimizer.prepared_step
    if not (isinstance(prepared, Prepared) and prepared.fits(optimizer, formula, tensors)):
        optimizer.prepared_step = None
        prepared = Prepared(optimizer, formula, tensors, gradients)
    prepared.take(optimizer, tensors.parameters, gradients, formula.begin(optimizer))
    optimizer.prepared_step = prepared if prepared.is_kept else None
    if optimizer.step_options.caution is not None:
        move_waiting(optimizer)  # a message, which all processes send


def begun_together(
    steps: "Iterable[tuple[ScheduledOptimizer, Prepared, list[Tensor]]]",
) -> list[tuple[list[native.Step], list[list[Tensor]]]]:
    """Begin the prepared steps of several optimizers; return those of one kind together, as one call in C takes them.

    Args:
        steps: optimizers, on whole parameters; their steps, which fit; their gradients, laid out as the parameters.
    """
    kinds: dict[object, tuple[list[native.Step], list[list[Tensor]]]] = {}
    for optimizer, prepared, gradients in steps:
        for step, own in prepared.begun(optimizer, gradients):
            chosen = kinds.setdefault(step.kind, ([], []))
            chosen[0].append(step)
            chosen[1].append(own)
    return list(kinds.values())


class Prepared:
    """The calls of a step, for tensors that were checked."""

    def __init__(
        self, optimizer: ScheduledOptimizer, formula: Formula, tensors: StepTensors, gradients: list[Tensor]
    ) -> None:
        self.formula = formula
        self._made_for = (optimizer.checked_tensors, formula, active_shards(optimizer))
        self._groups = tensors.groups
        held = [p for group in optimizer.param_groups for p in group["params"]]
        streams = {id(p): stream for stream, p in enumerate(held)}
        places: dict[object, list[int]] = {}
        rows: list[_Row] = []
        for group, begin, end in tensors.groups:
            for p, gradient in zip(tensors.parameters[begin:end], gradients[begin:end], strict=True):
                row = formula.row(optimizer, group, p)
                kind = (p.dtype, row.state[0].dtype) if p.is_cpu else (id(group),)
                places.setdefault(kind, []).append(len(rows))
                rows.append(_Row((p, gradient, *row.state), group, row.key, row.counter, streams[id(p)]))
        self._counters = [row.counter for row in rows if row.counter is not None]
        self._counts_at = list(map(Tensor.data_ptr, self._counters))
        self._calls: list[_HostCall | _DeviceCall] = []
        self.is_kept = optimizer.checked_tensors is not None and all(p.is_cpu for p in tensors.parameters)
        for chosen in places.values():
            kind_of_call = _HostCall if rows[chosen[0]].tensors[0].is_cpu else _DeviceCall
            self._calls.append(kind_of_call(optimizer, formula, chosen, [rows[place] for place in chosen]))

    def fits(self, optimizer: ScheduledOptimizer, formula: Formula, tensors: StepTensors) -> bool:
        """Return whether the step of these tensors is the prepared one but for gradients and numbers."""
        now = optimizer.checked_tensors, formula, active_shards(optimizer)
        return (
            all(map(is_, now, self._made_for))
            and _are_same_groups(tensors.groups, self._groups)
            and (not self._counters or self._has_counters([state.get("step") for state in tensors.states]))
            and all(call.is_current() for call in self._calls if isinstance(call, _HostCall))
        )

    def _has_counters(self, counters: Sequence[object]) -> bool:
        """Return whether `counters` are those of the rows, in the memory where they were."""
        return all(map(is_, self._counters, counters)) and list(map(Tensor.data_ptr, self._counters)) == self._counts_at

    def take(
        self, optimizer: ScheduledOptimizer, parameters: list[Tensor], gradients: list[Tensor], numbers: NumbersOf
    ) -> None:
        """Take the step, or the first half of one that waits for the counts of other processes.

        Nothing has moved where this raises an error for invalid numbers.
        """
        for call in self._calls:
            call.begin(numbers, optimizer.gradient_scale)
        for call in self._calls:
            call.take(*(_chosen(tensors, call.places) for tensors in (parameters, gradients)))

    def begun(
        self, optimizer: ScheduledOptimizer, gradients: list[Tensor]
    ) -> Iterator[tuple[native.Step, list[Tensor]]]:
        """Begin the step; yield the calls in C that take it, each with its gradients."""
        numbers = self.formula.begin(optimizer)
        for call in self._calls:
            call.begin(numbers, optimizer.gradient_scale)
            if isinstance(call, _HostCall):
                yield call.step, _chosen(gradients, call.places)


def _chosen(tensors: list[Tensor], places: list[int]) -> list[Tensor]:
    return tensors if len(places) == len(tensors) else [tensors[place] for place in places]


def _are_same_groups(groups: Sequence[_Part], others: Sequence[_Part]) -> bool:
    """Return whether groups are the same objects, and begin and end at the same places."""
    return len(groups) == len(others) and all(
        group is other and begin == other_begin and end == other_end
        for (group, begin, end), (other, other_begin, other_end) in zip(groups, others, strict=True)
    )


class _Row(NamedTuple):
    tensors: tuple[Tensor, ...]
    group: ParamGroup
    key: float
    counter: Tensor | None
    stream: int


class _HostCall:
    """A call in C: parameters of equal types on the CPU."""

    def __init__(
        self, optimizer: ScheduledOptimizer, formula: Formula, places: list[int], rows: Sequence[_Row]
    ) -> None:
        self.places = places
        self._shards = active_shards(optimizer) if optimizer.step_options.caution is not None else None
        sets: dict[tuple[int, float], int] = {}
        sets_of_rows = [sets.setdefault((id(row.group), row.key), len(sets)) for row in rows]
        groups = {id(group): group for group in optimizer.param_groups}
        self._groups = [groups[group] for group, _ in sets]
        self._keys = [key for _, key in sets]
        self._counters = [row.counter for row in rows if row.counter is not None]
        self.step = native.Step(
            formula.name,
            [row.tensors for row in rows],
            sets_of_rows,
            streams=[row.stream for row in rows],
            steps=self._counters,
            wholes=[self._shards.whole_size(row.tensors[0]) for row in rows] if self._shards else (),
            is_noisy=optimizer.step_options.stochastic_rounding,
        )

    def is_current(self) -> bool:
        """Return whether the counts of steps are as after the last step."""
        return not self._counters or self.step.has_counts(self._keys)

    def begin(self, numbers: NumbersOf, scale: Tensor | None) -> None:
        """Give the step its numbers. It counts as taken: if it is not, it is not current."""
        values = list(map(numbers, self._groups, self._keys))
        self.step.set_numbers(values, 1.0 if scale is None else scale.item())
        if self._counters:
            self._keys = [key + 1.0 for key in self._keys]

    def take(self, parameters: list[Tensor], gradients: list[Tensor]) -> None:
        if self._shards is None:
            self.step.take(gradients)
        else:
            self.step.count(gradients)
            self._shards.waiting.append(Waiting(parameters, self.step.agreeing, self.step.move))


class _DeviceCall:
    """Launches on a device: a group's parameters."""

    def __init__(
        self, optimizer: ScheduledOptimizer, formula: Formula, places: list[int], rows: Sequence[_Row]
    ) -> None:
        self.places = places
        self._formula, self._rows = formula, rows
        self._shards = active_shards(optimizer) if optimizer.step_options.caution is not None else None

    def begin(self, numbers: NumbersOf, scale: Tensor | None) -> None:
        numbers_at = cache(partial(numbers, self._rows[0].group))
        self._values, self._scale = [numbers_at(row.key) for row in self._rows], scale

    def take(self, parameters: list[Tensor], gradients: list[Tensor]) -> None:
        from . import gpu

        values, name, scale = self._values, self._formula.name, self._scale
        choice = self._formula.choice_at is not None and bool(values[0][self._formula.choice_at])
        rows = [row.tensors for row in self._rows]
        if self._shards is None:
            gpu.run(name, rows, values, choice, scale)
        else:
            wholes = list(map(self._shards.whole_size, parameters))
            self._shards.waiting.append(Waiting(parameters, *gpu.count(name, rows, values, choice, wholes, scale)))
        count_step([row.counter for row in self._rows if row.counter is not None])
