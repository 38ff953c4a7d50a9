"""The trainer's values in a checkpoint, and a run restored by them."""

from pathlib import Path
from typing import Any

from .checkpoint.contents import Progress, expected_content, load_rng, read_progress
from .checkpoint.fingerprint import config_changes
from .checkpoint.on_change import changes_table, refuse_changes
from .checkpoint.policy_weights import POLICY
from .checkpoint.provenance import STEPS, implementations, log_differences
from .checkpoint.restore import restore_averages, restore_components
from .checkpoint.upgrades import upgrade_values
from .errors import ConfigError
from .loop.averaged_weights import train_at_training_weights
from .run import Run
from .run_layout import TRAINER
from .splitting.parts import prefixes


def saved_values(run: Run) -> dict[str, Any]:
    """Return the values of a run in a checkpoint beside weights and optimizers. They are plain."""
    names = [name for name in run.config.model.entries if name not in run.config.model.components]
    policy = prefixes({name: run.components[name] for name in names})
    return {
        "data": _data_position(run),
        "horizon": {"total_steps": run.horizon.total_steps, "steps_per_epoch": run.horizon.steps_per_epoch},
        "components": {name: "trains" if name in run.optimizers else "frozen" for name in run.components},
        **({POLICY: policy} if policy else {}),
        "config": run.fingerprint,
        "scaler": run.updater.state_dict(),
        "skipped": run.updater.skipped,
        "evaluated": not run.evaluation_is_due,
        "best": run.checkpoints.best.record,
        **({"train_means": run.train_means.sums} if run.train_means.sums else {}),
        **({"early_stopping": run.early_stopping.record} if run.early_stopping.record else {}),
        "provenance": {**run.provenance, STEPS: implementations(run.optimizers)},
    }


def restore_run(run: Run, folder: Path) -> None:
    """Let `run` continue from the checkpoint in `folder`.

    Raises:
        ConfigError: The config differs from the checkpoint's, and resume.on_change does not name the way; or the
            checkpoint does not fit the run.
    """
    on_change = run.config.resume.on_change
    try:
        progress = read_progress(folder)
        if progress.step > run.horizon.total_steps:
            rule = f"must be >= {progress.step}, the updates done; got {run.horizon.total_steps}"
            raise ConfigError(f"train.total_steps: {rule}")
        now = {"data": _data_position(run), "config": run.fingerprint}
        with expected_content(folder / TRAINER):
            rows = config_changes(upgrade_values(progress.values, run.config), now)
        if on_change not in ("override", "rescale"):
            refuse_changes(rows, on_change, progress.values, run.config)
        else:
            differences = changes_table(rows) or "  nothing"
            run.log(f"resume.on_change={on_change}; what differs from the checkpoint:\n{differences}")
        restore_components(folder, run.components, run.optimizers, run.updater.rules.turns, rows, on_change, run.log)
        restore_averages(folder, run.components, run.averages, on_change, run.log)
        with expected_content(folder):
            train_at_training_weights(run.optimizers.values())
        run.own_state.restore(folder, progress, [row[0] for row in rows], on_change, run.world.device)
        log_differences(progress.values["provenance"], run.provenance, run.data, run.config.seed, run.log)
        _restore_values(run, folder, progress)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    run.step = progress.step
    run.checkpoints.continue_from(run.step)


def _restore_values(run: Run, folder: Path, progress: Progress) -> None:
    with expected_content(folder / TRAINER):
        run.updater.load_state_dict(progress.values["scaler"])
        run.updater.skipped = {str(name): int(count) for name, count in progress.values.get("skipped", {}).items()}
        run.evaluation_is_due = progress.values.get("evaluated", True) is False
        run.checkpoints.best.restore(progress.values["best"], progress.step)
        run.train_means.restore(progress.values.get("train_means", {}))
        run.early_stopping.restore(progress.values.get("early_stopping", {}))
        load_rng(folder)


def _data_position(run: Run) -> dict[str, int]:
    return {
        "samples": len(run.data.train),
        "steps_per_epoch": run.batches.steps_per_epoch,
        "epoch": run.step // run.batches.steps_per_epoch,
        "batch": run.step % run.batches.steps_per_epoch,
    }
