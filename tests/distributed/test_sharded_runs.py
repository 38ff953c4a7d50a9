"""Runs with sharded components equal those of one process: averages, called methods, objectives, policies in parts."""

import pytest
import torch
from conftest import NO_TORCH_COMPILE
from sample_placements import notes_of_forward_passes, restored_averages, with_averages
from sample_policies import PARTS, policy_config
from sample_runs import ADAMW, config
from sample_worlds import trained

SHARD = {"placement": "shard"}
SAMPLER = {"type": "sampler", "params": {"width": 5}}
WIDE = {"params": {"width": 5}}
BY_LAYER = {**SHARD, "shard_units": ["layers.*"]}
SCHEDULE_FREE = {"type": "schedule_free_radam", "params": {"lr": 1e-2, "silent_sgd_phase": False}}


def made(run_dir, components, optims=ADAMW, data=WIDE, **changed):
    """Return the config of a run whose components all train by the same optimizer, but targets and frozen ones."""
    trained = [name for name, entry in components.items() if not ({"freeze", "ema_of"} & entry.keys())]
    result = config(run_dir, components, dict.fromkeys(trained, optims), data={"params": data["params"]}, **changed)
    result["plugins"] += ["sample_placements", "sample_averages"]
    return result


def assert_close(first, second, bound=1e-11):
    assert first.keys() == second.keys()
    for name, value in first.items():
        apart = float(torch.as_tensor(value - second[name]).abs().max())
        assert apart <= bound, f"{name} is {apart:g} apart"


def assert_trains_as_one(tmp_path, workers, make):
    """Compare a run of several processes with that of one. make: returns a config for a directory and a placement."""
    alone, _ = trained(make(tmp_path / "one", {}))
    for own, _ in workers.call(trained, make(tmp_path / "several", BY_LAYER)):
        assert_close(own, alone)


def test_a_method_that_the_class_names_trains_as_one(tmp_path, two_workers):
    def make(run_dir, placement):
        return made(run_dir, {"first": {**SAMPLER, **placement}, "second": SAMPLER}, objective="sampling")

    assert_trains_as_one(tmp_path, two_workers, make)


def test_an_objective_with_several_backward_passes_trains_as_one(tmp_path, two_workers):
    def make(run_dir, placement):
        actor = {"type": "mlp", "params": {"in_features": 5, "out_features": 5}}
        components = {"actor": actor, "critic": {**SAMPLER, **placement}}
        target = {**SAMPLER, **placement, "freeze": True}
        return made(run_dir, {**components, "target": target}, objective="actor_critic")

    assert_trains_as_one(tmp_path, two_workers, make)


@pytest.mark.parametrize("steps", [1, 3])
def test_targets_and_averages_of_shards_are_those_of_one_process(tmp_path, two_workers, steps):
    def make(run_dir, placement):
        components = {"target": {"ema_of": "critic", "tau": 0.125}, "critic": {**SAMPLER, **placement}}
        changed = {"eval_every": 4, "ema": {"decay": 0.9}}
        result = made(run_dir, components, objective="bootstrapped", **changed)
        result["train"]["objective"]["params"] = {"steps": steps}
        return result

    alone, metrics = with_averages(make(tmp_path / "one", {}))
    assert len(alone) == 2 * 6  # of a target and of train.ema
    for own, found in two_workers.call(with_averages, make(tmp_path / "two", BY_LAYER)):
        assert_close(own, alone)
        assert_close(found, metrics)


def test_averages_of_shards_are_restored_from_a_checkpoint(tmp_path, two_workers):
    components = {"target": {"ema_of": "critic", "tau": 0.125}, "critic": {**SAMPLER, **BY_LAYER}}
    config = made(tmp_path / "run", components, objective="bootstrapped", ema={"decay": 0.9})
    for before, after in two_workers.call(restored_averages, config):
        assert_close(after, before, bound=0.0)


@pytest.mark.slow
def test_four_processes_of_which_some_have_no_row_train_as_one(tmp_path, four_workers):
    def make(run_dir, placement):
        components = {
            "target": {"ema_of": "critic", "tau": 0.125},
            "critic": {"type": "sampler", "params": {"width": 5}, **placement},
            "frozen": {"type": "sampler", "params": {"width": 2}, "freeze": True, **placement},
        }
        return made(run_dir, components, objective="bootstrapped", ema={"decay": 0.9}, eval_every=4)

    alone, metrics = with_averages(make(tmp_path / "one", {}))
    for own, found in four_workers.call(with_averages, make(tmp_path / "four", BY_LAYER)):
        assert_close(own, alone)
        assert_close(found, metrics)


@pytest.mark.slow
@NO_TORCH_COMPILE
def test_compiled_units_train_as_one(tmp_path, two_workers):
    config = made(tmp_path / "two", {"first": {**SAMPLER, **BY_LAYER}}, compile=True)
    alone, _ = trained(made(tmp_path / "one", {"first": SAMPLER}))
    for own, _ in two_workers.call(trained, config, timeout=500.0):
        assert_close(own, alone)


def test_the_notes_of_frozen_forward_passes_are_bounded(tmp_path, two_workers):
    components = {"first": {**SAMPLER, "freeze": True, **BY_LAYER}, "second": SAMPLER}
    config = made(tmp_path / "run", components, data={"params": {"width": 5, "held_out": 0}})
    for first, most in two_workers.call(notes_of_forward_passes, config):
        assert 0 < most <= first


def test_an_optimizer_that_averages_weights_is_evaluated_at_them(tmp_path, two_workers):
    def make(run_dir, placement):
        components = {"first": {**SAMPLER, **placement}}
        return made(run_dir, components, SCHEDULE_FREE, eval_every=4)

    _, metrics = with_averages(make(tmp_path / "one", {}))
    for _, found in two_workers.call(with_averages, make(tmp_path / "two", BY_LAYER)):
        assert abs(found["loss"] - metrics["loss"]) <= 1e-11


BEFORE_BATCH_NORM = "backbone.0.bias"
"""Its gradient is zero in theory: Adam makes steps of rounding errors."""
POLICIES = {
    "a_part": ({}, {"backbone": SHARD}),
    "the_rest": (SHARD, {}),
    "the_rest_in_units": ({**SHARD, "shard_units": ["model.norm"]}, {}),
    "both": ({**SHARD, "shard_units": ["model.head"]}, {"backbone": {**SHARD, "shard_units": ["0"]}}),
}


@pytest.mark.parametrize("case", POLICIES)
def test_a_policy_in_parts_trains_as_one(tmp_path, two_workers, case):
    rest, parts = POLICIES[case]
    alone, _ = trained(split_policy(tmp_path / "one", {}, {}))
    for own, _ in two_workers.call(trained, split_policy(tmp_path / "two", rest, parts)):
        del own[BEFORE_BATCH_NORM]
        assert_close(own, {name: value for name, value in alone.items() if name in own})
        assert len(own) == len(alone) - 1


def split_policy(run_dir, rest, parts):
    entries = {"backbone": {"modules": "model.backbone", **parts.get("backbone", {})}, "vae": PARTS["vae"]}
    return policy_config(run_dir, {**rest, "parts": entries})
