"""Makes checkpoint_VERSION/, a run stopped half way, which every later version must be able to go on with.

Run it with the version whose checkpoint it is to be: python tests/golden/make_checkpoint.py

checkpoint_v1 is of the first version of the format, before objectives and data sets had state: with the data `noise`
and the objective `regression`. The format has kept its number since, because an older innerstep reads the newer files
too; so later runs are named by the version of innerstep that wrote them. The objective and the data set have state of
each kind here. What they count in evaluations enters no metric: how often a later version evaluates must not matter.
"""

import json
import shutil
import sys
from pathlib import Path

GOLDEN = Path(__file__).parent
sys.path.insert(0, str(GOLDEN.parent))

from rich.console import Console  # noqa: E402  # the tests' own parts are found now

from trainer import resume, train  # noqa: E402
from trainer.reporting.metrics_file import TIMED  # noqa: E402
from trainer.runtime.version import innerstep_version  # noqa: E402

NAME = f"checkpoint_{innerstep_version().replace('.', '_')}"
RUN = GOLDEN / NAME
CURVE = {"peak_lr": 1e-2, "start_lr": 1e-4, "warmup_steps": 3}
PLATEAU = {"type": "plateau", "patience": 0, "threshold": 0.5, "factor": 0.5}
CONFIG = {
    "plugins": ["sample_parts"],
    "data": {"type": "served", "batch_size": 8},
    "model": {
        "components": {
            "warm": {"type": "normed", "params": {"dropout": 0.3}},
            "free": {"type": "normed"},
            "falling": {"type": "partly_frozen"},
            "frozen": {"type": "normed", "freeze": True},
        },
        "component_optims": {
            "warm": {"type": "adamw_warmup_cosine_decay", "params": CURVE},
            "free": {"type": "schedule_free_radam", "params": {"lr": 0.1, "silent_sgd_phase": False}},
            "falling": {"type": "sgd", "params": {"lr": 1e-2, "momentum": 0.9, "schedule": PLATEAU}},
        },
    },
    "train": {
        "objective": {"type": "remembering"},
        "total_steps": 12,
        "log_every": 1,
        "eval_every": 2,
        "save_every": 7,
        "keep_best": {},
        "precision": "fp16",
        "accumulate": 2,
        "device": "cpu",
        "run_dir": str(RUN),
    },
}


def main() -> None:
    """Train to the middle and to the end, keep the middle, and write down what the end was."""
    shutil.rmtree(RUN, ignore_errors=True)
    train(CONFIG, console=Console(quiet=True))
    checkpoints = RUN / "checkpoints"
    metrics = [json.loads(line) for line in (RUN / "metrics.jsonl").read_text().splitlines()]
    ended = {name: value for name, value in metrics[-1].items() if name not in TIMED}
    (GOLDEN / f"{NAME}_end.json").write_text(json.dumps(ended, indent=1) + "\n")
    resume(checkpoints / "step_00000007", {"train.total_steps": 12}, console=Console(quiet=True))
    for folder in checkpoints.glob("step_*"):
        if folder.name != "step_00000007":
            shutil.rmtree(folder)
    (checkpoints / "latest").write_text("step_00000007\n")
    (checkpoints / "best").unlink(missing_ok=True)
    (RUN / ".lock").unlink()
    config = (RUN / "config.yaml").read_text().replace(str(RUN), f"runs/{RUN.name}")
    (RUN / "config.yaml").write_text(config)


if __name__ == "__main__":
    main()
