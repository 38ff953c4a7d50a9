"""Everything that the page shows of one run, as plain values."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optimizer.config import counted
from optimizer.types import JsonObject

from ..config.yaml_file import read_config_file
from ..errors import ConfigError
from ..interfaces.objective import HELD_OUT_PREFIX
from ..reporting.metric_series import Metrics
from ..reporting.metrics_file import HELD_OUT
from ..reporting.timeline import read_timeline
from ..run_layout import CHECKPOINTS, CONFIG, METRICS, NOT_UNDERSTOOD, TIMELINE
from ..runtime.files import unreadable
from .config_values import changed_fields
from .saved_files import Budget, checkpoints_of, pictures_of
from .time_spent import complete, processes, time_by_phase

_LONGEST_CONFIG = 200_000
"""Characters of a config that are shown."""
_LONGEST_PLAN = 20_000


class RunFacts:
    """The facts in the files of a run. A file that is damaged or missing leaves its part empty, with a note.

    Args:
        run_dir: The run's directory.
        name: The run's name in the page.

    Raises:
        ConfigError: There is no run.
        UnreadableError: The system refuses to read a file.
    """

    def __init__(self, run_dir: Path, name: str) -> None:
        if not any((run_dir / part).exists() for part in (CONFIG, METRICS)):
            raise ConfigError(f"{run_dir}: there is no run here (no {CONFIG}, no {METRICS}). Give a run's directory.")
        self.run_dir, self.name = run_dir, name
        self.notes: list[str] = []
        self.config = self._read_config()
        try:
            self.metrics = Metrics(run_dir / METRICS)
            self.processes = processes(read_timeline(run_dir / TIMELINE))
        except OSError as error:
            raise unreadable(Path(error.filename or run_dir / METRICS), error) from error
        if self.processes:
            complete(self.processes[-1], self.metrics.last_step, self._last_value("updates_per_second"))
        self._note_metrics()

    def values(self, page_dir: Path, budget: Budget) -> JsonObject:
        """Return the plain values of the run.

        Args:
            page_dir: The folder of the page, from which links lead to the run's files.
            budget: The bytes of pictures that the page may take in.
        """
        saved, problems = checkpoints_of(self.run_dir)
        plans = [process.pop("plan", None) for process in self.processes]
        plan = next((plan for plan in reversed(plans) if isinstance(plan, str)), None)
        return {
            "name": self.name,
            "path": str(self.run_dir.absolute()),
            "status": self._status(),
            "done": self.metrics.last_step,
            "total": self.total_steps,
            "plan": None if plan is None else plan[:_LONGEST_PLAN],
            "config": self._config_text(),
            "changed": changed_fields(self.config),
            "series": list(self.metrics.values()),
            "best": self._best(next((one["step"] for one in saved if one["best"]), None)),
            "pictures": pictures_of(self.run_dir, page_dir, budget),
            "checkpoints": saved,
            "processes": self.processes,
            "phases": self._phases(),
            "notes": [*self.notes, *problems],
        }

    @property
    def total_steps(self) -> int | None:
        """The length of the run in updates; None if no file gives it."""
        given = [process.get("total_steps") for process in reversed(self.processes)]
        given.append(_mapping(self.config.get("train")).get("total_steps"))
        return next((total for total in given if type(total) is int), None)

    def _read_config(self) -> dict[str, Any]:
        try:
            return read_config_file(self.run_dir / CONFIG)
        except (ConfigError, RecursionError) as error:
            self.notes.append(f"The config cannot be shown. {error}")
            return {}

    def _config_text(self) -> str:
        try:
            text = (self.run_dir / CONFIG).read_text(errors="replace") if self.config else ""
        except OSError as error:
            raise unreadable(self.run_dir / CONFIG, error) from error
        return text if len(text) <= _LONGEST_CONFIG else f"{text[:_LONGEST_CONFIG]}\n… ({len(text):,} characters)"

    def _note_metrics(self) -> None:
        metrics = self.metrics
        if metrics.lines == 0:
            self.notes.append(f"{METRICS} has no lines yet.")
        if metrics.damaged:
            self.notes.append(f"{METRICS}: {counted(metrics.damaged, 'line')} not written by a run, left out.")
        if (self.run_dir / NOT_UNDERSTOOD).exists():
            self.notes.append(f"A resume has moved lines that no run wrote to {NOT_UNDERSTOOD}.")
        if metrics.left_out:
            self.notes.append(
                f"{len(metrics.left_out)} or more metrics are left out:"
                f" a page has {len(metrics.series)} of a run at most."
            )
        if not self.processes:
            self.notes.append(
                f"This run has no {TIMELINE}, which an older version did not write: its plan, its resumes and the"
                " time of evaluations and checkpoints are not known."
            )

    def _last_value(self, name: str) -> float | None:
        series = self.metrics.series.get(("train", name))
        return None if series is None or series.last is None else series.last[1]

    def _status(self) -> str:
        """Return the run's status: done, stopped, failed, open (it trains, or was killed lately) or ended."""
        done, total = self.metrics.last_step, self.total_steps
        if self.processes and (end := self.processes[-1]["end"]) is not None:
            return {"done": "done", "StoppedBySignal": "stopped", "KeyboardInterrupt": "stopped"}.get(end, "failed")
        if done is not None and total is not None and done >= total:
            return "done"
        return "open" if self._changed_lately() else "ended"

    def _changed_lately(self, seconds: float = 600.0) -> bool:
        """Return whether a file of the run was written in the last minutes."""
        paths = [path for name in (METRICS, TIMELINE, CHECKPOINTS) if (path := self.run_dir / name).exists()]
        return any(time.time() - os.stat(path).st_mtime < seconds for path in paths)

    def _phases(self) -> JsonObject:
        """Return the seconds by phase, and whether they are known or only estimated from the rate of updates."""
        wait = self.metrics.series.get(("train", "data_wait"))
        share = None if wait is None else wait.mean
        if self.processes:
            return {"seconds": time_by_phase(self.processes, share), "known": True}
        rate, done = self._last_value("updates_per_second"), self.metrics.last_step
        if not rate or not done:
            return {"seconds": {}, "known": False}
        return {"seconds": {"updates, evaluations and checkpoints": done / rate}, "known": False}

    def _best(self, step: int | None) -> JsonObject | None:
        """Return the best evaluation by train.keep_best, or that of the lowest held-out loss; None without one.

        Args:
            step: The updates done at the best checkpoint, if there is one.
        """
        rule = _mapping(_mapping(self.config.get("train")).get("keep_best"))
        monitor, mode = str(rule.get("monitor", f"{HELD_OUT_PREFIX}loss")), str(rule.get("mode", "min"))
        series = self.metrics.series.get((HELD_OUT, monitor.removeprefix(HELD_OUT_PREFIX)))
        if series is None:
            return None
        found = series.at(step) or (series.largest if mode == "max" else series.least)
        return None if found is None else {"monitor": monitor, "mode": mode, "value": found[1], "step": found[0]}


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
