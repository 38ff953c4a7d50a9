"""A small run that saves often, killed at many moments, and the end that it must reach.

Each life of a run is a separate process, forked from a server that has imported the trainer: it begins in a
hundredth of the time that a command takes, so that hundreds of kills are affordable.
"""

import copy
import io
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from json import loads
from pathlib import Path
from typing import Any

from processes import fork_server

STEPS = 20
COMPONENTS = {"first": {"type": "normed", "params": {"dropout": 0.3}}, "second": {"type": "normed"}}
OPTIMS = {
    "first": {
        "type": "adamw",
        "params": {"lr": 1e-2, "schedule": {"type": "plateau", "patience": 0, "threshold": 0.5, "factor": 0.5}},
    },
    "second": {"type": "schedule_free_radam", "params": {"lr": 0.1, "silent_sgd_phase": False}},
}
VARIANTS = {
    f"{precision}-{'async' if save_async else 'sync'}": {"precision": precision, "save_async": save_async}
    for precision in ("fp32", "fp16")
    for save_async in (False, True)
}


def config(run: Path, **changed: Any) -> dict[str, Any]:
    """Return the config of a run in `run` that saves after every update.

    changed: of its section `train`; `model` takes the place of that section.
    """
    model = changed.pop("model", {"components": COMPONENTS, "component_optims": OPTIMS})
    often = {"eval_every": 2, "save_every": 1, "keep_last": 3, "keep_best": {}, "log_every": 1, "accumulate": 2}
    return {
        "plugins": ["sample_parts"],
        "data": {"type": "noise", "batch_size": 8, "params": {"samples": 50}},
        "model": copy.deepcopy(model),  # tests change what they get
        "train": {
            "objective": {"type": "regression"},
            "total_steps": STEPS,
            "run_dir": str(run),
            "device": "cpu",
            **often,
            **changed,
        },
    }


def live(run: Path, **changed: Any) -> None:
    """Train the run in `run`, or resume it, to the end: one life."""
    import torch
    from rich.console import Console

    from trainer import resume, train

    torch.set_num_threads(1)
    console = Console(file=io.StringIO())
    if (run / "config.yaml").exists():
        resume(run, console=console)
    else:  # killed before the run was there
        train(config(run, **changed), console=console)


@dataclass(frozen=True)
class End:
    """The end of a run. files: checksums of its last checkpoint's files. names: the contents of `latest` and `best`."""

    files: dict[str, str]
    names: dict[str, str]
    metrics: list[dict[str, Any]]

    def differences(self, other: "End") -> list[str]:
        """Return the differences from `other`."""
        files = [name for name in {**self.files, **other.files} if self.files.get(name) != other.files.get(name)]
        names = [
            f"{name}: {named}, {other.names[name]}" for name, named in self.names.items() if named != other.names[name]
        ]
        return [*files, *names, *(["metrics"] if self.metrics != other.metrics else [])]


def end_of(run: Path, steps: int = STEPS) -> End:
    """Return the end of the run in `run` after `steps` updates, without its speed."""
    checkpoints = run / "checkpoints"
    last = checkpoints / f"step_{steps:08d}"
    files = {
        path.relative_to(last).as_posix(): sha256(path.read_bytes()).hexdigest()
        for path in sorted(last.rglob("*"))
        if path.is_file()
    }
    names = {name: (checkpoints / name).read_text().strip() for name in ("latest", "best")}
    lines = [loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return End(files, names, [{**line, "updates_per_second": None, "data_wait": None} for line in lines])


def check_what_is_there(run: Path) -> int:
    """Check each folder that looks like a checkpoint, as a kill left it; return how many there are.

    Raises DamagedCheckpointError or AssertionError.
    """
    from trainer.checkpoint.directory import read_pointer, verify

    checkpoints = run / "checkpoints"
    folders = sorted(checkpoints.glob("step_*"))
    for folder in folders:
        assert verify(folder)["step"] == int(folder.name.removeprefix("step_"))
    if (checkpoints / "latest").exists():
        assert read_pointer(checkpoints, "latest") in folders, "latest names a checkpoint that is not there"
    if (checkpoints / "best").exists():
        assert read_pointer(checkpoints, "best") in folders, "best names a checkpoint that is not there"
    text = (run / "metrics.jsonl").read_text() if (run / "metrics.jsonl").exists() else ""
    for line in text.split("\n")[:-1]:  # the last may be cut in half
        loads(line)
    return len(folders)


class Lives:
    """Starts lives of runs, and ends them. seconds: how long an uninterrupted one takes, its start included."""

    def __init__(self) -> None:
        self.context = fork_server()

    def whole(self, run: Path, **changed: Any) -> float:
        """Let the run in `run` live to its end; return how long that took, in seconds."""
        begun = time.monotonic()
        process = self.context.Process(target=live, args=(run,), kwargs=changed)
        process.start()
        process.join(120)
        assert process.exitcode == 0, f"{run}: ended with {process.exitcode}"
        return time.monotonic() - begun

    def kill(self, run: Path, after: float, **changed: Any) -> bool:
        """Kill a life of the run in `run` after so many seconds; return whether it was alive until then."""
        process = self.context.Process(target=live, args=(run,), kwargs=changed)
        process.start()
        process.join(after)
        assert process.pid is not None
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
        process.join(120)
        assert process.exitcode in (0, -signal.SIGKILL), f"{run}: ended with {process.exitcode}"
        return process.exitcode != 0


@dataclass(frozen=True)
class Chain:
    """A run that was killed several times. there: the number of checkpoints found after each kill."""

    there: list[int]
    end: End


def chain(lives: Lives, run: Path, kills: int, seconds: float, moments: random.Random, **changed: Any) -> Chain:
    """Kill the run in `run` so many times, at moments of up to `seconds` in each of its lives, and let it end.

    There are fewer kills if it ends before: one that a kill did not find alive.
    """
    there: list[int] = []
    while len(there) < kills and lives.kill(run, moments.uniform(0, moments.choice((0.4, 1.0)) * seconds), **changed):
        there.append(check_what_is_there(run))
    lives.whole(run, **changed)
    return Chain(there, end_of(run))


def chains(lives: Lives, folder: Path, kills: int, seed: int) -> Iterator[tuple[str, Chain, list[str]]]:
    """Yield chains of `kills` kills in all for each variant, and what each ended with otherwise than without a kill."""
    for name, changed in VARIANTS.items():
        lives.whole(folder / f"{name}-{seed}-first", **changed)  # slower than those after it
        seconds = lives.whole(folder / f"{name}-{seed}-whole", **changed)
        whole = end_of(folder / f"{name}-{seed}-whole")
        moments, left, number = random.Random(f"{seed} {name}"), kills, 0
        while left > 0:
            run = folder / f"{name}-{seed}-{number}"
            done = chain(lives, run, min(left, 10), seconds, moments, **changed)
            left, number = left - len(done.there), number + 1
            yield name, done, whole.differences(done.end)
