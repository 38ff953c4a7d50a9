"""Objectives in two processes: several backward passes, components that one process does not use, and mistakes."""

import pytest
from sample_runs import ADAMW, config
from sample_worlds import failed, trained
from test_equality import LAYER, furthest

MLPS = dict.fromkeys(("first", "second"), LAYER)
BUCKETS = {"ONE_MESSAGE_BYTES": 0, "BUCKET_BYTES": 100}
"""As if the components were large."""
WAYS = pytest.mark.parametrize("constants", [None, BUCKETS], ids=["one message", "buckets"])


def made(run_dir, objective, components=MLPS, optims=None, *, params=None, **changed):
    optims = optims or dict.fromkeys(components, ADAMW)
    result = config(run_dir, components, optims, objective=objective, **changed)
    result["plugins"].append("sample_rank_objectives")
    result["train"]["objective"]["params"] = params or {}
    return result


def apart(tmp_path, workers, constants, *arguments, **changed):
    """Return how far the weights of each rank are from those of one process."""
    alone, _, _ = trained(made(tmp_path / "one", *arguments, **changed))
    ones = workers.call(trained, made(tmp_path / "two", *arguments, **changed), constants)
    return [furthest(weights, alone)[1] for weights, _, _ in ones]


@WAYS
@pytest.mark.parametrize("placement", ["replicate", "shard"])
@pytest.mark.parametrize("every", [1, 2])
def test_actor_and_critic_are_stepped_by_two_passes(tmp_path, two_workers, constants, placement, every):
    components = {"actor": LAYER, "critic": {"type": "critic_with_method", "placement": placement}}
    optims = {"actor": {**ADAMW, "every": every}, "critic": ADAMW}
    options = {"params": {}, "accumulate": 3 - every}
    assert max(apart(tmp_path, two_workers, constants, "calls_a_method", components, optims, **options)) <= 1e-11


@WAYS
def test_a_component_that_one_rank_does_not_use_gets_the_gradient_of_the_other(tmp_path, two_workers, constants):
    assert max(apart(tmp_path, two_workers, constants, "some_samples", data={"params": {"samples": 40}})) <= 1e-11


@pytest.mark.parametrize("placement", ["replicate", "shard"])
def test_a_layer_that_one_rank_does_not_use_gets_its_own_gradient(tmp_path, two_workers, placement):
    """A layer that no rank uses gets none: its weights do not decay."""
    components = {"first": {"type": "experts", "placement": placement}, "second": LAYER}
    decaying = {"type": "adamw", "params": {"lr": 0.01, "weight_decay": 0.5}}
    options = {"optims": {"first": decaying, "second": ADAMW}, "data": {"batch_size": 3}}
    assert max(apart(tmp_path, two_workers, None, "regression", components, **options)) <= 1e-11


@WAYS
def test_parameters_of_several_types_and_layouts_train_together(tmp_path, two_workers, constants):
    components = {"first": {"type": "several_types"}, "second": LAYER}
    sgd = {"type": "sgd", "params": {"lr": 0.01, "grad_clip_norm": None}}
    options = {"optims": dict.fromkeys(components, sgd)}
    assert max(apart(tmp_path, two_workers, constants, "regression", components, **options)) <= 1e-6  # one is float32


@WAYS
@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("order", "rank 0 steps first in update 5; rank 1 steps second in update 5"),
        ("fewer", "rank 0 steps second in update 5; rank 1 steps first in update 6"),
        ("none", "rank 0 steps first in update 5; rank 1 steps first in update 6"),
        ("more", "rank 0 steps first in update 6; rank 1 steps first in update 5"),
    ],
)
def test_ranks_that_step_other_components_are_named(tmp_path, two_workers, way, message, constants):
    wanted = made(tmp_path / "run", "stepping_alone", params={"way": way, "at": 5}, log_every=100)
    errors = two_workers.call(failed, wanted, constants)
    assert [kind for kind, _ in errors] == ["UserCodeError"] * 2
    for _, text in errors:
        assert f"the processes do not step the same components: {message}" in text
        assert "in the same order" in text


@pytest.mark.parametrize("at", [0, 11])
def test_a_rank_that_steps_nothing_in_a_checked_update_is_named(tmp_path, two_workers, at):
    wanted = made(tmp_path / "run", "stepping_alone", params={"way": "none", "at": at}, log_every=100)
    for _, text in two_workers.call(failed, wanted):
        assert f"rank 0 steps first in update {at}; rank 1 ends in update {at}" in text


@pytest.mark.parametrize("placement", ["replicate", "shard"])
@pytest.mark.parametrize(("where", "found"), [("batch", "the batch's x (1 of 16 values)"), ("loss", "the loss is nan")])
def test_a_value_that_is_not_finite_on_one_rank_stops_all_and_names_it(tmp_path, two_workers, placement, where, found):
    components = {name: {**LAYER, "placement": placement} for name in MLPS}
    wanted = made(tmp_path / "run", "nan_on_one_rank", components, params={"where": where, "at": [5]})
    (kind, text), (other_kind, _) = two_workers.call(failed, wanted)
    assert kind == other_kind == "NonFiniteError"
    assert f"on rank 1 {found}" in text
    assert "update 5" in text


@pytest.mark.parametrize("placement", ["replicate", "shard"])
def test_an_update_that_is_not_finite_on_one_rank_is_skipped_on_all(tmp_path, two_workers, placement):
    components = {name: {**LAYER, "placement": placement} for name in MLPS}
    options = {"params": {"where": "loss", "at": [2, 5]}, "on_nonfinite": "skip"}
    ones = two_workers.call(trained, made(tmp_path / "run", "nan_on_one_rank", components, **options))
    assert [skipped for _, _, skipped in ones] == [{"first": 2, "second": 2}] * 2
    assert furthest(ones[0][0], ones[1][0])[1] == 0


def test_a_loss_scale_falls_on_all_ranks_if_one_overflows(tmp_path, two_workers):
    sgd = {"type": "sgd", "params": {"lr": 0.01}}
    options = {"params": {"where": "gradient", "at": [4]}, "precision": "fp16", "grad_clip_norm": 1.0}
    ones = two_workers.call(
        trained, made(tmp_path / "run", "nan_on_one_rank", optims=dict.fromkeys(MLPS, sgd), **options)
    )
    assert [skipped for _, _, skipped in ones] == [{"first": 1, "second": 1}] * 2
    assert furthest(ones[0][0], ones[1][0])[1] == 0


def test_a_sparse_gradient_is_refused_by_name(tmp_path, two_workers):
    components = {"first": {"type": "sparse_embedding"}, "second": LAYER}
    optims = {"first": {"type": "sgd", "params": {"lr": 0.1, "grad_clip_norm": None}}, "second": ADAMW}
    for kind, text in two_workers.call(failed, made(tmp_path / "run", "regression", components, optims)):
        assert kind == "ConfigError"
        assert "first.table.weight: its gradient is sparse" in text


def test_an_objective_whose_losses_are_no_means_is_refused(tmp_path, two_workers):
    errors = two_workers.call(failed, made(tmp_path / "run", "summed_losses"))
    assert all(kind == "ConfigError" and "must be trained by one process; got 2" in text for kind, text in errors)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_depends_on_no_parameter_of_a_component_is_refused_on_all_ranks(tmp_path, two_workers):
    components = {**MLPS, "third": LAYER}
    for kind, text in two_workers.call(failed, made(tmp_path / "run", "some_samples", components)):
        assert kind == "ConfigError"
        assert "model.components.third: the loss does not depend on it" in text
