"""Components that are sharded over two processes: the part of each process, and the settings that are refused."""

import pytest
from sample_placements import bytes_after_forward_passes, called_by_one, placed, refused
from sample_runs import ADAMW, config

from trainer import ConfigError, load_config

SHARD = {"placement": "shard"}


def made(run_dir, first, second=None, **changed):
    """Return the config of a run of one component, or two."""
    components = {"first": first, **({"second": second} if second else {})}
    optims = {name: ADAMW for name, entry in components.items() if not entry.get("freeze")}
    result = config(run_dir, components, optims, **changed)
    result["plugins"].append("sample_placements")
    return result


def test_a_process_has_a_part_of_each_parameter_under_its_own_name(tmp_path, two_workers):
    sampler = {"type": "sampler", "params": {"width": 5}, **SHARD, "shard_units": ["layers.*"]}
    data = {"params": {"width": 5}}
    (one, units), (other, _) = two_workers.call(placed, made(tmp_path / "two", sampler, sampler, data=data))
    (whole, _) = placed(made(tmp_path / "one", sampler, sampler, data=data))
    assert list(one) == list(whole)
    for name, (shape, elements, is_sharded) in one.items():
        assert shape == whole[name][0]
        assert is_sharded == (not name.endswith("scale"))  # a number has nothing to divide
        assert not whole[name][2]
        assert elements + (other[name][1] if is_sharded else 0) == whole[name][1]
    assert one["first.layers.0.weight"][1] == 15  # three rows of five
    assert units == [f"{name}{unit}" for name in ("first", "second") for unit in ("", ".layers.0", ".layers.1")]


def test_a_frozen_component_frees_what_it_gathers_for_a_forward_pass(tmp_path, two_workers):
    wide = {"type": "mlp", "params": {"in_features": 4, "out_features": 4, "hidden": [999]}, "freeze": True, **SHARD}
    second = {"type": "mlp", "params": {"in_features": 4, "out_features": 4}}
    for before, after, weights in two_workers.call(bytes_after_forward_passes, made(tmp_path / "run", wide, second)):
        assert after <= before < weights  # of this component half, and the small one


def test_one_process_can_call_a_component_that_is_gathered(tmp_path, two_workers):
    sampler = {"type": "sampler", **SHARD, "shard_units": ["layers.*"]}
    assert two_workers.call(called_by_one, made(tmp_path / "run", sampler)) == [[True, True, True], [True]]


REFUSED = {
    "no_match": (
        {"type": "sampler", "shard_units": ["layrs.*"]},
        ["model.components.first.shard_units: 'layrs.*' matches no submodule", "did you mean 'layers"],
    ),
    "list": ({"type": "sampler", "shard_units": ["layers"]}, ["'layers', a ModuleList", "'layers.*'"]),
    "tied": (
        {"type": "tied", "shard_units": ["first"]},
        ["model.components.first.shard_units", "'second.weight' is also 'first.weight'"],
    ),
    "types": ({"type": "two_types"}, ["first.weight is float32, second.weight is float64"]),
    "method": (
        {"type": "misnamed_sampler"},
        ["model.components.first.placement: cannot be sharded", "does not have a method sampel"],
    ),
    "unnamed_method": (
        {"type": "nameless_sampler", "objective": "sampling"},
        ["train.objective: fails on", "sample_placements.py", "`distributed_methods`"],
    ),
    "penalty": ({"type": "sampler", "objective": "decaying"}, ["train.objective: the loss 'penalty' reads parameters"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_sharded_is_refused_before_anything_is_written(tmp_path, two_workers, case):
    entry, words = REFUSED[case]
    objective = entry.get("objective", "regression")
    first = {**{key: value for key, value in entry.items() if key != "objective"}, **SHARD}
    for message in two_workers.call(refused, made(tmp_path / "run", first, objective=objective)):
        assert all(word in message for word in words), message
    assert not (tmp_path / "run").exists()


def test_an_optimizer_that_needs_whole_parameters_is_refused(tmp_path, two_workers):
    config = made(tmp_path / "run", {"type": "sampler", **SHARD})
    config["model"]["component_optims"]["first"] = {"type": "adafactor", "params": {"lr": 1e-3}}
    for message in two_workers.call(refused, config):
        assert message.startswith("model.component_optims.first.params: ")
        assert "gives first placement: shard" in message


def test_types_may_differ_between_units(tmp_path, two_workers):
    first = {"type": "two_types", **SHARD, "shard_units": ["first"]}
    assert len(two_workers.call(placed, made(tmp_path / "run", first))) == 2


def test_placement_changes_nothing_in_the_only_process_of_a_run(tmp_path):
    sampler = {"type": "sampler", **SHARD, "shard_units": ["nothing"]}
    parameters, units = placed(made(tmp_path / "run", sampler))
    assert units == []
    assert not any(is_sharded for _, _, is_sharded in parameters.values())


def test_units_of_a_replicated_component_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"model\.components\.first\.shard_units: needs placement: shard"):
        load_config(made(tmp_path, {"type": "sampler", "shard_units": ["layers.*"]}))


def test_a_target_has_the_placement_of_its_source(tmp_path):
    target = {"ema_of": "second", "tau": 0.1}
    second = {"type": "sampler", **SHARD, "shard_units": ["layers.*"]}
    target_entry = load_config(made(tmp_path, {**target, "freeze": True}, second)).model.components["first"]
    assert (target_entry.placement, target_entry.shard_units) == ("shard", ["layers.*"])
    with pytest.raises(ConfigError, match=r"model\.components\.first\.placement: must be that of second, 'shard'"):
        load_config(made(tmp_path, {**target, "placement": "replicate", "freeze": True}, second))
