"""The scheduler inside an optimizer: the position, and the values that it writes into the groups."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..config.messages import as_table
from ..schedules.base import Schedule
from ..types import ENTRY, INITIAL, POSITION, ParamGroup
from .option import ScheduledOption, other_option, set_option
from .rescale import CurveWarp, entry_at

NO_CURVE = {"type": "constant"}


class EmbeddedScheduler:
    """Holds how many updates are done and writes the schedules' values into the parameter groups.

    schedule: the lr's curve. defaults: the optimizer's options, for groups that bring none of their own.
    option_schedules: the curves of other options. The scheduler knows no optimizer: it is handed the
    groups to write to, so that it keeps no model alive. Raises ValueError for an option that there is not.
    """

    def __init__(
        self, schedule: Schedule, defaults: Mapping[str, Any], option_schedules: Mapping[str, Schedule]
    ) -> None:
        self.last_epoch = 0
        self._entry: CurveWarp | None = None
        if schedule.absolute and float(defaults["lr"]) == 0.0:
            raise ValueError(f"lr: must be > 0 under {schedule.key}, of which a group gets its lr's share; got 0")
        self._lr = ScheduledOption("lr", schedule, float(defaults["lr"]))
        self._others = [other_option(name, other, defaults) for name, other in option_schedules.items()]
        self._tracks = [self._lr, *self._others]
        self._written: list[float | Tensor] = []
        self._monitors = set().union(*(track.curve.monitors() for track in self._tracks))
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
        return {track.option: track.schedule for track in self._others}

    @property
    def tracks(self) -> list[ScheduledOption]:
        """The options that move, the lr first."""
        return list(self._tracks)

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
        return frozenset((*momentum, *(track.option for track in self._tracks)))

    def join(self, group: ParamGroup) -> None:
        """Take `group` into the schedules where they stand; its values until now become its own ones."""
        if isinstance(group["lr"], Tensor):
            group["lr"] = group["lr"].clone()  # torch has all groups, and the defaults, share the one that it was given
        for track in self._tracks:
            track.join(group)
        self._mirror_entry([group])
        self._written.append(group["lr"])
        self._write([group], first=len(self._written) - 1)

    def advance(self, groups: list[ParamGroup]) -> None:
        """Count one update and write the values of the next."""
        if self._is_dry_step(groups):
            return
        self.last_epoch += 1
        self.write(groups)

    def write(self, groups: list[ParamGroup]) -> None:
        """Write the values of the coming update, and the position, into the groups."""
        self._write(groups)

    def resume_at_lr(self, lr: float, groups: list[ParamGroup], rising: bool | None = None) -> None:
        """Go on from where the curve is at `lr`, at the rate that ends it when it would have ended anyway.

        lr: the first group's for the coming update, as it was under another curve. groups: all of them; the values
        of the coming update are written there. rising: whether the lr was on its way up; None: not known, and of
        several such positions on the curve it is the nearest in proportion. Curves of other options go along.
        The entry is state: it is saved and loaded, until another entry replaces it or a state of another curve, or
        without an entry, is loaded. Raises ValueError, and changes nothing, if the curve neither comes within 1 % of
        `lr` nor passes it smoothly, or if a metric moves a schedule in here.
        """
        if self._monitors:
            names = ", ".join(sorted(self._monitors))
            raise ValueError(
                f"the schedule is moved by metrics ({names}): its lr is not a function of the update, so that there"
                f" is no position to enter it at for the lr {lr:g}. Override the lr instead."
            )
        self._entry = entry_at(self.schedule, self._lr.ratios[0], float(lr), self.last_epoch, rising)
        self._mirror_entry(groups)
        self.write(groups)

    def report(self, name: str, value: float, groups: list[ParamGroup]) -> None:
        """Tell the curves a metric; where one of them is moved by it, write the values of the coming update."""
        if name in self._monitors:
            for track in self._tracks:
                if name in track.curve.monitors():
                    track.curve.report(name, value, self.last_epoch)
            self.write(groups)

    def get_last_lr(self) -> list[float]:
        """Return each group's lr for the coming update."""
        return [float(lr) for lr in self._written]

    def state_dict(self) -> dict[str, Any]:
        """Return the position, where the curve was entered, what metrics left behind, and the curves for comparison."""
        state: dict[str, Any] = {"last_epoch": self.last_epoch, "config": _saved_config(self.schedule)}
        if self._others:
            state["option_configs"] = {track.option: track.schedule.config() for track in self._others}
        if self._entry is not None:
            state["entry"] = self._entry.state()
        if self._monitors:
            state["curves"] = {track.option: track.curve.metric_state() for track in self._tracks}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the position from `state`; warn where it was saved under another curve, whose entry is left out.

        A plain LRScheduler's state will do: only `last_epoch` is needed. The groups are not written.
        Raises ValueError for an entry that is none.
        """
        entry = CurveWarp.from_state(state.get("entry"))
        own, saved = _flat(self.state_dict()), _flat(state)
        _warn_of_another_curve({name: (saved[name], own.get(name)) for name in saved if saved[name] != own.get(name)})
        self.last_epoch = int(state["last_epoch"])
        config = _saved_config(self.schedule)
        self._entry = entry if (state.get("config", config) or NO_CURVE) == (config or NO_CURVE) else None
        saved = state.get("curves", {})
        by_metric = [track for track in self._tracks if track.curve.monitors()]
        restored = [track.restore(saved.get(track.option, {})) for track in by_metric]
        if not all(restored):
            warnings.warn("the saved state does not say what the metrics so far were: they start anew", stacklevel=4)

    def take_over(self, groups: list[ParamGroup]) -> None:
        """Put this object's own initial values, and those of the coming update, into groups that were
        loaded; warn where they were saved with others."""
        for track in self._tracks:
            key = INITIAL + track.option
            for group, base in zip(groups, track.base_values, strict=True):
                saved = group.get(key, base)
                _warn_of_another_curve({key: (saved, base)} if saved != base else {})
                group[key] = base
        self._mirror_entry(groups)
        self.write(groups)

    def _write(self, groups: list[ParamGroup], first: int = 0) -> None:
        """Write into `groups`, the first of which has the index `first` among all."""
        step, ratios = self.last_epoch, self._lr.ratios
        position = step if self._entry is None else self._entry.position_at(step)
        lr = self._lr.curve.lr_at(position)
        if not lr >= 0.0:  # nor is NaN
            raise ValueError(f"the schedule {self.schedule.key} gives the lr {lr} for update {step}")
        for index, group in enumerate(groups, first):
            if isinstance(group["lr"], Tensor):  # in place: a compiled step is not traced again
                group["lr"].fill_(lr * ratios[index])
                group[POSITION] = _filled(group.get(POSITION), step)
            else:
                group["lr"] = lr * ratios[index]
                group[POSITION] = step
            self._written[index] = group["lr"]
        if self._moves_momentum:
            self._write_momentum(groups, position)
        for track in self._others:
            value = track.curve.lr_at(position)
            for index, group in enumerate(groups, first):
                set_option(group, track.option, value * track.ratios[index])

    def _mirror_entry(self, groups: list[ParamGroup]) -> None:
        for group in groups:
            group.pop(ENTRY, None)
            if self._entry is not None:
                group[ENTRY] = self._entry.mirror()

    def _write_momentum(self, groups: list[ParamGroup], position: int) -> None:
        momentum = self._lr.curve.momentum_at(position)
        if momentum is not None:
            for group in groups:
                set_option(group, "beta1" if "betas" in group else "momentum", momentum)

    def _check_momentum(self, defaults: Mapping[str, Any]) -> None:
        for track in self._others:
            if track.option in ("momentum", "beta1"):
                raise ValueError(f"option_schedules.{track.option}: the schedule of the lr moves it already")
        if not {"betas", "momentum"} & defaults.keys():
            raise ValueError("the schedule moves the momentum, but this optimizer has neither `betas` nor `momentum`")
        if self._lr.curve.momentum_at(0) is None and defaults.get("momentum") == 0:
            # RMSprop makes its buffer at the first update or never.
            raise ValueError(
                "the schedule moves the momentum later on, and the optimizer's own momentum is 0. Set momentum to what"
                " it is to start from."
            )

    def _is_dry_step(self, groups: list[ParamGroup]) -> bool:
        # A tool (torch's distributed checkpoint) that steps only to make the optimizer's state puts a
        # zero lr into every group first. A zero of the schedule's own is the very object written here.
        for index, group in enumerate(groups):
            if group["lr"] is self._written[index] or float(group["lr"]) != 0.0:
                return False
        return True


def _saved_config(schedule: Schedule) -> dict[str, Any]:
    """Return the config of `schedule`; empty for one that leaves the lr as it is: such a state holds numbers alone."""
    config = schedule.config()
    return {} if config == NO_CURVE else config


def _filled(tensor: Any, value: int) -> Tensor:
    return tensor.fill_(value) if isinstance(tensor, Tensor) else torch.tensor(value)


def _flat(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of all curves in a scheduler's state by one name each."""
    flat = dict(state["config"] or NO_CURVE) if "config" in state else {}
    for option, config in state.get("option_configs", {}).items():
        flat |= {f"{option}.{name}": value for name, value in config.items()}
    return flat


def _warn_of_another_curve(differing: dict[str, tuple[Any, Any]]) -> None:
    if differing:
        table = as_table(differing)
        message = f"the position is loaded, but the schedule is another than the saved one: {table}"
        warnings.warn(message, stacklevel=5)
