"""A run of two processes makes the updates of one process, but for rounding: weights, gradient norms and lrs."""

import pytest
import torch
import yaml
from conftest import DIGITS
from sample_runs import PLATEAU, config
from sample_worlds import trained

LAYER = {"type": "mlp", "params": {"in_features": 4, "out_features": 4, "hidden": [5]}}
OPTIMS = {
    "warmup": {
        "type": "adamw_warmup_cosine_decay",
        "params": {"peak_lr": 1e-2, "start_lr": 1e-4, "end_lr": 1e-4, "warmup_steps": 3, "weight_decay": 0.1},
    },
    "onecycle": {"type": "adamw_cosine_schedule", "params": {"max_lr": 1e-2}},
    "schedule_free": {"type": "schedule_free_radam", "params": {"lr": 1e-2, "silent_sgd_phase": False}},
    "plateau": PLATEAU,
    "rules": {
        "type": "adamw",
        "params": {"lr": 1e-2, "no_decay": ["*.bias"], "param_groups": [{"match": "*.0.*", "lr_multiplier": 0.1}]},
    },
}
"""One component each, in a chain."""
SHORT = {"params": {"samples": 37}, "batch_size": 8}
CASES = {
    "plain": {"data": {"params": {"samples": 40}, "batch_size": 8}},
    "clips": {"data": SHORT, "optims": {"grad_clip_norm": 0.02}},
    "joint_clip": {"data": SHORT, "grad_clip_norm": 0.05},
    "accumulation": {"data": SHORT, "accumulate": 3, "grad_clip_norm": 0.05},
    "short_last_batch": {"data": SHORT},
    "last_batch_of_one": {"data": {"params": {"samples": 33}, "batch_size": 8}},
}
SHARD = {"placement": "shard"}
PLACEMENTS = {
    "replicate": {},
    "shard": {name: {**SHARD, "shard_units": ["layers.0", "layers.2"]} for name in ("first", *OPTIMS, "last")},
    "mixed": {"warmup": SHARD, "schedule_free": {**SHARD, "shard_units": ["layers.*"]}, "last": SHARD},
}
"""The components that are sharded, by how."""


def made(run_dir, case, placement):
    changed = {"eval_every": 3, **CASES[case]}
    options = changed.pop("optims", {})
    frozen = {name: {"freeze": True} for name in ("first", "last")}
    components = {
        name: {**LAYER, **frozen.get(name, {}), **PLACEMENTS[placement].get(name, {})}
        for name in ("first", *OPTIMS, "last")
    }
    optims = {name: {**optim, "params": {**optim["params"], **options}} for name, optim in OPTIMS.items()}
    return config(run_dir, components, optims, **changed)


def values(lines, start):
    """Return the values of the training lines whose names begin so."""
    return [
        {key: value for key, value in line.items() if key.startswith(start)}
        for line in lines
        if line["split"] == "train"
    ]


def furthest(first, second):
    """Return the name at which two dicts of tensors or numbers are furthest apart, and how far."""
    assert first.keys() == second.keys()
    apart = {key: float(torch.as_tensor(first[key] - second[key]).abs().max()) for key in first}
    return max(apart.items(), key=lambda item: item[1])


def assert_equal(ones, alone):
    weights, lines, _ = alone
    for rank, (own, written, _) in enumerate(ones):
        assert furthest(own, weights)[1] <= 1e-11, rank
        assert values(written, "lr/") == values(lines, "lr/")
        assert len(written) == len(lines)
        for norms, expected in zip(values(written, "grad_norm/"), values(lines, "grad_norm/"), strict=True):
            assert len(norms) == len(OPTIMS)
            assert furthest(norms, expected)[1] <= 1e-12


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one(tmp_path, two_workers, case, placement):
    alone = trained(made(tmp_path / "one", case, "replicate"))
    assert_equal(two_workers.call(trained, made(tmp_path / "two", case, placement)), alone)


def test_buckets_that_are_sent_during_the_backward_pass_change_nothing(tmp_path, two_workers):
    small = {"ONE_MESSAGE_BYTES": 0, "BUCKET_BYTES": 200}
    alone = trained(made(tmp_path / "one", "joint_clip", "replicate"))
    assert_equal(two_workers.call(trained, made(tmp_path / "two", "joint_clip", "replicate"), small), alone)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_cautious_steps_of_two_processes_are_those_of_one(tmp_path, two_workers, placement):
    cautious = {"use_cautious_optimizer": True}
    runs = [made(tmp_path / name, "joint_clip", where) for name, where in (("one", "replicate"), ("two", placement))]
    for run in runs:
        for name in OPTIMS.keys() - {"schedule_free"}:  # which cannot be made cautious
            run["model"]["component_optims"][name]["params"] |= cautious
    assert_equal(two_workers.call(trained, runs[1]), trained(runs[0]))


@pytest.mark.parametrize("placement", ["replicate", "shard"])
def test_a_cautious_encoder_moves_alike_in_its_first_update(tmp_path, two_workers, placement):
    """Its attention has a bias without a gradient but for rounding: later updates would come apart."""
    runs = []
    for name, where in (("one", "replicate"), ("two", placement)):
        run = yaml.safe_load(DIGITS.read_text())
        run |= {"plugins": ["sample_rank_objectives"], "data": {"type": "wide_digits", "batch_size": 128}}
        run["train"] |= {"run_dir": str(tmp_path / name), "total_steps": 1, "pictures": False, "device": "cpu"}
        run["model"]["components"]["encoder"] |= {"placement": where}
        run["model"]["components"]["encoder"]["params"]["dropout"] = 0.0
        run["model"]["component_optims"]["encoder"]["params"] |= {
            "warmup_steps": 0,
            "peak_lr": 1e-4,
            "use_cautious_optimizer": True,
        }
        runs.append(run)
    alone, *_ = trained(runs[0])
    for weights, *_ in two_workers.call(trained, runs[1]):
        assert furthest(weights, alone)[1] <= 1e-6
