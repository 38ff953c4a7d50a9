"""Components that are sharded: each process has a part of every parameter, and all gather the whole for a forward pass.

PyTorch's `fully_shard` does it. Outside forward and backward passes a sharded parameter is a DTensor, whose name is
that of the whole parameter.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from ..interfaces.component import NamesMethods
from .world import World

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import FSDPModule

_UNITS = "_sharded_units"
"""The attribute of a sharded component with its modules whose parameters are gathered together, the inner ones first.
Those of a policy that was taken apart are not all among its submodules."""


def shard(component: nn.Module, units: Sequence[nn.Module], world: World, replicated: Iterable[nn.Parameter]) -> None:
    """Shard the parameters of a component over the processes of a run, and move each shard to the device.

    One unit after another is on the device as a whole, as in a forward pass.

    Args:
        component: The component, with whole parameters on any device.
        units: The modules whose parameters are gathered together, an inner one before that around it. Together they
            have all parameters of the component.
        world: The processes.
        replicated: Parameters in the units that stay whole.

    Raises:
        ValueError: `fully_shard` refuses a unit. Other exceptions are possible.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh, whole = _mesh(world), set(replicated)
    for unit in units:
        # Resharded after each forward pass: a frozen component has no backward pass that would do it, and what moves
        # weights between two forward passes (a step, an average) moves the shards.
        fully_shard(unit, mesh=mesh, reshard_after_forward=True, ignored_params=whole)
        for name in unit.distributed_methods if isinstance(unit, NamesMethods) else ():
            register_fsdp_forward_method(unit, name)
    vars(component)[_UNITS] = list(units)  # not a submodule: `setattr` would not register a list either


def is_sharded(component: nn.Module) -> bool:
    """Return whether `shard` was called with `component`."""
    return _UNITS in vars(component)


def sharded_units(component: nn.Module) -> list[nn.Module]:
    """Return the modules of a component whose parameters are gathered together; none if it is not sharded."""
    units: list[nn.Module] = vars(component).get(_UNITS, [])
    return units


def compile_units(component: nn.Module) -> None:
    """Let torch.compile compile the forward pass of each unit of a sharded component.

    `nn.Module.compile` would compile the call, in which the parameters are gathered, and give up there.
    """
    for unit in sharded_units(component):
        vars(unit)["forward"] = torch.compile(unit.forward)


def forget_forward_passes(components: Iterable[nn.Module]) -> None:
    """Let `fully_shard` forget which units ran, which it notes until a backward pass: frozen ones may have none.

    To call between two updates.
    """
    for component in components:
        for unit in _units(component):
            state = unit._get_fsdp_state()
            if state._is_root and hasattr(unit, "reset_iter_state"):  # versions before it note it too
                unit.reset_iter_state()


@contextmanager
def gathered(components: Iterable[nn.Module]) -> Iterator[None]:
    """Run the body with whole parameters in the sharded ones of `components`, on every process.

    All processes enter and leave it together. In the body a process may call a component without the others: to act
    in an environment, each for itself. The body changes no parameter.
    """
    units = [unit for component in components for unit in _units(component)]
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        for unit in units:
            unit.set_reshard_after_forward(True, recurse=False)
            unit.reshard()


def _mesh(world: World) -> "DeviceMesh":
    """Return the processes over which parameters are sharded."""
    from torch.distributed.device_mesh import DeviceMesh

    assert world.gradients is not None, "a single process shards nothing"
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)  # fully_shard takes the current device
    return DeviceMesh.from_group(world.gradients, world.device.type, mesh_dim_names=("shard",))


def _units(component: nn.Module) -> "list[FSDPModule]":
    """Return `sharded_units` with the methods that `fully_shard` has given to them."""
    return cast("list[FSDPModule]", sharded_units(component))
