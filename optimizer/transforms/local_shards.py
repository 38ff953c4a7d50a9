"""Steps on the local shards of sharded parameters: plain tensors, which every kernel takes, in place of DTensors.

A step that works element by element is the same on a shard as on the whole. While such a step is taken, the groups and
the state hold stand-ins: the local tensor of each DTensor, in the same memory. Outside of steps the state of a sharded
parameter is DTensors of the shape of the whole, as without this module.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter, is_
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..types import StateTable
from .composite_optimizer import owner_of
from .memory_layout import PLAIN
from .shards import Layout, is_elementwise, is_sharded, layout_of, local_tensor, sum_over_shards, sums_of

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

_COUNTERS = frozenset(("step", "mu_product", "eta", "mu"))
"""Entries of the state that never have their parameter's shape: scalars, as some parameters are."""


def active_shards(optimizer: Optimizer) -> "LocalShards | None":
    """Return the shards that the optimizer is being stepped on; None while it has its own parameters."""
    shards: LocalShards | None = optimizer.__dict__.get("_local_shards")
    return shards if shards is not None and shards.is_active else None


@contextmanager
def on_local_shards(optimizer: Optimizer) -> Iterator[None]:
    """Put local shards in place of the sharded parameters of `optimizer`, of their gradients and their state.

    Parameters of classes that are not known to work element by element stay. Afterwards the parameters are back, and
    the state that the body made or replaced is DTensors.
    """
    shards: LocalShards | None = optimizer.__dict__.get("_local_shards")
    if shards is None or not shards.is_current(optimizer):
        shards = optimizer.__dict__["_local_shards"] = LocalShards(optimizer)
    own_lists = [group["params"] for group in optimizer.param_groups]
    own_state = optimizer.state
    with torch.no_grad():
        shards.enter(own_state)
        try:
            _install(optimizer, shards.lists, shards.state)
            shards.is_active = True
            yield
        finally:
            shards.is_active = False
            _install(optimizer, own_lists, own_state)
            shards.leave(own_state)


def _install(optimizer: Optimizer, lists: Sequence[list[Tensor]], state: StateTable) -> None:
    for group, parameters in zip(optimizer.param_groups, lists, strict=True):
        group["params"] = parameters
    for each in (optimizer, *getattr(optimizer, "_members", ())):  # those of a CompositeOptimizer share its state
        each.state = state


@dataclass
class _Shard:
    """A sharded parameter and its stand-in.

    Attributes:
        whole: the parameter.
        raw: its local tensor, as the DTensor holds it.
        local: the stand-in, in the memory of `raw`.
        layout: the groups over which the parameter is sharded.
        entries: its state by name, as (local, whole), when they were last the same.
    """

    whole: "DTensor"
    raw: Tensor
    local: nn.Parameter
    layout: Layout
    entries: dict[object, tuple[object, object]]


class LocalShards:
    """The stand-ins for the sharded parameters of an optimizer, kept from step to step."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.is_active = False
        self.lists: list[list[Tensor]] = []
        """The parameters of each group, with stand-ins."""
        self.state: StateTable = defaultdict(dict)
        """The state of the parameters in `lists`."""
        self.waiting: list[Waiting] = []
        """Cautious moves that wait for the counts of the whole."""
        self._held: list[Tensor] = []
        self._shards: list[_Shard] = []
        for group in optimizer.param_groups:
            elementwise = is_elementwise(type(owner_of(optimizer, group)))
            self._held += group["params"]
            self.lists.append([self._stand_in(p) if elementwise else p for p in group["params"]])
        self._lengths = list(map(len, self.lists))
        self._raw = [shard.raw for shard in self._shards]
        stand_ins = {id(shard.whole) for shard in self._shards}
        self._others = [p for p in self._held if id(p) not in stand_ins]
        held = [p for parameters in self.lists for p in parameters]
        self._places = {id(p): place for place, p in enumerate(held)}
        layouts = {id(shard.local): shard.layout for shard in self._shards}
        self._sums = sums_of([layouts.get(id(p), ()) for p in held])
        self._sizes = {id(shard.local): shard.whole.numel() for shard in self._shards}
        self._index: tuple[Tensor, list[int]] | None = None
        self._last: tuple[list[object], list[object]] = ([], [])

    def is_current(self, optimizer: Optimizer) -> bool:
        """Return whether the optimizer still has the parameters, in the memory, that the stand-ins are for."""
        held = [group["params"] for group in optimizer.param_groups]
        return (
            list(map(len, held)) == self._lengths
            and all(map(is_, chain.from_iterable(held), self._held))
            and all(map(is_, map(_raw, (shard.whole for shard in self._shards)), self._raw))
        )

    def whole_size(self, parameter: Tensor) -> int:
        """Return the number of elements of the whole parameter that `parameter`, of a group now, stands for."""
        return self._sizes.get(id(parameter)) or parameter.numel()

    def is_shard(self, parameter: Tensor) -> bool:
        """Return whether `parameter` is a stand-in."""
        return id(parameter) in self._sizes

    def summed(self, parameters: Sequence[Tensor], counts: Sequence[Tensor]) -> Tensor:
        """Return counts of elements over the whole parameters: one all_reduce.

        All processes send a count for every parameter, 0 for those without one here.

        Args:
            parameters: stand-ins and plain parameters, in any order.
            counts: vectors of int64, together as many numbers as there are parameters.
        """
        device = counts[0].device if counts else self._shards[0].local.device
        places = [self._places[id(p)] for p in parameters]
        if self._index is None or self._index[1] != places or self._index[0].device != device:
            self._index = torch.tensor(places, dtype=torch.int64, device=device), places
        index, _ = self._index
        values = torch.zeros(len(self._places), dtype=torch.int64, device=device)
        if counts:
            values.index_copy_(0, index, torch.cat(list(counts)))
        return sum_over_shards(values, self._sums).index_select(0, index)

    def enter(self, own: StateTable) -> None:
        """Give the stand-ins gradients and state of their parameters."""
        for shard in self._shards:
            shard.local.grad = _local_gradient(shard.whole)
        for p in self._others:
            if p in own:
                self.state[p] = own[p]
        values = _values(own, (shard.whole for shard in self._shards))
        if not _same(values, self._last[1]):
            self._last = [], []
            for shard in self._shards:
                self.state.pop(shard.local, None)
                entries = own.get(shard.whole)
                if entries is not None:
                    shard.entries = {name: _pair(shard, name, value) for name, value in entries.items()}
                    self.state[shard.local] = {name: local for name, (local, _) in shard.entries.items()}
                    entries.update({name: whole for name, (_, whole) in shard.entries.items()})

    def leave(self, own: StateTable) -> None:
        """Take gradients off the stand-ins, and write state that is new into that of the parameters."""
        self.waiting.clear()
        for shard in self._shards:
            shard.local.grad = None
        for p in self._others:
            if p in self.state:
                own[p] = self.state.pop(p)
        values = _values(self.state, (shard.local for shard in self._shards))
        if not _same(values, self._last[0]):
            for shard in self._shards:
                if shard.local in self.state:
                    _write(shard, self.state[shard.local], own[shard.whole])
            values = _values(self.state, (shard.local for shard in self._shards))
            self._last = values, _values(own, (shard.whole for shard in self._shards))

    def _stand_in(self, p: Tensor) -> Tensor:
        if not is_sharded(p) or any(placement.is_partial() for placement in p.placements):
            return p
        local = local_tensor(p)
        if type(local) not in PLAIN:
            return p
        stand_in = nn.Parameter(local.detach(), requires_grad=p.requires_grad)
        self._shards.append(_Shard(p, _raw(p), stand_in, layout_of(p), {}))
        return stand_in


@dataclass(frozen=True)
class Waiting:
    """Moves of some parameters that wait for counts over the whole.

    Attributes:
        parameters: stand-ins and plain parameters.
        counts: how many elements agree in each, here: a vector.
        move: moves them, given the counts of the whole.
    """

    parameters: Sequence[Tensor]
    counts: Tensor
    move: Callable[[Tensor], None]


def move_waiting(optimizer: Optimizer) -> None:
    """Sum the counts of all moves that wait, if the optimizer is on its shards: one all_reduce. Then move."""
    shards = active_shards(optimizer)
    if shards is None:
        return
    parameters = [p for waiting in shards.waiting for p in waiting.parameters]
    summed = shards.summed(parameters, [waiting.counts for waiting in shards.waiting])
    sizes = [len(waiting.parameters) for waiting in shards.waiting]
    for waiting, counts in zip(shards.waiting, torch.split(summed, sizes), strict=True):
        waiting.move(counts)
    shards.waiting.clear()


_raw: Callable[[object], Tensor] = attrgetter("_local_tensor")  # to_local() makes another object at each call


def _local_gradient(p: "DTensor") -> Tensor | None:
    gradient: Any = p.grad
    if gradient is None:
        return None
    if not is_sharded(gradient):
        raise TypeError(
            f"a sharded parameter of shape {list(p.shape)} has a plain gradient, of shape {list(gradient.shape)}: cut"
            " it into shards by distribute_tensor(gradient, p.device_mesh, p.placements)"
        )
    if gradient.placements != p.placements:
        gradient = gradient.redistribute(placements=p.placements)
    local: Tensor = gradient.to_local()  # itself, without autograd
    return local if type(local) in PLAIN else local_tensor(gradient)


def _values(table: StateTable, keys: Iterable[object]) -> list[object]:
    return [value for key in keys for value in table.get(key, {}).values()]


def _same(values: list[object], others: list[object]) -> bool:
    return len(values) == len(others) and all(map(is_, values, others))


def _pair(shard: _Shard, name: object, value: object) -> tuple[object, object]:
    """Return an entry of the state as that of the stand-in, and as that of the parameter.

    Raises:
        ValueError: it is a plain tensor of the shape of the whole.
    """
    p: Any = shard.whole
    if not isinstance(value, Tensor):
        return value, value
    if is_sharded(value):
        if value.placements != p.placements:
            value = value.redistribute(placements=p.placements)
        return local_tensor(value), value
    if name in _COUNTERS or value.shape != p.shape:
        return value, value
    if value.shape != shard.local.shape:
        raise ValueError(
            f"the state of a sharded parameter of shape {list(p.shape)}: {name} is a plain tensor of the whole; load it"
            " by load_state_dict or load_named_state, which distribute it"
        )
    return value, _whole_of(shard, name, value)


def _write(shard: _Shard, local: StateTable, own: StateTable) -> None:
    """Write the entries of a stand-in that are new into the state of its parameter."""
    for name, value in local.items():
        kept = shard.entries.get(name)
        if kept is not None and kept[0] is value:
            continue
        if kept is not None and _has_form_of(value, kept[0]) and is_sharded(kept[1]):
            kept[0].copy_(value)  # type: ignore[attr-defined]  # a tensor, as its form is
            local[name] = kept[0]
            continue
        own[name] = _whole_of(shard, name, value)
        shard.entries[name] = value, own[name]
    for name in own.keys() - local.keys():
        del own[name]
        shard.entries.pop(name, None)


def _has_form_of(value: object, other: object) -> bool:
    return (
        isinstance(value, Tensor)
        and isinstance(other, Tensor)
        and (value.shape, value.stride(), value.dtype) == (other.shape, other.stride(), other.dtype)
    )


def _whole_of(shard: _Shard, name: object, value: object) -> object:
    """Return an entry of a stand-in as one of its parameter: a DTensor in the same memory, if it has its shape."""
    from torch.distributed.tensor import DTensor

    p = shard.whole
    if not isinstance(value, Tensor) or name in _COUNTERS or value.shape != shard.local.shape:
        return value
    return DTensor.from_local(value, p.device_mesh, p.placements, shape=p.shape, stride=p.stride())
