"""A check for authors of custom classes: a resumed run is the uninterrupted one."""

import json
import tempfile
from collections.abc import Collection, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path

from rich.console import Console

from optimizer.config import counted

from .checkpoint.manager import CheckpointManager
from .checkpoint.names import folder_name
from .checkpoint.tools.diff import differences
from .config.load import load_config
from .config.schema import ExperimentConfig
from .errors import ConfigError
from .interfaces.metrics_sink import MetricsLine
from .offline_trainer import OfflineTrainer
from .reporting.metrics_file import TIMED
from .run_layout import CHECKPOINTS, METRICS
from .runtime.rng import seed_all, separate_rng
from .runtime.signals import StoppedBySignal

UPDATES = 6
"""Default number of updates of each half. A shorter run has fewer."""

SHOWN = 20
"""Metrics in the message at most."""

_ADVICE = (
    "Values that an objective or a data set changes in training belong into its state_dict, those that a component"
    " changes into parameters and persistent buffers; random numbers must come from torch, numpy or python's random, or"
    " from a generator whose state is saved (docs/extending.md)."
)


def check_resumes(
    config: ExperimentConfig | Mapping[str, object] | str | Path,
    updates: int | None = None,
    directory: str | Path | None = None,
) -> None:
    """Train twice `updates` in one run, resume it after `updates` with all objects made again, and compare the two.

    If the first half ends with an epoch, the second is also resumed one update earlier, so that one resume is in the
    middle of an epoch. Everything else is as in the config: the run has its length, and is only stopped.

    Args:
        config: As for `train`. Its run_dir is not touched; it evaluates at least twice in each half.
        updates: Length of a half; left out, 6, or half of the run if that is less.
        directory: An empty folder for the two runs, which stay there; left out, a temporary one.

    Raises:
        AssertionError: The runs differ. The message lists metrics by split, step and name; components' tensors;
            optimizers' entries; the state of the objective and the data set; random numbers.
        ConfigError: The config does not work, or is shorter than twice `updates`.
    """
    loaded = config if isinstance(config, ExperimentConfig) else load_config(config)
    with (
        separate_rng(loaded.seed),
        tempfile.TemporaryDirectory() if directory is None else nullcontext(str(directory)) as folder,
    ):
        problems = _differences(loaded, updates, Path(folder))
    if problems:
        raise AssertionError("\n".join([*problems, _ADVICE]))


class _HalfRunTrainer(OfflineTrainer):
    """A trainer that saves after given updates only, and stops at the last of them."""

    def __init__(self, config: ExperimentConfig, resumed: bool) -> None:
        super().__init__(config, Console(quiet=True), resumed)
        self.checkpoints: _ChosenSaves = _ChosenSaves(config.train, self.log)

    def save(self, is_last: bool = False) -> None:
        super().save(is_last)
        if self.step == max(self.checkpoints.after):
            raise StoppedBySignal("the check is done with this run")

    def train_to_last_save(self) -> Path:
        """Train, and return the folder with the checkpoints."""
        self.config.train.run_dir.mkdir(parents=True)
        with suppress(StoppedBySignal):
            self.run()
        return self.config.train.run_dir / CHECKPOINTS


class _ChosenSaves(CheckpointManager):
    after: Collection[int] = ()

    def due(self, step: int) -> bool:
        return step in self.after


def _differences(config: ExperimentConfig, updates: int | None, folder: Path) -> list[str]:
    """Return the differences between the runs, as lines."""
    whole = _HalfRunTrainer(_check_config(config, folder / "uninterrupted", updates), resumed=False)
    total, per_epoch = whole.horizon.total_steps, whole.batches.steps_per_epoch
    half = min(UPDATES, total // 2) if updates is None else updates
    if not 1 <= half <= total // 2:
        raise ConfigError(f"updates: must be from 1 to {total // 2}, half of the updates of the run; got {half}")
    points = [half, half - 1] if half % per_epoch == 0 and per_epoch > 1 and half > 1 else [half]
    whole.checkpoints.after = [*points, 2 * half]
    checkpoints = whole.train_to_last_save()
    problems = []
    for point in points:
        resumed = _HalfRunTrainer(_check_config(config, folder / f"resumed_after_{point}", updates), resumed=True)
        resumed.checkpoints.after = [2 * half]
        seed_all(config.seed + 1)  # a state that is not restored differs for sure
        resumed.restore(checkpoints / folder_name(point))
        again = resumed.train_to_last_save()
        found = _metric_differences(checkpoints.parent / METRICS, again.parent / METRICS, point)
        last = folder_name(2 * half)
        identical, report = differences(checkpoints / last, again / last, show_all=True)
        if found or not identical:
            problems.append(f"resumed after {counted(point, 'update')} (A: the uninterrupted run, B: the resumed one):")
            problems += [*found, *([] if identical else [report])]
    return problems


def _check_config(config: ExperimentConfig, run_dir: Path, updates: int | None) -> ExperimentConfig:
    """Return `config` for a run in `run_dir` that logs every update, and writes only the files that are compared."""
    quarter = max(1, (updates or min(UPDATES, (config.train.total_steps or UPDATES) // 2)) // 2)
    changed = {
        "run_dir": run_dir,
        "log": ["jsonl"],
        "log_every": 1,
        "eval_every": min(config.train.eval_every or quarter, quarter),
        "save_every": None,
        "save_every_minutes": None,
        "save_async": False,
        "keep_last": None,
        "keep_best": None,
        "early_stopping": None,
        "on_save_error": "stop",
        "pictures": False,
    }
    train = config.train.model_copy(update=changed)
    return config.model_copy(update={"train": train, "resume": type(config.resume)()})


def _metric_differences(whole: Path, resumed: Path, point: int) -> list[str]:
    """Return a line for each metric after `point` updates that differs between the two runs."""
    before, after = (_lines_by_step(path) for path in (whole, resumed))
    between = ("held_out", point)  # it may come before or after the checkpoint of the same moment
    if not (between in before and between in after):
        before.pop(between, None)
        after.pop(between, None)
    before = {key: line for key, line in before.items() if key[1] >= point}
    lines = [f"  metrics: {split}, step {step}: only in one run" for split, step in before.keys() ^ after.keys()]
    for split, step in sorted(before.keys() & after.keys(), key=lambda key: key[1]):
        one, other = before[split, step], after[split, step]
        names = [name for name in {**one, **other} if repr(one.get(name)) != repr(other.get(name))]
        lines += [f"  metrics: {split}, step {step}: {name}: {one.get(name)}, {other.get(name)}" for name in names]
    return lines if len(lines) <= SHOWN else [*lines[:SHOWN], f"  … and {len(lines) - SHOWN} more metrics"]


def _lines_by_step(path: Path) -> dict[tuple[str, int], MetricsLine]:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        for name in TIMED:
            line.pop(name, None)
    return {(line["split"], line["step"]): line for line in lines}
