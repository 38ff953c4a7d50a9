"""Checks of losses and evaluations."""

import math
from collections.abc import Iterable, Iterator
from itertools import pairwise

from optimizer.config import counted

from .evidence import Check, Evidence, Finding, average, middle, part

_FEWEST_LINES = 12
_RISE = 0.25
_SPIKE = 5.0
_OVERFITTING = 1.25
_LEFT = 0.2
"""Share of the first loss below which a loss has come down."""


def loss_not_finite(run: Evidence) -> Iterator[Finding]:
    """Look for losses and gradients that are NaN or infinite."""
    for (split, name), series in run.facts.metrics.series.items():
        if series.nonfinite_count and split == "train":
            yield Finding(
                f"not finite: {name}",
                f"NaN or infinite in {counted(series.nonfinite_count, 'line')}, first at update"
                f" {series.nonfinite[0][0]}",
                "The update diverged, or the data or the loss has a value that is not finite.",
                _lower_lrs(run) + " Look at the batch of that update; train.on_nonfinite=stop ends a run there.",
            )
    end = run.processes[-1] if run.processes else {}
    if end.get("end") == "NonFiniteError":
        yield Finding(
            "not finite",
            f"the run stopped after {counted(run.done, 'update')}: {end.get('message', '')}",
            "A loss or gradient became NaN or infinite.",
            _lower_lrs(run) + " If the message names the batch, clean the data.",
        )


def loss_rises(run: Evidence) -> Iterator[Finding]:
    """Look for a training loss that ends above its beginning, or jumps up again and again: the lr is too high."""
    points = run.points("loss")
    if len(points) < 2 * _FEWEST_LINES or run.learns_in_turn:
        return
    count = max(5, len(points) // 10)
    first, last = (middle([value for _, value in some]) for some in (points[:count], points[-count:]))
    if last > first + _RISE * max(abs(first), 1e-12):
        yield Finding(
            "loss rises",
            f"median training loss {first:.4g} in the first tenth, {last:.4g} in the last",
            "The learning rate is too high, or its warm-up too short.",
            _lower_lrs(run),
        )
        return
    values = [value for _, value in points]
    spikes = [
        points[at][0]
        for at in range(10, len(values))
        if values[at] > _SPIKE * middle(values[max(0, at - 20) : at]) and values[at] > 0.5 * abs(first)
    ]
    if len(spikes) >= 3:
        yield Finding(
            "loss jumps",
            f"{counted(len(spikes), 'training line')} with a loss above {_SPIKE:g} x the median before it,"
            f" first at update {spikes[0]}",
            "Single updates go too far: the learning rate is too high, or some batches have extreme values.",
            _lower_lrs(run) + " Or clip: --train.grad_clip_norm=1.",
        )


def plateau(run: Evidence) -> Iterator[Finding]:
    """Look for a training loss that has stopped falling while the lr is still high."""
    points = run.points("loss")
    if len(points) < 2 * _FEWEST_LINES or run.learns_in_turn:
        return
    first, third, fourth = (
        average(part(points, 0, 0.05)),
        average(part(points, 0.5, 0.75)),
        average(part(points, 0.75, 1)),
    )
    if first <= 0 or fourth < _LEFT * first or third - fourth > 0.01 * first:
        return
    high = [name for name, lrs in run.by_component("lr").items() if lrs and lrs[-1][1] > 0.1 * max(v for _, v in lrs)]
    if high:
        fallen = 100 * (1 - fourth / first)
        yield Finding(
            "plateau",
            f"training loss {third:.4g} in the third quarter, {fourth:.4g} in the last, {fallen:.0f}% below its start;"
            f" lr still high: {', '.join(high)}",
            "The loss has stopped falling: the model has converged, or the lr is too high or far too low.",
            f"Let the lr fall: --model.component_optims.{high[0]}.params.schedule.type=cosine (or"
            " ReduceLROnPlateau), or look for another one with `innerstep lr-find`.",
            "note",
        )


def overfitting(run: Evidence) -> Iterator[Finding]:
    """Look for a held-out loss that has risen from its best value while the training loss fell."""
    held, train = run.held_out(), run.points("loss")
    if len(held) < 5 or len(train) < _FEWEST_LINES:
        return
    calm = [average([value for _, value in held[max(0, at - 1) : at + 2]]) for at in range(len(held))]
    best_at = min(range(len(held)), key=calm.__getitem__)
    step, best, last = held[best_at][0], calm[best_at], calm[-1]
    before = [value for at, value in train if at < step][-5:]
    after = part(train, 0.9, 1)
    if len(held) - 1 - best_at < 3 or best <= 0 or last < _OVERFITTING * best or average(after) >= average(before):
        return
    kept = " checkpoints/best is from there." if run.setting("train.keep_best") is not None else ""
    yield Finding(
        "overfitting",
        f"held-out loss {best:.4g} after update {step}, {last:.4g} at the end; training loss {average(before):.4g},"
        f" then {average(after):.4g}",
        f"Since then the model has learned its training samples by heart.{kept}",
        ("" if kept else "Keep the best checkpoint: --train.keep_best={}. ")
        + f"Train for about {step} updates, or use more data, weight decay, or dropout.",
    )


def noisy_evaluation(run: Evidence) -> Iterator[Finding]:
    """Look for evaluations that jump up and down more than they move on."""
    episodes = run.setting("train.evaluation.n_episodes")
    success = run.held_out("success")
    if isinstance(episodes, int) and success and episodes > 0:
        share = success[-1][1]
        error = math.sqrt(max(share * (1 - share), 1 / (4 * episodes)) / episodes)
        if error > 0.1:
            yield Finding(
                "noisy evaluation: success",
                f"{share:.2f} ± {error:.2f} (standard error) of {counted(episodes, 'episode')}",
                "Differences of this size between evaluations, and a best checkpoint chosen by them, may be chance.",
                f"--train.evaluation.n_episodes={max(50, 2 * episodes)}",
                "note",
            )
    held = run.held_out()
    values = [value for _, value in held]
    if len(values) < 8:
        return
    steps = [after - before for before, after in pairwise(values)]
    turns = sum(one * other < 0 for one, other in pairwise(steps)) / (len(steps) - 1)
    jump, moved = middle([abs(step) for step in steps]), abs(average(values[:3]) - average(values[-3:]))
    if turns > 0.6 and jump > 0.05 * abs(average(values)) and jump > moved:
        yield Finding(
            "noisy evaluation: loss",
            f"the held-out loss turns at {100 * turns:.0f}% of the evaluations, by {jump:.3g} each time; it has moved"
            f" by {moved:.3g} in all",
            "The held-out set is small, or the learning rate so high that each evaluation sees another model.",
            "Hold out more samples, or average the weights: --train.ema.decay=0.999",
            "note",
        )


def ended_by_failure(run: Evidence) -> Iterator[Finding]:
    """Report an exception that ended the run."""
    end = run.processes[-1] if run.processes else {}
    reason = end.get("end")
    if reason in (None, "done", "StoppedBySignal", "KeyboardInterrupt", "NonFiniteError"):
        return
    yield Finding(
        "failure",
        f"the run ended after {counted(run.done, 'update')} by {reason}: {end.get('message', '')}",
        "The run is not done.",
        f"Remove the cause, then `innerstep resume {run.run_dir}`.",
    )


def _lower_lrs(run: Evidence) -> str:
    """Return the overrides that lower the lr of each component to a third."""
    lowered: list[str] = []
    for name, lrs in run.by_component("lr").items():
        lowered.append(f"--{run.lr_field(name)}={max(value for _, value in lrs) / 3:.2g}")
    return f"Lower the lr: {' '.join(lowered)}." if lowered else "Lower the lr."


CHECKS: Iterable[Check] = (
    loss_not_finite,
    loss_rises,
    plateau,
    overfitting,
    noisy_evaluation,
    ended_by_failure,
)
