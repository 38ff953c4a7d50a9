"""Whether a factory keeps the promises of this library: for authors of their own."""

import copy
import gc
import io
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from optimizer.factory import OPTIMIZER_BUILDER_REGISTRY
from optimizer.horizon import Horizon

HORIZON = Horizon(total_steps=30, steps_per_epoch=10)


class ConformanceError(AssertionError):
    """A factory that breaks a promise. The message has a line for each."""


def check_factory(factory: Any, module: Callable[[], nn.Module] | None = None) -> None:
    """Build and drive optimizers of `factory` in every way that is known to have broken a schedule inside.

    factory: a factory, or a key of the registry. module: makes a small module that the optimizer can train,
    from inputs (N, 4); left out, two linear layers. Raises ConformanceError that lists what fails.
    """
    made = OPTIMIZER_BUILDER_REGISTRY[factory]() if isinstance(factory, str) else factory
    bench = _Bench(made, module or _layers)
    problems = []
    for check in CHECKS:
        try:
            check(bench)
        except Exception as error:  # a factory of anyone's may raise anything
            problems.append(f"{check.__name__.replace('_', ' ')}: {type(error).__name__}: {error}")
    if problems:
        raise ConformanceError("\n".join(problems))


class _Bench:
    def __init__(self, factory: Any, module: Callable[[], nn.Module]) -> None:
        self.factory = factory
        self._module = module

    def pair(self) -> tuple[nn.Module, Any]:
        """Return a module and an optimizer over it, ready to train."""
        torch.manual_seed(0)
        module = self._module()
        optimizer = self.factory.build(module, horizon=HORIZON)
        if callable(getattr(optimizer, "train", None)):
            optimizer.train()
        return module, optimizer

    def update(self, module: nn.Module, optimizer: Any, step: int) -> None:
        """Take one update, by a closure, on a batch that depends on `step` alone."""
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss: Tensor = module(x).square().mean()
            loss.backward()  # type: ignore[no-untyped-call]  # torch
            return loss

        optimizer.step(closure)
        optimizer.zero_grad()


def builds_an_optimizer_with_a_scheduler_inside(bench: _Bench) -> None:
    _, optimizer = bench.pair()
    _expect(isinstance(optimizer, Optimizer), f"build returns a {type(optimizer).__name__}")
    _expect(optimizer.scheduler.last_epoch == 0, "its scheduler.last_epoch is not 0")


def an_update_counts_once(bench: _Bench) -> None:
    module, optimizer = bench.pair()
    for step in range(HORIZON.total_steps + 3):
        lrs = [group["lr"] for group in optimizer.param_groups]
        _expect(optimizer.scheduler.last_epoch == step, f"{optimizer.scheduler.last_epoch} after {step} updates")
        _expect(optimizer.scheduler.get_last_lr() == lrs, f"get_last_lr() is not the groups' lr at update {step}")
        bench.update(module, optimizer, step)


def step_hooks_fire_once(bench: _Bench) -> None:
    module, optimizer = bench.pair()
    base = next(cls for cls in type(optimizer).__mro__ if cls.__module__.startswith("torch.optim"))
    if base not in (Optimizer, torch.optim.LBFGS):  # makes torch hook the step of the base class too
        base([torch.zeros(2, 2, requires_grad=True)])
    seen: list[float] = []
    used = optimizer.param_groups[0]["lr"]
    optimizer.register_step_post_hook(lambda *_: seen.append(float(optimizer.param_groups[0]["lr"])))
    bench.update(module, optimizer, 0)
    _expect(seen == [used], f"a post hook saw the lrs {seen} of an update that ran at {used}")


def a_skipped_step_moves_nothing(bench: _Bench) -> None:
    module, optimizer = bench.pair()
    if isinstance(optimizer, torch.optim.LBFGS | torch.optim.SparseAdam):
        return  # torch's scaler takes neither
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(module(torch.ones(3, 4)).square().mean()).backward()
    next(p for p in module.parameters() if p.grad is not None).grad.fill_(torch.inf)  # type: ignore[union-attr]  # it has one
    before = _weights(module)
    scaler.step(optimizer)
    _expect(_same(module, before), "the weights moved")
    _expect(optimizer.scheduler.last_epoch == 0, "the schedule moved")


def a_tools_dry_step_moves_nothing(bench: _Bench) -> None:
    module, optimizer = bench.pair()
    if isinstance(optimizer, torch.optim.LBFGS | torch.optim.SparseAdam):
        return  # torch's distributed checkpoint steps neither
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict  # slow to import

    before = _weights(module)
    get_optimizer_state_dict(module, optimizer)
    _expect(_same(module, before), "the weights moved")
    _expect(optimizer.scheduler.last_epoch == 0, "the schedule moved")


def saving_leaves_no_trace(bench: _Bench) -> None:
    (one, its), (other, others) = bench.pair(), bench.pair()
    for step in range(6):
        bench.update(one, its, step)
        bench.update(other, others, step)
        its.state_dict()
    _expect(_same(one, _weights(other)), "the weights differ from those of a run that was not saved")


def a_loaded_state_goes_on_bit_exactly(bench: _Bench) -> None:
    module, optimizer = bench.pair()
    for step in range(7):
        bench.update(module, optimizer, step)
    saved = io.BytesIO()
    torch.save(optimizer.state_dict(), saved)
    saved.seek(0)
    twin, second = bench.pair()
    twin.load_state_dict(module.state_dict())
    second.load_state_dict(torch.load(saved, weights_only=True))
    _go_on_alike(bench, (module, optimizer), (twin, second))


def a_copy_goes_on_bit_exactly(bench: _Bench) -> None:
    module, optimizer = bench.pair()
    for step in range(7):
        bench.update(module, optimizer, step)
    _go_on_alike(bench, (module, optimizer), copy.deepcopy((module, optimizer)))


def a_tool_that_keeps_only_the_groups_keeps_the_position(bench: _Bench) -> None:
    module, optimizer = bench.pair()
    for step in range(7):
        bench.update(module, optimizer, step)
    state = optimizer.state_dict()
    _, fresh = bench.pair()
    fresh.load_state_dict({"state": state["state"], "param_groups": state["param_groups"]})
    _expect(fresh.scheduler.last_epoch == 7, f"{fresh.scheduler.last_epoch} in place of 7")


def a_second_scheduler_is_refused(bench: _Bench) -> None:
    _, optimizer = bench.pair()
    try:
        LambdaLR(optimizer, lambda _: 1.0)
    except RuntimeError:
        return
    raise ConformanceError("one could be attached")


def no_model_is_kept_alive(bench: _Bench) -> None:
    module, optimizer = bench.pair()
    bench.update(module, optimizer, 0)
    watched = weakref.ref(optimizer), weakref.ref(module)
    enabled = gc.isenabled()
    gc.disable()
    try:
        del module, optimizer
        _expect(all(reference() is None for reference in watched), "a reference cycle holds it")
    finally:
        if enabled:
            gc.enable()


CHECKS = (
    builds_an_optimizer_with_a_scheduler_inside,
    an_update_counts_once,
    step_hooks_fire_once,
    a_skipped_step_moves_nothing,
    a_tools_dry_step_moves_nothing,
    saving_leaves_no_trace,
    a_loaded_state_goes_on_bit_exactly,
    a_copy_goes_on_bit_exactly,
    a_tool_that_keeps_only_the_groups_keeps_the_position,
    a_second_scheduler_is_refused,
    no_model_is_kept_alive,
)


def _layers() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def _go_on_alike(bench: _Bench, one: tuple[nn.Module, Any], other: tuple[nn.Module, Any]) -> None:
    for step in range(7, 14):
        bench.update(*one, step)
        bench.update(*other, step)
    _expect(_same(one[0], _weights(other[0])), "the weights differ")
    lrs = [[group["lr"] for group in optimizer.param_groups] for _, optimizer in (one, other)]
    _expect(lrs[0] == lrs[1], f"the lrs differ: {lrs[0]} and {lrs[1]}")


def _weights(module: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def _same(module: nn.Module, weights: list[Tensor]) -> bool:
    return all(torch.equal(p, q) for p, q in zip(module.parameters(), weights, strict=True))


def _expect(holds: bool, message: str) -> None:
    if not holds:
        raise ConformanceError(message)
