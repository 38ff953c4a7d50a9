"""Components that are sharded: each process has a part of every parameter, and all gather the whole for a forward pass.

PyTorch's `fully_shard` does it. Outside forward and backward passes a sharded parameter is a DTensor, whose name is
that of the whole parameter.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ..interfaces.component import NamesMethods
from .world import World

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import FSDPModule

_UNITS = "_sharded_units"
"""The attribute of a sharded component with its modules whose parameters are gathered together, the inner ones first.
Those of a policy that was taken apart are not all among its submodules."""

_REACHED = "_innerstep_reached"
"""The attribute of a sharded parameter that `is_reached` returns."""


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
        _send_all_gradients(cast("FSDPModule", unit))
    vars(component)[_UNITS] = list(units)  # not a submodule: `setattr` would not register a list either


def is_sharded(component: nn.Module) -> bool:
    """Return whether `shard` was called with `component`."""
    return _UNITS in vars(component)


def sharded_units(component: nn.Module) -> list[nn.Module]:
    """Return the modules of a component whose parameters are gathered together; none if it is not sharded."""
    units: list[nn.Module] = vars(component).get(_UNITS, [])
    return units


def is_reached(parameter: Tensor) -> bool:
    """Return whether backward passes of this process gave a sharded parameter a gradient, since `set_reached`."""
    return bool(getattr(parameter, _REACHED, False))


def set_reached(parameter: Tensor, whether: bool) -> None:
    """Set what `is_reached` returns."""
    setattr(parameter, _REACHED, whether)


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


def _send_all_gradients(unit: "FSDPModule") -> None:
    """Let a unit's backward pass send a zero for each gradient that this process lacks, and note those that it has.

    `fully_shard` sends those that are there, one after another: if another process has those of other parameters, it
    adds up what does not belong together, or fails.
    """
    group: Any = unit._get_fsdp_state()._fsdp_param_group
    if group is None:  # without parameters
        return
    send = group.post_backward

    def post_backward(*unused: Any) -> None:
        for each in group.fsdp_params:
            whole = getattr(each, "_unsharded_param", None)
            if whole is None or not whole.requires_grad:
                continue
            if whole.grad is not None or each.unsharded_accumulated_grad is not None:
                set_reached(each.sharded_param, True)
            else:
                whole.grad = torch.zeros_like(whole)
        send(*unused)

    group.post_backward = post_backward


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
