"""The time that two processes of a run spend on their decisions, on the digits, as a share, and the messages.

Run it by `python benchmarks/control.py [UPDATES]`; it starts itself under torchrun.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch.distributed as dist
from rich.console import Console

from trainer import load_config
from trainer.distributed.exchange import Exchange
from trainer.distributed.launch import joined
from trainer.distributed.world import World
from trainer.loop.agreed_gradients import AgreedGradients
from trainer.offline_trainer import OfflineTrainer
from trainer.reporting.training_lines import TrainingLines

PROCESSES, UPDATES = 2, 600
DIGITS = Path(__file__).parent.parent / "configs" / "digits.yaml"
METHODS = (
    *((World, name) for name in ("largest", "from_main", "gather", "gather_later")),
    (AgreedGradients, "end_update"),
    (Exchange, "read"),
    *((TrainingLines, name) for name in ("write_arrived", "write")),
)
"""Methods that exchange plain values, check that all processes made the same steps, or write lines that have arrived.
Other methods call these. What these call themselves is not counted twice."""
WITHOUT_WAIT = ("gather_later", "read", "write_arrived")
"""Methods before which a process does not wait for the other one: they send, or use what was sent earlier."""
WAITS = "waits before them"
MESSAGES = ("all_reduce", "all_gather", "broadcast")
"""The functions of torch.distributed that send the messages, of these and of gradients."""

Watch = Callable[[tuple[Any, ...], dict[str, Any], float], None]


@contextlib.contextmanager
def watched(owner: Any, name: str, watch: Watch, before: Callable[[Any], None] = lambda _: None) -> Iterator[None]:
    """Run the body; after each call of a function give `watch` the arguments and the seconds.

    before: called before the clock starts, with the first argument.
    """
    function = getattr(owner, name)

    def call(*given: Any, **options: Any) -> Any:
        if given:
            before(given[0])
        start = time.perf_counter()
        try:
            return function(*given, **options)
        finally:
            watch(given, options, time.perf_counter() - start)

    setattr(owner, name, call)
    try:
        yield
    finally:
        setattr(owner, name, function)


@contextlib.contextmanager
def counting(world: World, seconds: dict[str, float], messages: Counter[str]) -> Iterator[None]:
    """Run the body; add up the seconds of METHODS, and of the waits for the other process before them; count MESSAGES.

    Without METHODS, the process that is ahead would wait at the next gradients. A thread that writes checkpoints calls
    METHODS too, while the run continues: only its messages count.
    """
    names = {"control": "control", "averages": "gradients", "saves": "saves", "reports": "lines"}
    groups = {id(getattr(world, group)): name for group, name in names.items()}

    running: list[str] = []

    def is_main_thread() -> bool:
        return threading.current_thread() is threading.main_thread()

    def begin(name: str) -> Callable[[Any], None]:
        def before(_: Any) -> None:
            if not is_main_thread():
                return
            running.append(name)
            if len(running) == 1 and name not in WITHOUT_WAIT:
                start = time.perf_counter()
                dist.barrier(group=world.control)
                seconds[WAITS] += time.perf_counter() - start

        return before

    def end(name: str) -> Watch:
        def watch(_: tuple[Any, ...], __: dict[str, Any], taken: float) -> None:
            if is_main_thread():
                running.pop()
                if not running:
                    seconds[name] += taken

        return watch

    def count(name: str) -> Watch:
        def watch(_: tuple[Any, ...], options: dict[str, Any], __: float) -> None:
            messages[f"{groups.get(id(options.get('group')), 'other')}: {name}"] += 1

        return watch

    with contextlib.ExitStack() as stack:
        for owner, name in METHODS:
            stack.enter_context(watched(owner, name, end(name), begin(name)))
        for name in MESSAGES:
            stack.enter_context(watched(dist, name, count(name)))
        yield


def measure(updates: int, run_dir: str) -> None:
    """Train, and print the share of the time in the main process."""
    changes = {"train.run_dir": run_dir, "train.total_steps": updates, "train.pictures": False, "train.device": "cpu"}
    config = load_config(DIGITS, changes)
    seconds, messages = {**{name: 0.0 for _, name in METHODS}, WAITS: 0.0}, Counter[str]()
    with joined(World.from_environment(), 60.0) as world:
        trainer = OfflineTrainer(config, Console(quiet=True), world=world)
        if world.is_main:
            Path(run_dir).mkdir(exist_ok=True)
        world.barrier()
        start = time.perf_counter()
        with counting(world, seconds, messages):
            trainer.run()
        whole = time.perf_counter() - start
    if world.is_main:
        total = sum(seconds.values()) - seconds[WAITS]
        print(f"{updates} updates in {whole:.1f} s; control {total:.3f} s, {100 * total / whole:.2f} %")
        for name, taken in seconds.items():
            print(f"  {name}: {taken:.3f} s")
        print("messages in 100 updates")
        for name, number in sorted(messages.items()):
            print(f"  {name}: {100 * number / updates:.1f}")


def launch(updates: int) -> int:
    """Start the processes; return their exit code."""
    with tempfile.TemporaryDirectory() as folder:
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={PROCESSES}"]
        command = [sys.executable, *torchrun, __file__, str(updates), str(Path(folder) / "run")]
        return subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False).returncode


if __name__ == "__main__":
    number = int(sys.argv[1]) if len(sys.argv) > 1 else UPDATES
    if "RANK" in os.environ:
        measure(number, sys.argv[2])
    else:
        sys.exit(launch(number))
