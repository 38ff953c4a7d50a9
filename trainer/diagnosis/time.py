"""Checks of the phases in which a run spends its time, and of the work that a kill would lose."""

from collections.abc import Iterable, Iterator
from itertools import pairwise

from optimizer.config import counted

from ..report_page.time_spent import time_by_phase
from ..reporting.timeline import CHECKPOINT, STARTED, read_timeline
from ..run_layout import TIMELINE
from .evidence import Check, Evidence, Finding, average, part

_FEWEST_LINES = 10
_WAITING = 0.3
_SAVING = 0.1
_LONGEST_SECONDS = 3600.0


def bound_by_data(run: Evidence) -> Iterator[Finding]:
    """Look for updates that wait for their batches."""
    waits = run.points("data_wait")
    share = average(part(waits, 0.25, 1))
    if len(waits) < _FEWEST_LINES or share < _WAITING:
        return
    workers = run.setting("data.workers", 0)
    pinned = " --data.pin_memory=true" if str(run.setting("train.device", "")).startswith(("cuda", "auto")) else ""
    yield Finding(
        "bound by data",
        f"updates wait for their batch for {100 * share:.0f}% of the time, with data.workers {workers}",
        "The device is idle meanwhile: the data set makes batches more slowly than they are used.",
        f"--data.workers={max(2, 2 * workers)}{pinned} (pinned memory on CUDA); or decode and resize once, in advance.",
    )


def saving(run: Evidence) -> Iterator[Finding]:
    """Look for checkpoints that take long, or leave much work at risk."""
    waits = run.points("data_wait")
    phases = time_by_phase(run.processes, average([value for _, value in waits]))
    total = sum(phases.values())
    if total > 60 and phases.get("checkpoints", 0.0) > _SAVING * total:
        yield Finding(
            "checkpoints take long",
            f"{phases['checkpoints']:.0f} s of {total:.0f} s ({100 * phases['checkpoints'] / total:.0f}%)",
            "Training stands still meanwhile.",
            "Save less often (train.save_every), or in the background: --train.save_async=true.",
        )
    gap = _longest_gap(run)
    if gap > _LONGEST_SECONDS:
        yield Finding(
            "work at risk",
            f"up to {gap / 3600:.1f} hours between checkpoints",
            "So much is lost if the process is killed without a signal.",
            "--train.save_every_minutes=30",
            "note",
        )


def lost_work(run: Evidence) -> Iterator[Finding]:
    """Report updates that were made twice, because a process was killed after its last checkpoint."""
    lost = sum(max(0, one["reached"] - other["began"]) for one, other in pairwise(run.processes))
    if run.done and lost > 0.1 * run.done:
        yield Finding(
            "lost work",
            f"{counted(lost, 'update')} made twice after {counted(len(run.processes) - 1, 'resume')}",
            "Processes ended without a checkpoint: killed, or the machine failed.",
            "Save more often: --train.save_every_minutes=5; stop a run with SIGTERM and wait for it.",
            "note",
        )


def _longest_gap(run: Evidence) -> float:
    """Return the longest time between a process's start and its checkpoints, in seconds."""
    longest = at = 0.0
    for line in read_timeline(run.run_dir / TIMELINE):
        elapsed = line.get("elapsed")
        if not isinstance(elapsed, int | float):
            continue
        if line["event"] == STARTED:
            at = elapsed
        elif line["event"] == CHECKPOINT:
            longest, at = max(longest, elapsed - at), elapsed
    return longest


CHECKS: Iterable[Check] = (bound_by_data, saving, lost_work)
