"""A schedule inside an optimizer: `step()` updates the parameters, then moves the schedule by one."""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Self, cast

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from optimizer.clipping import clip_before_step
from optimizer.schedule import Schedule

Group = dict[str, Any]

POSITION = "schedule_position"
"""The key under which every parameter group mirrors the position, for tools that keep only groups."""

BASE_LR = "initial_lr"
"""The key under which every parameter group holds its own lr at factor 1, named as in torch.optim.lr_scheduler."""


class EmbeddedScheduler:
    """Holds how many updates are done and writes the schedule's values into the parameter groups.

    schedule: the curve. base_lr: the lr of a group that brings none of its own. The scheduler knows no
    optimizer: it is handed the groups to write to, so that it keeps no model alive.
    """

    def __init__(self, schedule: Schedule, base_lr: float) -> None:
        self.schedule = schedule.for_lr(base_lr)
        self._curve = self.schedule.start()
        self.last_epoch = 0
        self.base_lrs: list[float] = []
        self._base_lr = base_lr
        self._written: list[float | Tensor] = []

    def join(self, group: Group) -> None:
        """Take `group` into the schedule where it stands; its lr until now becomes its base lr."""
        self.base_lrs.append(float(group["lr"]))
        group[BASE_LR] = self.base_lrs[-1]
        self._written.append(group["lr"])
        lr = self._curve.lr_at(self.last_epoch)
        momentum = self._curve.momentum_at(self.last_epoch)
        self._write_group(len(self.base_lrs) - 1, group, lr, momentum)

    def advance(self, groups: list[Group]) -> None:
        """Count one update and write the values of the next."""
        if self._is_dry_step(groups):
            return
        self.last_epoch += 1
        self.write(groups)

    def write(self, groups: list[Group]) -> None:
        """Write the values of the coming update, and the position, into the groups."""
        lr = self._curve.lr_at(self.last_epoch)
        momentum = self._curve.momentum_at(self.last_epoch)
        for index, group in enumerate(groups):
            self._write_group(index, group, lr, momentum)

    def get_last_lr(self) -> list[float]:
        """Return each group's lr for the coming update."""
        return [float(lr) for lr in self._written]

    def state_dict(self) -> dict[str, Any]:
        """Return the position, and the curve for comparison, as plain values."""
        return {"last_epoch": self.last_epoch, "config": self.schedule.config()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the position from `state`; warn where it was saved under another curve.

        A plain LRScheduler's state will do: only `last_epoch` is needed. The groups are not written.
        """
        own, saved = self.schedule.config(), state.get("config", {})
        _warn_of_another_curve({name: (saved[name], own.get(name)) for name in saved if saved[name] != own.get(name)})
        self.last_epoch = int(state["last_epoch"])

    def take_over(self, groups: list[Group]) -> None:
        """Put this object's own base lrs, and the values of the coming update, into groups that were
        loaded; warn where they were saved with others."""
        for group, base_lr in zip(groups, self.base_lrs, strict=True):
            saved = group.get(BASE_LR, base_lr)
            _warn_of_another_curve({BASE_LR: (saved, base_lr)} if saved != base_lr else {})
            group[BASE_LR] = base_lr
        self.write(groups)

    def _write_group(self, index: int, group: Group, lr: float, momentum: float | None) -> None:
        share = self.base_lrs[index]
        if self.schedule.absolute:
            share = share / self._base_lr  # exactly 1.0 for a group without an lr of its own
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr * share)  # in place: a compiled step is not traced again
        else:
            group["lr"] = lr * share
        self._written[index] = group["lr"]
        if momentum is not None:
            group.update(_momentum_option(group, momentum))
        group[POSITION] = self.last_epoch

    def _is_dry_step(self, groups: list[Group]) -> bool:
        # A tool (torch's distributed checkpoint) that steps only to make the optimizer's state puts a
        # zero lr into every group first. A zero of the schedule's own is the very object written here.
        return all(
            group["lr"] is not written and float(group["lr"]) == 0.0
            for group, written in zip(groups, self._written, strict=True)
        )


def _warn_of_another_curve(differing: dict[str, tuple[Any, Any]]) -> None:
    if differing:
        table = "; ".join(f"{name}: saved {saved!r}, now {own!r}" for name, (saved, own) in differing.items())
        message = f"the position is loaded, but the schedule is another than the saved one: {table}"
        warnings.warn(message, stacklevel=5)


def _momentum_option(group: Group, momentum: float) -> Group:
    if "betas" in group:
        return {"betas": (momentum, *group["betas"][1:])}
    if "momentum" in group:
        return {"momentum": momentum}
    raise ValueError("the schedule moves the momentum, but this optimizer has neither `betas` nor `momentum`")


class ScheduledOptimizer(Optimizer):
    """Mixin that goes before an optimizer class and carries a schedule inside it.

    It leaves the class's own `step` alone (overriding it would fire every step hook twice) and moves
    the schedule in a step-post hook, which skipped updates do not reach or are recognised in.
    """

    scheduler: EmbeddedScheduler
    grad_clip_norm: float | None = None

    def embed(self, schedule: Schedule, grad_clip_norm: float | None = None) -> Self:
        """Put `schedule` inside and write the values of update 0. Returns the optimizer itself.

        grad_clip_norm: the joint L2 norm that gradients are scaled down to before an update.
        """
        # Some classes hold more than the three attributes that torch's own __getstate__ keeps.
        self._made_with = [name for name in self.__dict__ if not name.startswith("_optimizer_")]
        self.scheduler = EmbeddedScheduler(schedule, float(self.defaults["lr"]))
        self.grad_clip_norm = grad_clip_norm
        for group in self.param_groups:
            self.scheduler.join(group)
        self._register_own_hooks()
        return self

    def add_param_group(self, param_group: Group) -> None:
        """Add a group, which joins the running schedule with its own lr as base lr."""
        super().add_param_group(param_group)
        if "scheduler" in self.__dict__:  # not yet while the optimizer is being made
            self.scheduler.join(self.param_groups[-1])

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's state with the schedule's under "scheduler"."""
        return {**super().state_dict(), "scheduler": self.scheduler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore state, options and position; the curve stays this object's own.

        Raises ValueError if `state_dict` does not say at which update the schedule stands.
        """
        position = _saved_position(state_dict)
        super().load_state_dict(state_dict)
        self.scheduler.load_state_dict(position)
        self.scheduler.take_over(self.param_groups)

    def register_step_post_hook(self, hook: Callable[..., None]) -> RemovableHandle:
        """Register a hook that runs after each step and sees the lr which that step used."""
        handle = super().register_step_post_hook(hook)
        cast(OrderedDict[int, Any], self._optimizer_step_post_hooks).move_to_end(self._advance_handle.id)
        return handle

    def _register_own_hooks(self) -> None:
        self._advance_handle = super().register_step_post_hook(_advance)
        if self.grad_clip_norm:
            self.register_step_pre_hook(clip_before_step)

    def __getstate__(self) -> dict[str, Any]:
        names = [*self._made_with, "_made_with", "scheduler", "grad_clip_norm"]
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in names if name in self.__dict__}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "scheduler" in state:  # a copy or an unpickled object; load_state_dict comes here without
            self._register_own_hooks()
            self.scheduler.write(self.param_groups)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "step" and hasattr(value, "_wrapped_by_lr_sched"):
            raise RuntimeError(
                f"{type(self).__name__} has its schedule inside ({self.scheduler.schedule.key}): step() moves it."
                " Do not attach another scheduler; give the curve as the optimizer's `schedule` instead."
            )
        super().__setattr__(name, value)

    def __reduce_ex__(self, protocol: Any) -> Any:
        base = type(self).__dict__.get("_scheduled_base")
        if base is None:
            return super().__reduce_ex__(protocol)
        return _new_scheduled, (base,), self.__getstate__()  # a class made by `scheduled` has no import path


def scheduled(optimizer_class: type[Optimizer]) -> type[ScheduledOptimizer]:
    """Return `optimizer_class` with ScheduledOptimizer mixed in; call `embed` on what it makes."""
    if issubclass(optimizer_class, ScheduledOptimizer):
        return optimizer_class
    return _mixed(optimizer_class)  # type: ignore[arg-type]  # to mypy an Optimizer type is not hashable


@cache
def _mixed(optimizer_class: Any) -> type[ScheduledOptimizer]:
    name = f"Scheduled{optimizer_class.__name__}"
    return type(name, (ScheduledOptimizer, optimizer_class), {"_scheduled_base": optimizer_class})


def _new_scheduled(optimizer_class: type[Optimizer]) -> ScheduledOptimizer:
    cls = scheduled(optimizer_class)
    return cls.__new__(cls)


def _advance(optimizer: ScheduledOptimizer, args: Any, kwargs: Any) -> None:
    # A fused step under GradScaler is called for a batch that it then skips: the scaler says so here.
    found_inf: Tensor | None = getattr(optimizer, "found_inf", None)
    if found_inf is None or not torch.any(found_inf):
        optimizer.scheduler.advance(optimizer.param_groups)


def _saved_position(state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
    saved = state_dict.get("scheduler")
    if isinstance(saved, Mapping) and "last_epoch" in saved:
        return saved
    positions = {group[POSITION] for group in state_dict["param_groups"] if POSITION in group}
    if positions:
        return {"last_epoch": max(positions)}
    raise ValueError(
        "the state dict does not say at which update the schedule stands: a plain optimizer saved it. Say it with"
        ' state_dict["scheduler"] = {"last_epoch": UPDATES_DONE}, and load it again.'
    )
