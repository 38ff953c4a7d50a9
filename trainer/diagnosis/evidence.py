"""The evidence that the checks read of a run."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean, median
from typing import Any, Literal

from optimizer import Horizon, ScheduledFactory, UnknownKeyError, no_plugins

from ..checkpoint.directory import complete_checkpoints
from ..checkpoint.names import step_of
from ..config.entries import OptimConfig
from ..config.freeze import FreezeUntil
from ..config.turns import Turns
from ..interfaces.objective import OBJECTIVE_REGISTRY
from ..report_page.run_facts import RunFacts
from ..reporting.metrics_file import HELD_OUT
from ..run_layout import CHECKPOINTS

Points = Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Finding:
    """Something in a run that looks wrong, or, as a note, that is worth knowing."""

    check: str
    """The name of the check, and its subject: a component or a metric."""
    measured: str
    meaning: str
    remedy: str
    kind: Literal["finding", "note"] = "finding"


Check = Callable[["Evidence"], Iterable[Finding]]
"""Returns its findings in a run."""


class Evidence:
    """The files of a run as numbers.

    Args:
        run_dir: The run's directory.

    Raises:
        ConfigError: There is no run.
        UnreadableError: The system refuses to read a file.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.facts = RunFacts(run_dir, run_dir.name)
        self.done = self.facts.metrics.last_step or 0
        """Updates done, by the metrics."""
        self.total = self.facts.total_steps
        self.processes = self.facts.processes

    def setting(self, path: str, default: Any = None) -> Any:
        """Return a value of the config by its dotted path; `default` if it is missing or null."""
        value: Any = self.facts.config
        for part in path.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return default if value is None else value

    def points(self, name: str, split: str = "train") -> Points:
        """Return the values of a metric by update, means of several in a long run; empty without one."""
        series = self.facts.metrics.series.get((split, name))
        return [] if series is None else series.points()

    def held_out(self, name: str = "loss") -> Points:
        """Return the values of a metric over evaluations."""
        return self.points(name, HELD_OUT)

    def by_component(self, family: str) -> dict[str, Points]:
        """Return the values of a family, lr or grad_norm, by component."""
        names = [name for split, name in self.facts.metrics.series if split == "train"]
        prefix = f"{family}/"
        return {name.removeprefix(prefix): self.points(name) for name in names if name.startswith(prefix)}

    @property
    def optims(self) -> Mapping[str, Any]:
        """The entries of model.component_optims."""
        found = self.setting("model.component_optims", {})
        return found if isinstance(found, Mapping) else {}

    @cached_property
    def factories(self) -> dict[str, tuple[ScheduledFactory, Horizon]]:
        """The factory and the horizon of each component whose optimizer innerstep has."""
        found = {}
        if self.total:
            for name, entry in self.optims.items():
                with no_plugins():
                    try:
                        optim = OptimConfig.model_validate(entry)
                        turns = Turns(optim.every, self.first_update(name))
                        horizon = turns.horizon(Horizon(self.total, self._steps_per_epoch()))
                        if isinstance(optim.factory, ScheduledFactory):
                            found[name] = (optim.factory.resolved(horizon), horizon)
                    except (ValueError, LookupError, TypeError):  # a plugin's, or a length in unknown epochs
                        continue
        return found

    def first_update(self, name: str) -> int:
        """Return the first update that may step a component: 0, or that at which a timed `freeze` ends."""
        freeze = self.setting(f"model.components.{name}.freeze")
        if not isinstance(freeze, Mapping) or not self.total:
            return 0
        try:
            return FreezeUntil.model_validate(freeze).first_update(Horizon(self.total, self._steps_per_epoch()))
        except ValueError:  # epochs of unknown length
            return self.total

    def _steps_per_epoch(self) -> int | None:
        """Return the updates of an epoch, as the metrics show them; None if the run has not ended one."""
        epochs = self.points("epoch")
        first = next((step for step, epoch in epochs if epoch >= 1), None)
        return first or None

    @cached_property
    def learns_in_turn(self) -> bool:
        """Whether the objective's losses depend on weights that other losses move: they may rise in a healthy run."""
        with no_plugins():
            try:
                return OBJECTIVE_REGISTRY[str(self.setting("train.objective.type"))].steps_in_turn
            except (UnknownKeyError, ValueError):
                return False

    @cached_property
    def checkpoints(self) -> list[Path]:
        """The complete checkpoints, the oldest first."""
        return sorted(complete_checkpoints(self.run_dir / CHECKPOINTS), key=step_of)

    def lr_field(self, name: str) -> str:
        """Return the path in the config that sets the highest lr of a component."""
        params = self.setting(f"model.component_optims.{name}.params", {})
        schedule = params.get("schedule") if isinstance(params, Mapping) else None
        for owner, prefix in ((schedule, "schedule."), (params, "")):
            for field in ("peak_lr", "max_lr", "lr"):
                if isinstance(owner, Mapping) and owner.get(field) is not None:
                    return f"model.component_optims.{name}.params.{prefix}{field}"
        return f"model.component_optims.{name}.params.lr"


def part(points: Points, start: float, end: float) -> list[float]:
    """Return the values between two shares of a series: 0 and 1 are its ends."""
    return [value for _, value in points[int(len(points) * start) : max(1, round(len(points) * end))]]


def middle(values: Sequence[float]) -> float:
    """Return the median; 0 without values."""
    return median(values) if values else 0.0


def average(values: Sequence[float]) -> float:
    """Return the mean; 0 without values."""
    return mean(values) if values else 0.0
