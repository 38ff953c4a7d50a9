"""A run of three components that is stopped, resumed and made longer, and whose backbone goes into another run.
Run it with `python walkthrough.py`. It runs the commands of `main`, and prints the learning rates at each resume."""

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

RUN = Path("runs/reaching")
METRICS = RUN / "metrics.jsonl"
COMPONENTS = ("vision_backbone", "state_embedder", "action_head")


def innerstep(command: str, stop_after: int | None = None) -> None:
    """Run a command; with `stop_after`, send it SIGTERM after that many updates, as a cluster does."""
    print(f"\n$ innerstep {command}", flush=True)
    process = subprocess.Popen([sys.executable, "-m", "trainer", *shlex.split(command)])
    while stop_after is not None and process.poll() is None:
        if len(learning_rates()) > stop_after:
            process.terminate()
            break
        time.sleep(0.01)
    expected = 0 if stop_after is None else 75  # 75: stopped by a signal, and saved
    if (code := process.wait()) != expected:
        sys.exit(f"expected exit code {expected}, got {code}")


def learning_rates() -> dict[int, list[float]]:
    """Return the learning rates of the run's components by update."""
    lines = METRICS.read_text().splitlines() if METRICS.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("}")]  # the last one may be half written
    return {row["step"]: [row[f"lr/{name}"] for name in COMPONENTS] for row in rows if row["split"] == "train"}


def print_rates_around(first: int) -> None:
    """Print the learning rates before and after `first`, the first update after a resume."""
    rates = learning_rates()
    print("learning rates", *(f"{name:>15}" for name in COMPONENTS))
    for update in range(first - 2, first + 2):
        columns = (f"{lr:15.4e}" for lr in rates[update])
        print(f"  update {update:<5}", *columns, *(["  <- resumed"] if update == first else []))


def main() -> None:
    innerstep("plan config.yaml")
    METRICS.unlink(missing_ok=True)  # an earlier walkthrough's updates must not be counted
    innerstep("train config.yaml --overwrite", stop_after=60)
    stopped = len(learning_rates())
    innerstep(f"resume {RUN}")
    print_rates_around(stopped)

    # Back to the checkpoint in the middle, and on to a later end: the rest of each curve is stretched.
    innerstep(f"resume {RUN}/checkpoints/step_00000100 --train.total_steps=300 --resume.on_change=rescale")
    print_rates_around(100)

    # The trained backbone in another run, frozen; the other two components start from random weights.
    backbone = "--model.components.vision_backbone"
    innerstep(
        f"train config.yaml --overwrite --train.run_dir=runs/frozen --train.total_steps=50"
        f" {backbone}.init_from={RUN}:vision_backbone {backbone}.freeze=true"
    )


if __name__ == "__main__":
    main()
