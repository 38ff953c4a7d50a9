"""A run of several processes whose ranks are killed at random, which torchrun restarts each time."""

import json
import os
import random
import signal
import time
from pathlib import Path

from processes import launched

PAUSE_SECONDS = 0.1


def last_step(run: Path) -> int:
    """Return the number of the last update in a run's metrics, or -1."""
    try:
        lines = [line for line in (run / "metrics.jsonl").read_text().splitlines() if line.endswith("}")]
    except FileNotFoundError:
        return -1
    return int(json.loads(lines[-1])["step"]) if lines else -1


def train_with_kills(
    config: Path, run: Path, kills: int, seed: int, size: int = 2, timeout: float = 3000.0
) -> list[float]:
    """Train with `--or-resume` under torchrun, and kill a random rank `kills` times while the run trains.

    Returns:
        The seconds from each kill to the next update.
    """
    chance, seconds = random.Random(seed), []
    arguments = ("train", config, "--or-resume", f"--train.run_dir={run}", "--train.log_every=1")
    with launched(size, *arguments, options=(f"--max-restarts={kills}",)) as launch:
        for number in range(kills):
            done, killed = last_step(run), time.monotonic()
            while last_step(run) <= done:
                assert launch.torchrun.poll() is None, launch.output()[-4000:]
                time.sleep(PAUSE_SECONDS)
            if number:
                seconds.append(time.monotonic() - killed)
            time.sleep(chance.uniform(0.0, 1.0))
            for pid in launch.pids(chance.randrange(size))[:1]:
                os.kill(pid, signal.SIGKILL)
            time.sleep(PAUSE_SECONDS)
        code = launch.finish(timeout)
        assert code == 0, launch.output()[-6000:]
        Path(run.parent / f"{run.name}.txt").write_text(launch.output())
    return seconds
