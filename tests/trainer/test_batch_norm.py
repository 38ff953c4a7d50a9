"""BatchNorm: batches that it cannot train on are refused, and evaluations measure its statistics."""

import pytest
from rich.console import Console
from sample_runs import ADAMW, SCHEDULE_FREE, config

from trainer import ConfigError, load_config, train
from trainer.offline_trainer import OfflineTrainer

QUIET = Console(quiet=True)


def one(run_dir, kind, params=None, optim=ADAMW, data=None, **component):
    components = {"first": {"type": f"sample_trouble_parts.{kind}", "params": params or {}, **component}}
    optims = {"first": optim}
    if component.get("freeze"):
        components["second"], optims = (
            {"type": "mlp", "params": {"in_features": 4, "out_features": 4}},
            {"second": optim},
        )
    return config(run_dir, components, optims, data=data or {"batch_size": 4})  # 37 samples: the last batch is of one


PASS = {
    "over images": ("Images", {}, {}),
    "over images, kept in eval mode": ("Images", {"keeps_eval": True}, {}),
    "GroupNorm": ("Images", {"norm": "group"}, {}),
    "over single values, kept in eval mode": ("Vector", {"keeps_eval": True}, {}),
    "over single values, frozen": ("Vector", {}, {"freeze": True}),
}


@pytest.mark.parametrize("batch_size", [4, 1])
@pytest.mark.parametrize("case", PASS)
def test_one_sample_is_enough_for(tmp_path, case, batch_size):
    kind, params, component = PASS[case]
    raw = one(tmp_path / "run", kind, params, data={"batch_size": batch_size}, **component)
    assert train(raw, console=QUIET).step == 12


def test_one_sample_is_enough_for_a_frozen_component_that_prepare_unfreezes(tmp_path):
    raw = one(tmp_path, "Vector", freeze=True)
    raw["train"]["objective"] = {"type": "sample_trouble_parts.Prepares", "params": {"what": "unfreeze"}}
    assert set(OfflineTrainer(load_config(raw), QUIET).optimizers) == {"second"}


@pytest.mark.parametrize("batch_size", [4, 9, 1])
def test_one_sample_is_not_enough_over_single_values(tmp_path, batch_size):
    with pytest.raises(ConfigError) as raised:
        train(one(tmp_path / "run", "Vector", data={"batch_size": batch_size}), console=QUIET)
    message = str(raised.value)
    assert message.startswith("data: the last batch of an epoch has one sample")
    assert (
        "model.components.first: fails on an input of shape [1, 4]: ValueError: Expected more than 1 value" in message
    )
    assert "data.drop_last" in message
    assert not (tmp_path / "run").exists()


def test_it_is_enough_without_the_last_batch(tmp_path):
    assert train(one(tmp_path / "run", "Vector", data={"batch_size": 4, "drop_last": True}), console=QUIET).step == 12


def test_the_rehearsal_in_train_mode_leaves_no_trace(tmp_path):
    trainer = OfflineTrainer(load_config(one(tmp_path, "Images")), QUIET)
    norm = trainer.components["first"].norm
    assert norm.running_mean.tolist() == [0.0, 0.0]
    assert norm.num_batches_tracked == 0
    assert all(parameter.grad is None for parameter in trainer.components.parameters())


def seen_in_evaluation(trainer, value):
    """Return what `value` gives in each forward pass of an evaluation without gradients, in order."""
    seen = []

    class Watching(type(trainer.objective)):
        def losses(self, components, batch):
            seen.append(value(components["first"]))
            return super().losses(components, batch)

    trainer.objective = Watching()
    trainer.evaluations.on_held_out()
    return seen


def test_statistics_that_training_does_not_move_are_not_measured(tmp_path):
    trainer = OfflineTrainer(load_config(one(tmp_path, "Images", {"keeps_eval": True}, SCHEDULE_FREE)), QUIET)
    norm = trainer.components["first"].norm
    norm.running_mean.fill_(0.25)
    means = seen_in_evaluation(trainer, lambda first: first.norm.running_mean.clone())
    assert len(means) == 3, "the evaluation's batches of ten held-out samples alone"
    assert all(mean.tolist() == [0.25, 0.25] for mean in means)


def test_statistics_are_measured_over_batches_of_one_image_too(tmp_path):
    trainer = OfflineTrainer(load_config(one(tmp_path, "Images", {}, SCHEDULE_FREE, {"batch_size": 1})), QUIET)
    first = trainer.components["first"]
    counts = seen_in_evaluation(trainer, lambda first: int(first.norm.num_batches_tracked))
    assert counts == [*range(37), *[37] * 10]
    assert first.norm.num_batches_tracked == 0
