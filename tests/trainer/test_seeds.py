"""The seeds of random numbers."""

import random

import numpy as np
import pytest
import torch

from trainer.runtime.rng import seed_all, separate_rng


def drawn():
    return random.random(), float(np.random.rand()), torch.rand(3).tolist()


@pytest.mark.parametrize("seed", [0, 2**63 + 5])
def test_seeding_the_device_in_use_alone_draws_the_same_numbers(seed):
    with separate_rng(0):
        seed_all(seed)
        expected = drawn()
        seed_all(seed, torch.device("cpu"))
        assert drawn() == expected


def test_seeding_the_device_in_use_leaves_the_others_out(monkeypatch):
    with separate_rng(0):
        seeded = []
        for other in ("xpu", "mtia", "cuda"):
            monkeypatch.setattr(f"torch.{other}.manual_seed_all", seeded.append)
        seed_all(1, torch.device("cpu"))
        assert seeded == []
        seed_all(1, torch.device("cuda"))
        assert seeded == [1]
