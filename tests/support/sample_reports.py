"""Directories of runs that were never trained, with the files that a report reads."""

import json
import re

from sample_runs import ADAMW, MLPS, config

from trainer import load_config

HOSTILE = """</script><script>window.ran=1</script><img src=x onerror="window.ran=1">'"`${window.ran=1}{{style}}"""
"""A name that runs if it becomes markup or code anywhere."""


def training_line(step, **values):
    """Return a training line of update `step`."""
    losses = {"loss": 2.0 / (step + 1), "loss/mse": 1.5 / (step + 1), "loss/kl": 0.5 / (step + 1)}
    lrs = {f"lr/{name}": 1e-3 * (step + 1) for name in MLPS}
    norms = {f"grad_norm/{name}": 1.0 + step % 3 for name in MLPS}
    speed = {"updates_per_second": 10.0, "data_wait": 0.25}
    return {"split": "train", "step": step, "epoch": 0, **losses, "accuracy": 0.5, **lrs, **norms, **speed, **values}


def held_out_line(step, loss, **values):
    """Return the line of an evaluation after `step` updates."""
    return {"split": "held_out", "step": step, "epoch": 0, "loss": loss, "accuracy": 0.6, **values}


def metric_lines(updates=40, every=10):
    """Return the lines of a run whose evaluation after 20 updates is the best."""
    lines = []
    for step in range(updates):
        lines.append(training_line(step))
        if (step + 1) % every == 0:
            lines.append(held_out_line(step + 1, 0.2 + abs(step + 1 - 20) / 100))
    return lines


def events(updates=40, resumed_after=(), ended="done"):
    """Return a timeline: each process takes a second an update, 2 s a checkpoint and 3 s an evaluation."""
    found, elapsed = [], 0.0
    starts = [0, *resumed_after]
    for number, (began, reached) in enumerate(zip(starts, [*resumed_after, updates], strict=True)):
        about = {
            "time": f"2026-11-2{number}T10:00:00+00:00",
            "total_steps": updates,
            "plan": "component  params\nfirst  4",
        }
        found.append({"event": "started", "step": began, "elapsed": 5.0, "innerstep": "9.9", "device": "cpu", **about})
        elapsed = 5.0 + reached - began + 5.0
        found.append({"event": "checkpoint", "step": reached, "elapsed": elapsed - 3, "seconds": 2.0})
        found.append({"event": "evaluation", "step": reached, "elapsed": elapsed, "seconds": 3.0})
    if ended is not None:
        found.append({"event": "ended", "step": updates, "elapsed": elapsed, "reason": ended, "message": ""})
    return found


def write_run(folder, lines=None, timeline=None, checkpoints=(20, 40), best=20, **changed):
    """Write a run's directory; `changed`: fields of its train section. Return it."""
    folder.mkdir(parents=True)
    made = load_config(config(folder, MLPS, dict.fromkeys(MLPS, ADAMW), **changed))
    (folder / "config.yaml").write_text(json.dumps(made.resolved()))
    write_lines(folder / "metrics.jsonl", metric_lines() if lines is None else lines)
    if timeline is not None:
        write_lines(folder / "timeline.jsonl", timeline)
    for step in checkpoints:
        write_checkpoint(folder / "checkpoints", step)
    if checkpoints:
        (folder / "checkpoints/latest").write_text(f"step_{checkpoints[-1]:08d}\n")
    if best in checkpoints:
        (folder / "checkpoints/best").write_text(f"step_{best:08d}\n")
    return folder


def write_lines(path, lines):
    """Write lines: objects as JSON, texts as they are."""
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))


def write_checkpoint(checkpoints, step):
    """Write the manifest of a checkpoint of two files."""
    from trainer.runtime.files import checksum_of

    folder = checkpoints / f"step_{step:08d}"
    folder.mkdir(parents=True)
    files = {name: {"size_bytes": 1000 + step, "xxh3_128": ""} for name in ("trainer.json", "first/model.safetensors")}
    manifest = {"format_version": 1, "step": step, "finite": True, "files": files}
    (folder / "manifest.json").write_text(json.dumps(manifest | {"checksum": checksum_of(manifest)}))


def values_in(page):
    """Return the plain values in the text of a page."""
    return json.loads(re.search(r'<script type="application/json" id="values">(.*?)</script>', page, re.DOTALL)[1])
