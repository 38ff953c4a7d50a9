"""How long a run takes to its first update, and a plan as a whole, beside `import torch`. Medians of processes.

The run is that of configs/digits.yaml. Its process ends when the first update is done, as that of `import torch` ends
when the import is done. The bytecode is compiled beforehand, as that of an installed package is.
"""

import statistics
import sys
import tempfile
from pathlib import Path

import yaml
from import_time import TORCH, rounds_of, table

DIGITS = Path(__file__).parents[1] / "configs" / "digits.yaml"
PLAN = "innerstep plan configs/digits.yaml"
UPDATE = "innerstep train configs/digits.yaml, to the first update"
_PLUGIN = '''
import os

from trainer.builtins.classification import Classification


class EndsAfterOneUpdate(Classification):
    """Ends the process."""

    def update(self, components, batch, learner, step=0):
        super().update(components, batch, learner, step)
        os._exit(0)
'''


def times(rounds: int = 5) -> dict[str, float]:
    """Return medians of interleaved rounds, in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        config = yaml.safe_load(DIGITS.read_text())
        config["train"]["objective"]["type"] = "ends_after_one_update.EndsAfterOneUpdate"
        config["train"]["run_dir"] = "run"
        path = Path(folder) / "first_update.yaml"
        path.write_text(yaml.safe_dump(config))
        (Path(folder) / "ends_after_one_update.py").write_text(_PLUGIN)
        innerstep = str(Path(sys.executable).with_name("innerstep"))
        commands = {
            TORCH: [sys.executable, "-c", "import os, torch; os._exit(0)"],
            PLAN: [innerstep, "plan", str(DIGITS)],
            UPDATE: [innerstep, "train", str(path), "--overwrite"],
        }
        measured = rounds_of(commands, rounds)
    return {name: statistics.median(values) for name, values in measured.items()}


if __name__ == "__main__":
    print(table(times()))
