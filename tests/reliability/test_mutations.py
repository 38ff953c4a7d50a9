"""Any mistake in a checkpoint's files is reported clearly or loaded, and nothing else happens.

INNERSTEP_MUTATIONS is how many mistakes there are.
"""

import hashlib
import io
import json
import os
import random

import faults
import mutations
import pytest
import torch
from rich.console import Console

from optimizer import named_state
from trainer import ConfigError, load_config, train
from trainer.checkpoint.directory import verify
from trainer.offline_trainer import OfflineTrainer
from trainer.runs import _with_saved_values
from trainer.runtime.files import DamagedCheckpointError
from trainer.runtime.rng import rng_state

MUTATIONS = int(os.environ.get("INNERSTEP_MUTATIONS", "1000"))
BLOCKS = 10
QUIET = Console(file=io.StringIO())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = tmp_path_factory.mktemp("mutations") / "run"
    train(faults.config(run, total_steps=4, precision="fp16", eval_every=1), console=QUIET)
    return run


def new_trainer(run):
    return OfflineTrainer(load_config(run / "config.yaml"), QUIET, resumed=True)


def fingerprint(trainer):
    """Return a checksum of all that a checkpoint restores."""
    digest = hashlib.sha256()
    states = [named_state(optimizer) for optimizer in trainer.optimizers.values()]
    tensors = [trainer.components.state_dict(), *(state.tensors for state in states), rng_state()[0]]
    for named in tensors:
        for name, tensor in sorted(named.items()):
            digest.update(name.encode() + str((tensor.dtype, tensor.shape)).encode() + tensor.numpy().tobytes())
    plain = [[state.values for state in states], rng_state()[1], trainer.updater.state_dict()]
    digest.update(json.dumps([plain, trainer.checkpoints.best.record, trainer.step], sort_keys=True).encode())
    return digest.hexdigest()


def scramble(trainer):
    """Leave nothing as it was, so that what is not restored is seen."""
    with torch.no_grad():
        for tensor in trainer.components.state_dict().values():
            tensor.fill_(7)
    for optimizer in trainer.optimizers.values():
        optimizer.state.clear()
    torch.manual_seed(99)
    random.seed(99)
    trainer.step, trainer.checkpoints.best.record = 0, {}


def restored(trainer, folder):
    """Return the fingerprint after a restore, or None if the checkpoint is refused."""
    scramble(trainer)
    try:
        verify(folder)
        trainer.restore(folder)
    except (ConfigError, DamagedCheckpointError) as error:
        str(error).encode()  # it can be printed
        return None
    return fingerprint(trainer)


@pytest.mark.parametrize("sealed", [False, True], ids=["as it is", "with its checksums made right"])
@pytest.mark.parametrize("block", [0, *(pytest.param(block, marks=pytest.mark.slow) for block in range(1, BLOCKS))])
@pytest.mark.filterwarnings("ignore")
def test_a_mistake_in_any_file_is_refused_or_harmless(run, block, sealed):
    folder = run / "checkpoints" / "step_00000004"
    paths = [path for path in sorted(folder.rglob("*.*")) if path.name != "rng.safetensors"]
    contents = {path: path.read_bytes() for path in [*paths, folder / "rng.safetensors"]}
    trainer = new_trainer(run)
    expected = restored(trainer, folder)
    assert expected is not None
    refused = 0
    for number in range(MUTATIONS // BLOCKS // 2):
        chance = random.Random(f"{block} {number} {sealed}")
        path = chance.choice(list(contents))
        path.write_bytes(mutations.mutated(path, contents[path], chance))
        if sealed:
            mutations.seal(folder)
            trainer = new_trainer(run)  # what a mistake leaves of one is not to be used
        try:
            found = restored(trainer, folder)
            kept_or_refused(trainer, folder)
        except Exception as error:
            raise AssertionError(f"{path}, {number}: {path.read_bytes()[:600]!r}") from error
        finally:
            for each, content in contents.items():
                each.write_bytes(content)
        assert found in (None, expected) or sealed, f"{path}, {number}: another state was loaded"
        refused += found is None
    assert refused > MUTATIONS // BLOCKS // 2 * (0.4 if sealed else 0.8)


def kept_or_refused(trainer, folder):
    """Take the optimizers of the checkpoint's config, as resume.on_change=keep does."""
    try:
        _with_saved_values(trainer.config, folder)
    except ConfigError as error:
        str(error).encode()
