"""The processes that trained a run, and the time by phase, from its timeline."""

from collections.abc import Iterable, Mapping
from typing import Any

from optimizer.types import JsonObject

from ..reporting.timeline import CHECKPOINT, DONE, ENDED, EVALUATION, PICTURES, STARTED

MOST_PROCESSES = 200
"""Processes of a run that are kept, the last ones."""
_PHASES = {CHECKPOINT: "checkpoints", EVALUATION: "evaluation", PICTURES: "pictures"}
_DESCRIBED = ("time", "plan", "total_steps", "processes", "innerstep", "torch", "device")


def processes(timeline: Iterable[Mapping[str, Any]]) -> list[JsonObject]:
    """Return the processes that trained a run, in their order.

    Each has the updates done when it began and at its last event (`began`, `reached`), the `seconds` until then, the
    seconds by phase (`phases`), and its `end`: done, the name of an exception, or None if it was killed or trains now.
    """
    found: list[JsonObject] = []
    for line in timeline:
        event, step, elapsed = line["event"], line["step"], _seconds(line.get("elapsed"))
        if event == STARTED:
            about = {name: line[name] for name in _DESCRIBED if name in line}
            found.append(
                {"began": step, "reached": step, "seconds": elapsed, "phases": {"start": elapsed}, "end": None, **about}
            )
        if not found:
            continue
        process = found[-1]
        process["reached"], process["seconds"] = max(process["reached"], step), max(process["seconds"], elapsed)
        if phase := _PHASES.get(event):
            process["phases"][phase] = process["phases"].get(phase, 0.0) + _seconds(line.get("seconds"))
        elif event == ENDED:
            process["end"], process["message"] = str(line.get("reason", DONE)), str(line.get("message", ""))
    return found[-MOST_PROCESSES:]


def complete(process: JsonObject, last_step: int | None, rate: float | None) -> None:
    """Extend the seconds of a process that wrote no end to its last line of metrics.

    Args:
        process: The last one of the run.
        last_step: The updates done, by the metrics.
        rate: Their updates per second since the process began to train.
    """
    if process["end"] is None and last_step is not None and last_step > process["reached"] and rate:
        trained = (last_step - process["began"]) / rate
        process["seconds"] = max(process["seconds"], process["phases"]["start"] + trained)
        process["reached"] = last_step


def time_by_phase(found: Iterable[JsonObject], data_wait: float | None) -> dict[str, float]:
    """Return the seconds of all processes by phase. The updates have the time that is left.

    Args:
        found: The processes.
        data_wait: The share of the updates' time that they waited for batches; None: it is not known.
    """
    phases: dict[str, float] = {}
    total = 0.0
    for process in found:
        total += process["seconds"]
        for name, seconds in process["phases"].items():
            phases[name] = phases.get(name, 0.0) + seconds
    updates = max(0.0, total - sum(phases.values()))
    waiting = updates * min(1.0, max(0.0, data_wait or 0.0))
    return {"updates": updates - waiting, "waiting for data": waiting, **phases}


def _seconds(value: object) -> float:
    """Return a duration in a file; 0 if it is not one."""
    return float(value) if isinstance(value, int | float) and 0 <= value < 1e12 else 0.0
