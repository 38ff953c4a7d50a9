"""Kills the demo with SIGKILL at a random moment, resumes it, and compares the end with that of an
uninterrupted run, byte for byte; ten times over, with moments from a seed that is printed."""

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS = 10
COMMAND = [sys.executable, "-m", "trainer"]
CONFIG = "configs/digits.yaml"


def train(run: Path) -> list[str]:
    """Return the command that starts the demo in `run`."""
    return [*COMMAND, "train", CONFIG, f"--train.run_dir={run}", "--train.pictures=false"]


def ended(run: Path) -> dict[str, object]:
    """Return what a run ended with: its last checkpoint's bytes, and its metrics but for their speed."""
    final = run / "checkpoints" / "step_00000600"
    files: dict[str, object] = {path.relative_to(final).as_posix(): path.read_bytes() for path in final.rglob("*.*")}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return files | {"metrics": [line | {"updates_per_second": None, "data_wait": None} for line in lines]}


def main() -> None:
    """Run, kill, resume, compare; exit with 1 if any run ended otherwise."""
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    moments = random.Random(seed)
    folder = Path(tempfile.mkdtemp())
    begun = time.monotonic()
    subprocess.run(train(folder / "whole"), check=True, capture_output=True)
    seconds = time.monotonic() - begun
    expected = ended(folder / "whole")
    print(f"uninterrupted: {seconds:.1f} s; seed {seed}")
    equal = 0
    for number in range(RUNS):
        run = folder / f"killed_{number}"
        process = subprocess.Popen(train(run), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        moment = moments.uniform(0, seconds)
        time.sleep(moment)
        process.kill()
        process.wait()
        there = (run / "config.yaml").exists()  # else it was killed before the run was begun
        again = [*COMMAND, "resume", str(run), "--train.pictures=false"] if there else train(run)
        done = subprocess.run(again, check=True, capture_output=True, text=True)
        said = next((line for line in done.stdout.splitlines() if line.startswith("resuming")), "started over")
        same = ended(run) == expected
        equal += same
        print(f"killed after {moment:5.1f} s, {said}: {'identical' if same else 'DIFFERENT'}", flush=True)
    print(f"{equal} of {RUNS} ended identical")
    sys.exit(equal != RUNS)


if __name__ == "__main__":
    main()
