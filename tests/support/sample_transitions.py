"""Small sets of transitions: an .npz file, and configs of the objectives that learn from it."""

import numpy as np

from trainer.config.entries import DataConfig

LENGTHS = [4, 6, 5, 5]
"""Steps by episode. The first one ends for good, the others are cut."""


def arrays(lengths=LENGTHS, seed=0, state=3, action=2):
    """Return the arrays of a file: obs, action, reward, next_obs, terminal, timeout."""
    random = np.random.default_rng(seed)
    total, last = sum(lengths), np.cumsum(lengths) - 1
    terminal, timeout = np.zeros(total, np.float32), np.zeros(total, np.float32)
    terminal[last[0]], timeout[last[1:]] = 1, 1
    return {
        "obs": random.normal(size=(total, state)).astype(np.float32) * [1, 10, 0.1][:state] + np.float32(2),
        "action": random.uniform(-1, 3, size=(total, action)).astype(np.float32),
        "reward": random.normal(size=total).astype(np.float32),
        "next_obs": random.normal(size=(total, state)).astype(np.float32),
        "terminal": terminal,
        "timeout": timeout,
    }


def write(path, **changed):
    """Write a file of `arrays`, with other arrays in their place; None leaves one out. Return its path as text."""
    whole = {name: values for name, values in {**arrays(), **changed}.items() if values is not None}
    np.savez(path, **whole)
    return str(path)


def opened(**params):
    """Return the data set `transitions` with these parameters."""
    return DataConfig(type="transitions", params=params).make("data")


def network(inputs, outputs, **params):
    """Return the entry of a small network."""
    sizes = {"in_features": inputs, "out_features": outputs, "hidden": [8], "activation": "relu"}
    return {"type": "mlp", "params": {**sizes, **params}}


CRITICS = {name: network(5, 1) for name in ("critic_1", "critic_2")}
TARGETS = {f"target_{name}": {"ema_of": name, "tau": 0.25} for name in CRITICS}
COMPONENTS = {
    "iql": {"actor": network(3, 2, tanh=True), "value": network(3, 1), **CRITICS, **TARGETS},
    "td3_bc": {
        "actor": network(3, 2, tanh=True),
        **CRITICS,
        "target_actor": {"ema_of": "actor", "tau": 0.5},
        **TARGETS,
    },
}
SGD = {"type": "sgd", "params": {"lr": 0.05}}


def rl_config(run_dir, path, objective, *, params=None, components=None, optims=None, data=None, **train):
    """Return the config of a short run of `iql` or `td3_bc` on a file of `arrays`."""
    components = COMPONENTS[objective] if components is None else components
    optims = {name: SGD for name, entry in components.items() if "ema_of" not in entry} | (optims or {})
    return {
        "data": {"type": "transitions", "params": {"path": path}, "batch_size": sum(LENGTHS), **(data or {})},
        "model": {"components": components, "component_optims": optims},
        "train": {
            "objective": {"type": objective, "params": params or {}},
            "total_steps": 6,
            "log_every": 1,
            "run_dir": str(run_dir),
            "device": "cpu",
            **train,
        },
    }


def trainer_of(config):
    """Return the OfflineTrainer of a config, which prints nothing."""
    from rich.console import Console

    from trainer.config.load import load_config
    from trainer.offline_trainer import OfflineTrainer

    trainer = OfflineTrainer(load_config(config), Console(quiet=True))
    trainer.config.train.run_dir.mkdir(parents=True)
    return trainer


def by_hand(path):
    """Return the transitions of a file as the objectives see them, normalized by plain formulas: s, a, r, s', end."""
    import torch

    whole = {name: torch.from_numpy(values).float() for name, values in np.load(path).items()}
    obs, action = whole["obs"], whole["action"]
    mean, std = obs.mean(0), obs.std(0, correction=0) + 1e-3
    low, high = action.amin(0), action.amax(0)
    following = (whole["next_obs"] - mean) / std
    return (obs - mean) / std, 2 * (action - low) / (high - low) - 1, whole["reward"], following, whole["terminal"]
