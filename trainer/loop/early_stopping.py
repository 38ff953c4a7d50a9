"""The end of a run whose metric no longer improves, by `train.early_stopping`."""

from collections.abc import Callable, Mapping
from math import isnan, nan

from optimizer.config import counted
from optimizer.types import JsonObject

from ..config.evaluation import EarlyStoppingConfig


class EarlyStopping:
    """Counts the evaluations since the monitored metric has improved.

    Args:
        rule: The run's `train.early_stopping`; None: the run does not end early.
        log: Prints a line.
    """

    def __init__(self, rule: EarlyStoppingConfig | None, log: Callable[[str], None]) -> None:
        self._rule, self._log = rule, log
        self.record: JsonObject = {}
        """Rule, best value, its step, and the evaluations since then, as a checkpoint has them; empty without any."""
        self.evaluation: JsonObject = {}
        """The settings that decide the monitored metric, of those that a resume may change."""

    @property
    def is_over(self) -> bool:
        """Whether the run ends now."""
        return self._ends(self.record)

    def ends_with(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Return whether the run ends after the evaluation after `step` updates, which has these metrics."""
        return self._ends(self._after(step, metrics))

    def observe(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics of the evaluation after `step` updates."""
        self.record = self._after(step, metrics)

    def restore(self, record: JsonObject) -> None:
        """Continue from the record in a checkpoint, if metric, direction and the evaluation are the same."""
        if not record or self._rule is None:
            return
        if {name: record.get(name) for name in ("monitor", "mode")} != _rule_fields(self._rule):
            self._log(
                f"train.early_stopping: {self._rule.mode} {self._rule.monitor} is another rule: counting starts again"
            )
        elif record.get("evaluation", {}) != self.evaluation:
            self._log("train.early_stopping: train.evaluation has changed: counting starts again")
        else:
            self.record = dict(record)

    def reason(self) -> str:
        """Return why the run ends, without a full stop."""
        assert self._rule is not None, "the run does not end early"
        rule, best, step = self._rule, float(self.record["value"]), int(self.record["step"])
        moved = "fallen below" if rule.mode == "min" else "risen above"
        by = f" by more than {rule.min_delta:g}" if rule.min_delta else ""
        waited = counted(self.record["waited"], "evaluation")
        return f"in {waited} {rule.monitor} has not {moved} the {best:.6g} after {counted(step, 'update')}{by}"

    def _ends(self, record: JsonObject) -> bool:
        return self._rule is not None and int(record.get("waited", 0)) >= self._rule.patience

    def _after(self, step: int, metrics: Mapping[str, float]) -> JsonObject:
        """Return the record after an evaluation. One without the monitored metric does not count."""
        rule = self._rule
        if rule is None or rule.metric not in metrics:
            return self.record
        value, sign = metrics[rule.metric], 1.0 if rule.mode == "max" else -1.0
        best = float(self.record["value"]) if self.record else nan
        if self.record and (isnan(value) or sign * value <= sign * best + rule.min_delta):
            return {**self.record, "waited": int(self.record["waited"]) + 1}
        return {**_rule_fields(rule), "value": value, "step": step, "waited": 0, "evaluation": self.evaluation}


def _rule_fields(rule: EarlyStoppingConfig) -> JsonObject:
    return {"monitor": rule.monitor, "mode": rule.mode}
