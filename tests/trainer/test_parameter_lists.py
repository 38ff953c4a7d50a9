"""Every trainable parameter has an optimizer, or an error names it."""

import pytest
import torch
from conftest import files_of
from rich.console import Console
from safetensors.torch import load_file
from sample_runs import ADAMW, WARMUP, config, drop

from trainer import ConfigError, load_config, resume, train
from trainer.checkpoint.directory import complete_checkpoints, verify
from trainer.errors import UserCodeError
from trainer.offline_trainer import OfflineTrainer

QUIET = Console(quiet=True)
TWO = {"first": {"type": "sample_trouble_parts.TwoLayers"}, "second": {"type": "normed"}}
OPTIMS = {"first": WARMUP, "second": ADAMW}


def prepares(run_dir, what, components=TWO, optims=OPTIMS, **changed):
    raw = config(run_dir, components, optims, objective="sample_trouble_parts.Prepares", save_every=4, **changed)
    raw["train"]["objective"]["params"] = {"what": what}
    return raw


def weights(run, step, name="first"):
    return load_file(run / f"checkpoints/step_{step:08d}" / name / "model.safetensors")


@pytest.mark.parametrize("what", ["replace", "add", "replace all"])
def test_what_prepare_makes_is_trained_and_resumed(tmp_path, what):
    train(prepares(tmp_path / "whole", what), console=QUIET)
    train(prepares(tmp_path / "parts", what), console=QUIET)
    before, after = weights(tmp_path / "whole", 4), weights(tmp_path / "whole", 12)
    assert all(not torch.equal(before[name], after[name]) for name in after)
    drop(tmp_path / "parts/checkpoints/step_00000012")
    resume(tmp_path / "parts", console=QUIET)
    whole, parts = (files_of(tmp_path / run / "checkpoints/step_00000012") for run in ("whole", "parts"))
    assert whole == parts


def test_what_the_config_freezes_stays_frozen_though_prepare_unfreezes_it(tmp_path):
    frozen = {**TWO, "first": {**TWO["first"], "freeze": True}}
    train(prepares(tmp_path / "run", "unfreeze", frozen, {"second": ADAMW}), console=QUIET)
    before, after = weights(tmp_path / "run", 4), weights(tmp_path / "run", 12)
    assert all(torch.equal(before[name], after[name]) for name in after)


def test_a_layer_that_prepare_puts_into_a_frozen_component_is_frozen(tmp_path):
    frozen = {**TWO, "first": {**TWO["first"], "freeze": True}}
    trainer = OfflineTrainer(load_config(prepares(tmp_path, "replace", frozen, {"second": ADAMW})), QUIET)
    assert not any(parameter.requires_grad for parameter in trainer.components["first"].parameters())
    assert set(trainer.optimizers) == {"second"}


MISTAKES = {
    "remove": "model.components.first: the objective's prepare removed it",
    "add a component": "model.components: the objective's prepare added 'third'",
    "share": "model.components.second: its parameter 'linear.weight' belongs to component 'first' too",
    "fail": r"train.objective: its prepare fails: KeyError: 'no_such_thing' \(sample_trouble_parts.py:\d+\)",
}


@pytest.mark.parametrize("what", MISTAKES)
def test_what_prepare_may_not_do_is_named(tmp_path, what):
    with pytest.raises(ConfigError, match=MISTAKES[what]):
        train(prepares(tmp_path / "run", what), console=QUIET)
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    run = tmp_path_factory.mktemp("source") / "run"
    train(prepares(run, "nothing"), console=QUIET)
    return run


def test_what_init_from_loaded_may_not_be_replaced(tmp_path, source):
    loads = {**TWO, "first": {**TWO["first"], "init_from": str(source)}}
    with pytest.raises(ConfigError, match=r"first.init_from: .* replaced or removed .* loaded: head.weight, head.bias"):
        train(prepares(tmp_path / "run", "replace", loads), console=QUIET)
    assert not (tmp_path / "run").exists()


def test_what_init_from_left_out_may_be_replaced(tmp_path, source):
    init = {"path": str(source), "strict": False, "rename": {"head.*": "old_head.*"}}
    loads = {**TWO, "first": {**TWO["first"], "init_from": init}}
    trainer = OfflineTrainer(load_config(prepares(tmp_path, "replace", loads)), QUIET)
    assert torch.equal(trainer.components["first"].body.weight, weights(source, 12)["body.weight"])


def lazy(run_dir, **params):
    components = {"first": {"type": "sample_trouble_parts.LazyLayers", "params": params}, "second": {"type": "normed"}}
    return config(run_dir, components, OPTIMS, save_every=4)


def test_a_lazy_module_trains_and_resumes(tmp_path):
    train(lazy(tmp_path / "whole"), console=QUIET)
    train(lazy(tmp_path / "parts"), console=QUIET)
    before, after = weights(tmp_path / "whole", 4), weights(tmp_path / "whole", 12)
    assert list(after["body.weight"].shape) == [5, 4]
    assert all(not torch.equal(before[name], after[name]) for name in after)
    drop(tmp_path / "parts/checkpoints/step_00000012")
    resume(tmp_path / "parts", console=QUIET)
    whole, parts = (files_of(tmp_path / run / "checkpoints/step_00000012") for run in ("whole", "parts"))
    assert whole == parts


def test_a_frozen_lazy_module_gets_its_shape_and_stays_frozen(tmp_path):
    raw = lazy(tmp_path)
    raw["model"]["components"]["first"]["freeze"] = True
    trainer = OfflineTrainer(load_config(raw), QUIET)
    assert trainer.components["first"].body.weight.shape == (5, 4)
    assert set(trainer.optimizers) == {"second"}


def test_a_lazy_module_that_is_never_run_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"model.components.first: unused.weight, unused.bias have no shape yet"):
        OfflineTrainer(load_config(lazy(tmp_path, unused=True)), QUIET)


def test_a_lazy_module_cannot_start_from_elsewhere(tmp_path, source):
    raw = lazy(tmp_path)
    raw["model"]["components"]["first"]["init_from"] = str(source)
    with pytest.raises(ConfigError, match=r"model.components.first.init_from: the component has lazy modules"):
        OfflineTrainer(load_config(raw), QUIET)


def test_an_optimizer_that_leaves_parameters_out_is_named(tmp_path):
    optims = {**OPTIMS, "first": {"type": "sample_trouble_parts.LeavesOut"}}
    with pytest.raises(ConfigError, match=r"model.components.first: its optimizer has not .*: body.bias, head.bias"):
        train(config(tmp_path / "run", TWO, optims), console=QUIET)
    assert not (tmp_path / "run").exists()


def test_a_component_that_replaces_its_parameters_when_it_loads_is_named(tmp_path):
    """A resume would load into parameters that no optimizer has."""
    assigns = {**TWO, "first": {"type": "sample_trouble_parts.Assigns"}}
    with pytest.raises(ConfigError, match=r"model.components.first: .*put in place of others: body.bias, body.weight"):
        train(config(tmp_path / "run", assigns, OPTIMS), console=QUIET)


def meddled(run_dir, what, components=TWO, optims=OPTIMS):
    raw = config(run_dir, components, optims, objective="sample_trouble_parts.Meddles", save_every=4)
    raw["train"]["objective"]["params"] = {"what": what}
    return raw


LATER = {
    "replace": "the parameters that were put in place of others: head.bias, head.weight",
    "make": "the parameters that were made or unfrozen later: scale",
    "remove": "parameters that are not there any more: body.bias",
    "freeze": "parameters that were frozen later: body.weight",
}


@pytest.mark.parametrize("what", LATER)
def test_parameters_that_change_in_the_run_are_named_at_the_next_save(tmp_path, what):
    if what in ("freeze", "remove"):  # no update goes through without them: they go in the last one before the save
        raw = meddled(tmp_path / "run", what)
        raw["train"]["objective"]["params"]["at"] = 7
    else:
        raw = meddled(tmp_path / "run", what)
    with pytest.raises(UserCodeError) as raised:
        train(raw, console=QUIET)
    message = str(raised.value)
    assert "after 8 updates, which cannot be saved: model.components.first: its optimizer has" in message
    assert LATER[what] in message
    assert message.count(LATER[what]) == message.count("checkpoint:") == 1
    assert "The newest finite checkpoint: after 4 updates. `innerstep resume" in message
    assert [folder.name for folder in complete_checkpoints(tmp_path / "run/checkpoints")] == ["step_00000004"]
    verify(tmp_path / "run/checkpoints/step_00000004")


def test_a_failure_that_frozen_parameters_explain_names_them_once(tmp_path):
    with pytest.raises(UserCodeError) as raised:
        train(meddled(tmp_path / "run", "freeze all"), console=QUIET)
    message = str(raised.value)
    assert message.count("its optimizer has parameters that were frozen later") == message.count("checkpoint:") == 1
    assert "Training since then is not saved. The newest finite checkpoint: after 4 updates." in message


def test_a_component_unfrozen_in_the_run_is_named_at_the_next_save(tmp_path):
    frozen = {**TWO, "first": {**TWO["first"], "freeze": True}}
    with pytest.raises(
        UserCodeError, match=r"model.components.first: is frozen and has no optimizer, but .* body.weig"
    ):
        train(meddled(tmp_path / "run", "unfreeze", frozen, {"second": ADAMW}), console=QUIET)


def test_the_command_ends_with_the_exit_code_of_user_code(cli, tmp_path):
    import yaml

    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(meddled(tmp_path / "run", "replace")))
    code, printed = cli("train", path)
    assert code == 3
    assert "Traceback" not in printed
    assert "head.weight" in printed
