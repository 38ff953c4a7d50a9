"""Small sets of transitions: an .npz file, and configs of the objectives that learn from it."""

import numpy as np

from trainer.config.schema import DataConfig

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
