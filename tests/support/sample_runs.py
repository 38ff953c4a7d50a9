"""Configs of the short runs that many tests train."""

import copy

from conftest import files_of

from trainer import load_config
from trainer.offline_trainer import OfflineTrainer
from trainer.runtime.signals import StoppedBySignal


class KilledError(StoppedBySignal):
    """In place of a SIGKILL: a run does nothing more, and saves nothing."""


ADAMW = {"type": "adamw", "params": {"lr": 1e-2}}
SCHEDULE_FREE = {"type": "schedule_free_radam", "params": {"lr": 0.1, "silent_sgd_phase": False}}
WARMUP = {"type": "adamw_warmup_cosine_decay", "params": {"peak_lr": 1e-2, "start_lr": 1e-4, "warmup_steps": 3}}
PLATEAU = {
    "type": "adamw",
    "params": {"lr": 1e-2, "schedule": {"type": "plateau", "patience": 0, "threshold": 0.5, "factor": 0.5}},
}
MLPS = {
    name: {"type": "mlp", "params": {"in_features": 4, "out_features": 4, "hidden": [5]}}
    for name in ("first", "second")
}


def config(run_dir, components, optims, *, objective="regression", **changed):
    """Return the config of a run of twelve updates on the CPU."""
    steps = {"total_steps": 12, "log_every": 1, "run_dir": str(run_dir), "device": "cpu"}
    return {
        "plugins": ["sample_parts"],
        "data": {"type": "noise", "batch_size": 8, **changed.pop("data", {})},
        "model": copy.deepcopy({"components": components, "component_optims": optims}),  # tests change what they get
        "train": {"objective": {"type": objective}, **steps, **changed},
    }


def two(**changed):
    """Return two components with BatchNorm, the first with dropout and the fields in `changed`."""
    return {"first": {"type": "normed", "params": {"dropout": 0.3}, **changed}, "second": {"type": "normed"}}


def ready(made, console):
    """Return the trainer of a new run, whose directory is there."""
    trainer = OfflineTrainer(load_config(made), console)
    trainer.config.train.run_dir.mkdir()
    return trainer


def drop(folder):
    """Remove a checkpoint."""
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    folder.rmdir()


def weights(run):
    """Return the weights files of a run's newest checkpoint by component."""
    newest = run / "checkpoints" / (run / "checkpoints" / "latest").read_text().strip()
    return {name: content for name, content in files_of(newest).items() if name.endswith("model.safetensors")}


def faulty(run, way="nan_loss", at=(6,), where="loss", optims=None, **changed):
    optims = optims or {"first": ADAMW, "second": WARMUP}
    made = config(run, MLPS, optims, **{"objective": "faulty", "save_every": 4, **changed})
    made["plugins"].append("sample_faulty_parts")
    made["train"]["objective"]["params"] = {"way": way, "at": list(at), "where": where}
    return made
