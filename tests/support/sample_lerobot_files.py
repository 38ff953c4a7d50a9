"""Optimizer and scheduler files as LeRobot writes them."""

import json

from safetensors.torch import save_file


def lerobots_files(optimizer, scheduler, folder):
    """Write what LeRobot's save_optimizer_state and save_scheduler_state write (lerobot/optim)."""
    state = optimizer.state_dict()
    flat = {
        f"state/{position}/{entry}": t for position, entries in state["state"].items() for entry, t in entries.items()
    }
    save_file(flat, folder / "optimizer_state.safetensors")
    (folder / "optimizer_param_groups.json").write_text(json.dumps(state["param_groups"]))
    plain = {key: value for key, value in scheduler.state_dict().items() if key != "lr_lambdas"}
    (folder / "scheduler_state.json").write_text(json.dumps(plain))
