"""The values that an optimizer's options would take over a run, without an optimizer."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..charts import Panel, Series
from ..schedules.base import Schedule
from ..scheduling.scheduler import EmbeddedScheduler


class Preview:
    """Runs the embedded scheduler over a group of its own.

    schedule: of the lr, resolved. defaults: the optimizer's options. option_schedules: of others, resolved.
    every: updates of the run that one step of the optimizer takes.
    """

    every = 1
    usual: Mapping[str, Any] | None = None
    """The options where none are given, as `warnings_about` takes them; None where nobody says."""

    def __init__(
        self, schedule: Schedule, defaults: Mapping[str, Any], option_schedules: Mapping[str, Schedule]
    ) -> None:
        self._scheduler = EmbeddedScheduler(schedule, defaults, option_schedules)
        self._defaults = dict(defaults)
        self._group = dict(defaults)
        self._scheduler.join(self._group)
        self.options = ["lr", *option_schedules]
        if schedule.moves_momentum():
            self.options.append("beta1" if "betas" in defaults else "momentum")

    @property
    def scheduler(self) -> EmbeddedScheduler:
        """The scheduler, as the optimizer would have it."""
        return self._scheduler

    def at(self, update: int) -> dict[str, float]:
        """Return the options that move, at their values in this update of the run."""
        self._group.update(self._defaults)  # a schedule may move the momentum in some updates only
        self._scheduler.last_epoch = update // self.every
        self._scheduler.write([self._group])
        values = {**self._group, **dict(zip(("beta1", "beta2"), self._group.get("betas", ()), strict=False))}
        return {option: float(values[option]) for option in self.options}

    @property
    def monitors(self) -> frozenset[str]:
        """The metrics that would move the options; here they stay as before the first report."""
        return self._scheduler.monitors


def panels(previews: Mapping[str, Preview], updates: Sequence[int], title: str) -> list[Panel]:
    """Return a panel for the lr, with a line for each of `previews`, and one for every other option that moves.

    title: what comes after the option's name in a title.
    """
    values = {name: [(update, preview.at(update)) for update in updates] for name, preview in previews.items()}
    options = dict.fromkeys(option for preview in previews.values() for option in preview.options)
    made = []
    for option in options:
        lines = [
            Series(name, [(update, at[option]) for update, at in values[name]])
            for name, preview in previews.items()
            if option in preview.options
        ]
        label = "learning rate" if option == "lr" else option
        made.append(Panel(f"{label} {title}", label, lines))
    return made
