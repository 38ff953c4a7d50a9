"""The scheduler inside an optimizer: the position, and the values that it writes into the groups."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..config.messages import as_table
from ..schedules.base import Schedule
from ..types import CURVE_WARP, INITIAL, POSITION, JsonObject, ParamGroup
from .option import ScheduledOption, schedule_option, set_option
from .rescale import CurveWarp, warp_to_lr

NO_CURVE: JsonObject = {"type": "constant"}
"""The config of a schedule that leaves the lr as it is."""


class EmbeddedScheduler:
    """Counts the updates and writes the schedules' values into the parameter groups.

    It holds no reference to the optimizer, and so keeps no model alive: its methods take the groups.
    """

    def __init__(
        self, schedule: Schedule, defaults: Mapping[str, Any], option_schedules: Mapping[str, Schedule]
    ) -> None:
        """Start at update 0.

        Args:
            schedule: the lr's curve.
            defaults: the optimizer's options.
            option_schedules: the curves of other options, by option.

        Raises:
            ValueError: The optimizer has no such option, or its schedule cannot move it.
        """
        self.last_epoch = 0
        self._warp: CurveWarp | None = None
        if schedule.absolute and float(defaults["lr"]) == 0.0:
            raise ValueError(f"lr: must be > 0 under {schedule.key}, of which a group gets its lr's share; got 0")
        self._lr = ScheduledOption("lr", schedule, float(defaults["lr"]))
        self._others = [schedule_option(name, other, defaults) for name, other in option_schedules.items()]
        self._options = [self._lr, *self._others]
        self._written: list[float | Tensor] = []
        self._monitors = set().union(*(option.curve.monitors() for option in self._options))
        self._moves_momentum = schedule.moves_momentum()
        if self._moves_momentum:
            self._check_momentum(defaults)

    @property
    def schedule(self) -> Schedule:
        """The lr's schedule."""
        return self._lr.schedule

    @property
    def option_schedules(self) -> dict[str, Schedule]:
        """The schedules of other options, by option."""
        return {option.name: option.schedule for option in self._others}

    @property
    def options(self) -> list[ScheduledOption]:
        """The options that have a schedule, the lr first."""
        return list(self._options)

    @property
    def base_lrs(self) -> list[float]:
        """Each group's own lr."""
        return self._lr.base_values

    @property
    def monitors(self) -> frozenset[str]:
        """The names of the metrics that move a schedule in here."""
        return frozenset(self._monitors)

    @property
    def moved(self) -> frozenset[str]:
        """The options that the schedules write."""
        momentum = ("beta1", "momentum") if self._moves_momentum else ()
        return frozenset((*momentum, *(option.name for option in self._options)))

    def join(self, group: ParamGroup) -> None:
        """Add `group` to the schedules at their present position; its values until now become its own values."""
        if isinstance(group["lr"], Tensor):
            group["lr"] = group["lr"].clone()  # all groups and the defaults share the tensor that torch was given
        for option in self._options:
            option.join(group)
        self._mirror_warp([group])
        self._written.append(group["lr"])
        self._write([group], first=len(self._written) - 1)

    def advance(self, groups: list[ParamGroup], next_lr: float | None = None) -> None:
        """Count one update and write the values of the next.

        Args:
            groups: all groups.
            next_lr: the result of `next_lr`; left out, it is computed.
        """
        if self._is_dry_step(groups):
            return
        self.last_epoch += 1
        self._write(groups, lr=next_lr)

    def next_lr(self) -> float:
        """Return the lr's value for the update after the coming one, if all curves have one.

        Raises:
            ValueError: It is not a learning rate.
        """
        lr, position = self._lr_at(self.last_epoch + 1), self._position_at(self.last_epoch + 1)
        if self._moves_momentum:
            self._lr.curve.momentum_at(position)
        for option in self._others:
            option.curve.lr_at(position)
        return lr

    def write(self, groups: list[ParamGroup]) -> None:
        """Write the values of the coming update, and the position, into the groups."""
        self._write(groups)

    def resume_at_lr(self, lr: float, groups: list[ParamGroup], rising: bool | None = None) -> None:
        """Continue where the curve is at `lr`, at the rate that ends it when it would have ended anyway.

        Curves of other options continue at the same position. The map from updates to positions is state: it is saved
        and loaded, until another call replaces it, or a state without one or of another curve is loaded.

        Args:
            lr: the first group's lr for the coming update, as it was under another curve.
            groups: all groups; the values of the coming update are written into them.
            rising: whether the lr was rising; None: unknown. If several positions match, the nearest one in proportion
                is used.

        Raises:
            ValueError: The curve neither comes within 1 % of `lr` nor passes it smoothly, or a metric moves a schedule
                of this optimizer. Nothing is changed.
        """
        if self._monitors:
            names = ", ".join(sorted(self._monitors))
            raise ValueError(
                f"the schedule is moved by metrics ({names}): its lr is not a function of the update, so that there"
                f" is no position to enter it at for the lr {lr:g}. Override the lr instead."
            )
        self._warp = warp_to_lr(self.schedule, self._lr.ratios[0], float(lr), self.last_epoch, rising)
        self._mirror_warp(groups)
        self.write(groups)

    def report(self, name: str, value: float, groups: list[ParamGroup]) -> None:
        """Report a metric to the curves; if it moves one of them, write the values of the coming update."""
        if name in self._monitors:
            for option in self._options:
                if name in option.curve.monitors():
                    option.curve.report(name, value, self.last_epoch)
            self.write(groups)

    def get_last_lr(self) -> list[float]:
        """Return each group's lr for the coming update."""
        return [float(lr) for lr in self._written]

    def state_dict(self) -> JsonObject:
        """Return the position, the `CurveWarp`, the state of curves that metrics move, and the curves' configs."""
        state: JsonObject = {"last_epoch": self.last_epoch, "config": _saved_config(self.schedule)}
        if self._others:
            state["option_configs"] = {option.name: option.schedule.config() for option in self._others}
        if self._warp is not None:
            state["entry"] = self._warp.state()
        if self._monitors:
            state["curves"] = {option.name: option.curve.metric_state() for option in self._options}
        return state

    def load_state_dict(self, state: JsonObject) -> None:
        """Restore the position, with a warning if it was saved under another curve; the groups are not written.

        Args:
            state: as `state_dict` returned it. Only `last_epoch` is needed, which the state of torch's LRScheduler
                has. The `CurveWarp` of another curve is ignored.

        Raises:
            ValueError: Its `entry` is not the state of a `CurveWarp`.
        """
        warp = CurveWarp.from_state(state.get("entry"))
        own, saved = _curve_fields(self.state_dict()), _curve_fields(state)
        _warn_of_another_curve({name: (saved[name], own.get(name)) for name in saved if saved[name] != own.get(name)})
        self.last_epoch = int(state["last_epoch"])
        config = _saved_config(self.schedule)
        self._warp = warp if (state.get("config", config) or NO_CURVE) == (config or NO_CURVE) else None
        saved = state.get("curves", {})
        by_metric = [option for option in self._options if option.curve.monitors()]
        restored = [option.restore(saved.get(option.name, {})) for option in by_metric]
        if not all(restored):
            warnings.warn("the saved state has no record of the metrics so far: they start from scratch", stacklevel=4)

    def take_over(self, groups: list[ParamGroup]) -> None:
        """Write this object's own initial values, and those of the coming update, into groups that were loaded.

        Initial values that differ from the saved ones are reported in a warning.
        """
        for option in self._options:
            key = INITIAL + option.name
            for group, base in zip(groups, option.base_values, strict=True):
                saved = group.get(key, base)
                _warn_of_another_curve({key: (saved, base)} if saved != base else {})
                group[key] = base
        self._mirror_warp(groups)
        self.write(groups)

    def _write(self, groups: list[ParamGroup], first: int = 0, lr: float | None = None) -> None:
        """Write into `groups`, the first of which has the index `first` among all; `lr` is the curve's value."""
        step, ratios = self.last_epoch, self._lr.ratios
        if lr is None:
            lr = self._lr_at(step)
        for index, group in enumerate(groups, first):
            if isinstance(group["lr"], Tensor):  # in place: a compiled step is not traced again
                group["lr"].fill_(lr * ratios[index])
                group[POSITION] = _filled_tensor(group.get(POSITION), step)
            else:
                group["lr"] = lr * ratios[index]
                group[POSITION] = step
            self._written[index] = group["lr"]
        if self._moves_momentum or self._others:
            self._write_options(groups, first, self._position_at(step))

    def _position_at(self, step: int) -> int:
        return step if self._warp is None else self._warp.position_at(step)

    def _lr_at(self, step: int) -> float:
        lr = self._lr.curve.lr_at(self._position_at(step))
        if not lr >= 0.0:  # nor is NaN
            raise ValueError(f"the schedule {self.schedule.key} gives the lr {lr} for update {step}")
        return lr

    def _write_options(self, groups: list[ParamGroup], first: int, position: int) -> None:
        if self._moves_momentum:
            self._write_momentum(groups, position)
        for option in self._others:
            value = option.curve.lr_at(position)
            for index, group in enumerate(groups, first):
                set_option(group, option.name, value * option.ratios[index])

    def _mirror_warp(self, groups: list[ParamGroup]) -> None:
        for group in groups:
            group.pop(CURVE_WARP, None)
            if self._warp is not None:
                group[CURVE_WARP] = self._warp.mirror()

    def _write_momentum(self, groups: list[ParamGroup], position: int) -> None:
        momentum = self._lr.curve.momentum_at(position)
        if momentum is not None:
            for group in groups:
                set_option(group, "beta1" if "betas" in group else "momentum", momentum)

    def _check_momentum(self, defaults: Mapping[str, Any]) -> None:
        for option in self._others:
            if option.name in ("momentum", "beta1"):
                raise ValueError(f"option_schedules.{option.name}: the schedule of the lr moves it already")
        if not {"betas", "momentum"} & defaults.keys():
            raise ValueError("the schedule moves the momentum, but this optimizer has neither `betas` nor `momentum`")
        if self._lr.curve.momentum_at(0) is None and defaults.get("momentum") == 0:
            # RMSprop makes its buffer at the first update or never.
            raise ValueError(
                "the schedule moves the momentum later, and the optimizer's own momentum is 0. Set momentum to its"
                " first value."
            )

    def _is_dry_step(self, groups: list[ParamGroup]) -> bool:
        # torch's distributed checkpoint steps once to create the optimizer's state, and puts a zero lr into every
        # group before. A zero from the schedule is the same object that was written here.
        for index, group in enumerate(groups):
            if group["lr"] is self._written[index] or float(group["lr"]) != 0.0:
                return False
        return True


def _saved_config(schedule: Schedule) -> JsonObject:
    """Return the config of `schedule`; empty for one that leaves the lr as it is: such a state holds only numbers."""
    config = schedule.config()
    return {} if config == NO_CURVE else config


def _filled_tensor(tensor: object, value: int) -> Tensor:
    return tensor.fill_(value) if isinstance(tensor, Tensor) else torch.tensor(value)


def _curve_fields(state: JsonObject) -> JsonObject:
    """Return the fields of all curves in a scheduler's state under unique names."""
    fields = dict(state["config"] or NO_CURVE) if "config" in state else {}
    for option, config in state.get("option_configs", {}).items():
        fields |= {f"{option}.{name}": value for name, value in config.items()}
    return fields


def _warn_of_another_curve(differing: dict[str, tuple[object, object]]) -> None:
    if differing:
        table = as_table(differing)
        message = f"the position is loaded, but the schedule is another than the saved one: {table}"
        warnings.warn(message, stacklevel=5)
