"""The best evaluation of a run so far, and the checkpoint that was made after it."""

from collections.abc import Callable, Mapping
from math import nan
from pathlib import Path

from optimizer.config import counted
from optimizer.types import JsonObject

from ..config.evaluation import BestConfig
from ..distributed.outcomes import by_main
from ..distributed.world import World
from ..run_layout import BEST
from .names import folder_name, is_folder, read_pointer, write_pointer


class BestCheckpoint:
    """The best evaluation so far by the rule of `train.keep_best`; the file BEST names its checkpoint.

    Args:
        rule: The run's `train.keep_best`; None: the run keeps no best checkpoint.
        checkpoints: The folder of the run's checkpoints.
        log: Prints a line.
        world: The place of this process; left out, the only one.
    """

    def __init__(
        self, rule: BestConfig | None, checkpoints: Path, log: Callable[[str], None], world: World | None = None
    ) -> None:
        self._rule, self._checkpoints, self._log = rule, checkpoints, log
        self.world = world or World()
        """The processes of the run."""
        self._previous: JsonObject = {}
        self.record: JsonObject = {}
        """Monitor, mode, value and step of the best evaluation so far, and `evaluation`; empty without one."""
        self.evaluation: JsonObject = {}
        """The settings that decide the monitored metric, of those that a resume may change."""

    @property
    def folder(self) -> Path | None:
        """The folder of the best checkpoint, which may not be written yet; None without one."""
        return self._checkpoints / folder_name(int(self.record["step"])) if self.record else None

    def is_after(self, step: int) -> bool:
        """Return whether the best evaluation is the one after `step` updates."""
        return self.record.get("step") == step

    def observe(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Compare the metrics of the evaluation after `step` updates; return whether they are the best so far.

        An evaluation without the monitored metric is not one of those that are compared.
        """
        if self._rule is None:
            return False
        value = metrics.get(self._rule.metric, nan)
        sign = 1.0 if self._rule.mode == "max" else -1.0
        if value != value or (self.record and sign * value <= sign * float(self.record["value"])):
            return False
        found = {**_rule_fields(self._rule), "value": value, "step": step, "evaluation": self.evaluation}
        self._previous, self.record = self.record, found
        return True

    def undo(self) -> None:
        """Return to the best evaluation before the last one, whose checkpoint could not be saved."""
        self.record = self._previous

    def restore(self, record: JsonObject, step: int) -> None:
        """Continue from the record in the checkpoint after `step` updates, if rule and best checkpoint are the same."""
        if not record or self._rule is None:
            return
        if _rule_fields(self._rule) != {name: record.get(name) for name in ("monitor", "mode")}:
            rule = f"{self._rule.mode} {self._rule.monitor}"
            self._log(f"train.keep_best: {rule} is another rule: the search for the best starts again")
        elif record.get("evaluation", {}) != self.evaluation:
            self._log("train.keep_best: train.evaluation has changed: the search for the best starts again")
        elif is_folder(self._checkpoints / folder_name(int(record["step"]))):
            self.record = dict(record)
        elif read_pointer(self._checkpoints, BEST) != self._checkpoints / folder_name(step):
            # If BEST names that checkpoint, its own evaluation, which comes after it, was better still.
            done = counted(record["step"], "update")
            self._log(f"train.keep_best: the best, after {done}, is missing: the search for the best starts again")

    def write_pointer(self) -> None:
        """Let BEST name the best checkpoint, or remove BEST if there is none. All processes call it together.

        Raises:
            OSError: BEST cannot be written.
        """
        self.record = by_main(self.world, self._write_pointer)

    def _write_pointer(self) -> JsonObject:
        """Do so in the main process, and return the record of the checkpoint that BEST names now."""
        folder = self.folder
        if folder is None or not is_folder(folder):
            self.record = {}
            (self._checkpoints / BEST).unlink(missing_ok=True)
        elif folder != read_pointer(self._checkpoints, BEST):
            write_pointer(self._checkpoints, BEST, folder)
        return self.record

    def missing(self) -> list[str]:
        """Return a line if the run should have a best checkpoint and has none because every metric was NaN."""
        if self._rule is None or self.record:
            return []
        monitor = self._rule.monitor
        return [f"train.keep_best: no evaluation gave a {monitor} that is a number: there is no best checkpoint"]


def _rule_fields(rule: BestConfig) -> dict[str, str]:
    return {"monitor": rule.monitor, "mode": rule.mode}
