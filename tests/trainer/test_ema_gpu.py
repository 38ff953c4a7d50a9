"""Moving averages on a CUDA device. Without one the tests are skipped with that reason."""

import io

import pytest
import sample_averages
import torch
from conftest import files_of, metrics_of
from rich.console import Console
from sample_runs import ADAMW, WARMUP, config, drop, ready, two

from trainer import load_run, resume, train
from trainer.config.averages import EmaConfig
from trainer.loop.averaged_weights import averaged_weights
from trainer.loop.weight_ema import decay_at

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; there is none here"),
]
QUIET = Console(file=io.StringIO())
EMA = {"decay": 0.9}
LAST = "checkpoints/step_00000012"


def averaged(run, **changed):
    components = {**two(), "slow": {"ema_of": "first", "tau": 0.1}}
    optims = {"first": {**ADAMW, "every": 2}, "second": WARMUP}
    return config(run, components, optims, **{"ema": EMA, "device": "cuda", "save_every": 5, "eval_every": 4} | changed)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_resumed_run_has_the_same_averages(tmp_path, precision):
    for run in ("whole", "parts"):
        train(averaged(tmp_path / run, precision=precision), console=QUIET)
    drop(tmp_path / "parts" / LAST)
    drop(tmp_path / "parts/checkpoints/step_00000010")
    resume(tmp_path / "parts", console=QUIET)
    whole, parts = (files_of(tmp_path / run / LAST) for run in ("whole", "parts"))
    assert whole == parts
    assert {"first/ema.safetensors", "slow/model.safetensors"} <= whole.keys()
    assert metrics_of(tmp_path / "whole") == metrics_of(tmp_path / "parts")
    assert next(load_run(tmp_path / "whole", device="cuda").components["first"].parameters()).is_cuda


def test_foreach_moves_as_a_slow_twin_and_an_exchange_copies_nothing(tmp_path):
    trainer = ready(averaged(tmp_path / "run"), QUIET)
    settings = EmaConfig(**EMA)
    twins = {
        name: sample_averages.SlowTwin(
            trainer.components[name], trainer.optimizers[name], lambda step: 1 - decay_at(settings, step)
        )
        for name in trainer.optimizers
    }
    slow = sample_averages.SlowTwin(trainer.components["first"], trainer.optimizers["first"], lambda _: 0.1)
    trainer.run()
    for name, twin in twins.items():
        assert twin.differing(trainer.averages.ema[name].tensors) == []
    assert slow.differing(dict(trainer.components["slow"].named_parameters())) == []
    before = {name: tensor.data_ptr() for name, tensor in trainer.components.state_dict().items()}
    memory = torch.cuda.memory_allocated()
    with averaged_weights(trainer.optimizers.values(), trainer.averages):
        assert torch.cuda.memory_allocated() == memory
        assert trainer.components["first"].linear.weight.data_ptr() not in before.values()
    assert {name: tensor.data_ptr() for name, tensor in trainer.components.state_dict().items()} == before


def test_training_is_the_same_with_averages_and_without(tmp_path):
    for run, ema in (("with", EMA), ("without", None)):
        train(averaged(tmp_path / run, ema=ema), console=QUIET)
    files = {run: files_of(tmp_path / run / LAST) for run in ("with", "without")}
    kept = [name for name in files["without"] if name not in ("manifest.json", "trainer.json")]
    assert all(files["with"][name] == files["without"][name] for name in kept)
