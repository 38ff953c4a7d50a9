"""Checks of learning rates and schedules."""

from collections.abc import Iterable, Iterator

from optimizer.analysis import FIRST_AT_ZERO, schedule_warnings

from .evidence import Check, Evidence, Finding

_FEWEST_LINES = 10


def constant_lr(run: Evidence) -> Iterator[Finding]:
    """Look for an lr that has stayed the same in a run that is done, although there is a schedule."""
    if not run.total or run.done < 0.9 * run.total:
        return
    for name, lrs in run.by_component("lr").items():
        values = {value for _, value in lrs}
        if len(lrs) < _FEWEST_LINES or max(values) > min(values) * (1 + 1e-9) or name not in run.factories:
            continue
        factory, horizon = run.factories[name]
        curve = factory.curve
        if curve.key == "constant":
            continue
        preview = factory.preview(horizon)
        if preview.monitors:
            monitors = ", ".join(sorted(preview.monitors))
            reports = len(run.held_out())
            yield Finding(
                f"constant lr: {name}",
                f"lr {lrs[0][1]:.3g} in all {run.done} updates; {curve.key} waits for {monitors}; {reports}"
                " evaluations",
                "The schedule never lowered the lr: the metric kept improving, or there were too few evaluations.",
                f"Evaluate more often (--train.eval_every={max(1, run.total // 20)}), or lower"
                f" --model.component_optims.{name}.params.schedule.patience.",
                "finding" if reports <= 2 else "note",
            )
        else:
            yield Finding(
                f"constant lr: {name}",
                f"lr {lrs[0][1]:.3g} in all {run.done} updates, with the schedule {curve.key}",
                "The schedule does not move in this run: its first change comes later, or its interval is an epoch.",
                f"Shorten it to the run of {run.total} updates under --model.component_optims.{name}.params.schedule,"
                f" and look at it: innerstep plot {run.run_dir}/config.yaml",
            )


def schedule_length(run: Evidence) -> Iterator[Finding]:
    """Compare the lengths of the schedules with the run, as the plan does."""
    for name, (factory, horizon) in run.factories.items():
        if name not in run.by_component("lr"):
            continue
        try:
            preview = factory.preview(horizon)
            lines = schedule_warnings(preview.scheduler, horizon.total_steps)
        except ValueError:
            continue
        for line in lines:
            path = f"model.component_optims.{name}.params"
            if line == FIRST_AT_ZERO:
                meaning, remedy = "The first step is lost; all others are as meant.", f"Begin above 0 in {path}."
                yield Finding(f"schedule: {name}", line, meaning, remedy, "note")
                continue
            yield Finding(
                f"schedule: {name}",
                line,
                "The lr does not follow the curve that was meant.",
                f"Leave the lengths under {path} out, so that they follow train.total_steps ({run.total}), or set them"
                " to it.",
            )


CHECKS: Iterable[Check] = (constant_lr, schedule_length)
