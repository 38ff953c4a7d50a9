"""The values that an optimizer's options would have in a run, without an optimizer."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..schedules.base import Schedule
from ..scheduling.scheduler import EmbeddedScheduler
from ..types import Options

if TYPE_CHECKING:
    from ..charts import Panel


class Preview:
    """The embedded scheduler over one group, without parameters.

    Args:
        schedule: The schedule of the lr, resolved.
        defaults: The optimizer's options.
        option_schedules: The schedules of other options, resolved.

    Attributes:
        options: The options that move.
    """

    every = 1
    """Updates of the run for each step of the optimizer."""
    first = 0
    """The first update of the run that may step the optimizer."""
    usual: Options | None = None
    """The defaults of the optimizer's options, as in `schedule_warnings`; None if they are unknown."""

    def __init__(self, schedule: Schedule, defaults: Options, option_schedules: Mapping[str, Schedule]) -> None:
        self._scheduler = EmbeddedScheduler(schedule, defaults, option_schedules)
        self._defaults = dict(defaults)
        self._group = dict(defaults)
        self._scheduler.join(self._group)
        self.options = ["lr", *option_schedules]
        if schedule.moves_momentum():
            self.options.append("beta1" if "betas" in defaults else "momentum")

    @property
    def scheduler(self) -> EmbeddedScheduler:
        """The scheduler that the optimizer would have."""
        return self._scheduler

    def values_at(self, update: int) -> dict[str, float]:
        """Return the values of the options that move in this update of the run."""
        self._group.update(self._defaults)  # a schedule may move the momentum in some updates only
        self._scheduler.last_epoch = max(0, update // self.every - -(-self.first // self.every))
        self._scheduler.write([self._group])
        values = {**self._group, **dict(zip(("beta1", "beta2"), self._group.get("betas", ()), strict=False))}
        return {option: float(values[option]) for option in self.options}

    @property
    def monitors(self) -> frozenset[str]:
        """The metrics that would move the options. Here none is reported."""
        return self._scheduler.monitors


def panels(previews: Mapping[str, Preview], updates: Sequence[int], title: str) -> "list[Panel]":
    """Return a panel for the lr, with a line for each of `previews`, and one for every other option that moves.

    Args:
        previews: The previews by their labels.
        updates: The updates to draw.
        title: The text after the option's name in a panel's title.
    """
    from ..charts import Panel, Series  # here: a build needs no charts

    values = {name: [(update, preview.values_at(update)) for update in updates] for name, preview in previews.items()}
    options = dict.fromkeys(option for preview in previews.values() for option in preview.options)
    drawn = []
    for option in options:
        lines = [
            Series(name, [(update, at[option]) for update, at in values[name]])
            for name, preview in previews.items()
            if option in preview.options
        ]
        label = "learning rate" if option == "lr" else option
        drawn.append(Panel(f"{label} {title}", label, lines))
    return drawn
