"""Runs, components and configs pushed to a hub, and read back from it."""

import pytest
import torch
from conftest import needs
from sample_hub import LIBRARY_WARNS, _hub, checkpoint_files, small, trained  # noqa: F401  # a fixture

import trainer

pytestmark = [needs("huggingface_hub"), LIBRARY_WARNS]
NAME = "someone/two-parts"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("hub"))


def test_a_pushed_run_is_loaded_bit_for_bit(hub, run):
    reference = trainer.push_to_hub(run, NAME)
    loaded, local = trainer.load_run(f"hf://{NAME}"), trainer.load_run(run)
    assert reference == f"hf://{NAME}@{hub.repositories['models', NAME].branches['main']}"
    assert loaded.step == local.step == 4
    ours, theirs = local.components.state_dict(), loaded.components.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert checkpoint_files(loaded.config.train.run_dir) == checkpoint_files(run)


def test_a_push_is_one_commit(hub, run):
    trainer.push_to_hub(run, NAME)
    assert len(hub.repositories["models", NAME].commits) == 2  # the first is that of the empty repository
