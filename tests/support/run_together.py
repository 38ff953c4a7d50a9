"""Runs of several processes that train in the workers of `processes.Workers`."""

import copy
import os
import signal

from torch import distributed
from worlds import trainer_of

from trainer import offline_trainer
from trainer.runtime.signals import StoppedBySignal

UPDATES = 12
MLP = {"type": "mlp", "params": {"in_features": 4, "out_features": 4, "hidden": [5]}}
PLATEAU = {"type": "plateau", "patience": 0, "threshold": 0.5, "factor": 0.5}
OPTIMS = {
    "first": {"type": "adamw", "params": {"lr": 1e-2, "schedule": PLATEAU}},
    "second": {"type": "schedule_free_radam", "params": {"lr": 0.1, "silent_sgd_phase": False}},
}


def config(run_dir, **changed):
    """Return the config of a run of twelve updates, evaluated at every second one and saved at every fourth."""
    often = {"eval_every": 2, "save_every": 4, "keep_best": {}, "log_every": 1}
    return {
        "plugins": ["sample_parts"],
        "data": {"type": "noise", "batch_size": 8, **changed.pop("data", {})},
        "model": copy.deepcopy(
            {"components": dict.fromkeys(OPTIMS, MLP), "component_optims": OPTIMS}
        ),  # tests change it
        "train": {
            "objective": {"type": "regression"},
            "total_steps": UPDATES,
            "run_dir": str(run_dir),
            "device": "cpu",
            **often,
            **changed,
        },
    }


def trained(made, folder=None):
    """Train a run in this process; return its updates, and the message if a signal has stopped it."""
    trainer = trainer_of(made, folder)
    try:
        trainer.run()
    except StoppedBySignal as stop:
        return trainer.step, str(stop)
    return trainer.step, None


def replaced(owner, name, value):
    """Give an attribute another value; return a function that undoes it."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    return lambda: setattr(owner, name, before)


def interrupt():
    """Let this process get two signals: of several processes, the second one is a copy of the first."""
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGTERM)


def after_updates(moments):
    """Let processes get a signal after updates, by rank."""
    updates, own = offline_trainer.training_loop, dict(moments).get(distributed.get_rank())

    def interrupted(*given):
        for report in updates(*given):
            if report.step + 1 == own:
                interrupt()
            yield report

    return replaced(offline_trainer, "training_loop", interrupted)
