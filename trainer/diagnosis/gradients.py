"""Checks of gradient norms, clipping and skipped updates."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator

from optimizer.config import counted

from .evidence import Check, Evidence, Finding, Points, middle, part

_FEWEST_LINES = 12
_EXPLODED = 100.0
_VANISHED = 1e-7
_SKIPPED = 0.02


def exploding(run: Evidence) -> Iterator[Finding]:
    """Look for gradient norms that grow or jump by two orders of magnitude."""
    for name, points in run.by_component("grad_norm").items():
        if len(points) < _FEWEST_LINES:
            continue
        values = [value for _, value in points]
        typical, late, early = middle(values), middle(part(points, 0.9, 1)), middle(part(points, 0.1, 0.5))
        jumps = [
            points[at]
            for at in range(5, len(values))
            if values[at] > _EXPLODED * middle(values[max(0, at - 20) : at]) and values[at] > 0.2 * _EXPLODED * typical
        ]
        if jumps:
            step, value = max(jumps, key=lambda point: point[1])
            measured = f"norm {value:.3g} at update {step}, median {typical:.3g}"
        elif late > _EXPLODED * max(early, 1e-30):
            measured = f"norm {early:.3g} in the first half, {late:.3g} in the last tenth"
        else:
            continue
        yield Finding(
            f"gradient explosion: {name}",
            measured,
            "Single batches throw the weights far away, or training diverges.",
            f"Clip a little above the usual norm: --model.component_optims.{name}.params.grad_clip_norm="
            f"{max(1e-3, 3 * middle(part(points, 0, 0.5))):.2g}; or lower --{run.lr_field(name)}.",
        )


def vanishing(run: Evidence) -> Iterator[Finding]:
    """Look for gradient norms that are 0 but for rounding while the loss is still high."""
    losses = run.points("loss")
    if len(losses) < _FEWEST_LINES or middle(part(losses, 0.75, 1)) < 0.05 * abs(losses[0][1]):
        return
    for name, points in run.by_component("grad_norm").items():
        late = middle(part(points, 0.75, 1))
        if len(points) >= _FEWEST_LINES and late < _VANISHED:
            yield Finding(
                f"vanishing gradient: {name}",
                f"median norm {late:.3g} in the last quarter, while the loss is {middle(part(losses, 0.75, 1)):.3g}",
                "The loss hardly depends on this component: dead units, a detached or saturated output, or a loss of"
                " tiny scale.",
                f"Look at the component's activations and at how the objective uses {name}; normalise its input.",
            )


def clipping(run: Evidence) -> Iterator[Finding]:
    """Report the share of updates whose gradient was clipped, if that is nearly all by a large factor."""
    norms = run.by_component("grad_norm")
    limits: list[tuple[str, str, object, Points]] = [
        ("", "train.grad_clip_norm", run.setting("train.grad_clip_norm"), _joint(norms))
    ]
    for name, points in norms.items():
        path = f"model.component_optims.{name}.params.grad_clip_norm"
        limits.append((f": {name}", path, run.setting(path), points))
    for label, path, limit, points in limits:
        if not isinstance(limit, int | float) or not limit or len(points) < _FEWEST_LINES:
            continue
        share = sum(value > limit for _, value in points) / len(points)
        factor = middle([value for _, value in points]) / limit
        if share > 0.9 and factor > 10:
            yield Finding(
                f"clipping{label}",
                f"{100 * share:.0f}% of {counted(len(points), 'logged update')} clipped, the median norm by"
                f" {factor:.3g}",
                "Nearly every update has the same length: the lr sets the step alone, and with SGD it is far smaller"
                " than the lr alone would make it.",
                f"--{path}={2 * limit * factor:.2g}, or leave it if the loss falls as it should.",
                "note",
            )


def _joint(norms: dict[str, Points]) -> Points:
    """Return the joint norm of all components by update."""
    squares: dict[int, float] = defaultdict(float)
    for points in norms.values():
        for step, value in points:
            squares[step] += value * value
    return [(step, math.sqrt(square)) for step, square in sorted(squares.items())]


def skipped(run: Evidence) -> Iterator[Finding]:
    """Look for a share of updates that were left out because values were not finite."""
    for name, points in run.by_component("skipped").items():
        count = int(max((value for _, value in points), default=0))
        every = run.setting(f"model.component_optims.{name}.every", 1)
        turns = max(1, run.done // (every if isinstance(every, int) and every > 0 else 1))
        if count >= 5 and count / turns > _SKIPPED:
            half = run.setting("train.precision") == "fp16"
            yield Finding(
                f"skipped updates: {name}",
                f"{count} of {turns} ({100 * count / turns:.1f}%)",
                "Losses or gradients were not finite, so that the component did not move in these updates.",
                "--train.precision=bf16 (no overflow), or lower the lr." if half else
                f"Find the cause with --train.on_nonfinite=stop; lower --{run.lr_field(name)}.",
            )  # fmt: skip


CHECKS: Iterable[Check] = (exploding, vanishing, clipping, skipped)
