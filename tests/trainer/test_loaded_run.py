"""`load_run`: a trained run as components and objective, without the data set and without writing anything."""

import json
import shutil

import mutations
import pytest
import torch
from conftest import files_of
from rich.console import Console
from safetensors.torch import load_file
from sample_parts import Noise
from sample_runs import ADAMW, SCHEDULE_FREE, config, drop, two

from optimizer import no_plugins
from trainer import ConfigError, load_run, loaded_run, train
from trainer.errors import NewerFormatError
from trainer.run_lock import locked

LAST = "checkpoints/step_00000012"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run whose data are gone: its first component has dropout, its second averaged weights."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "data").touch()
    data = {"params": {"path": str(folder / "data")}}
    rules = {
        "eval_every": 4,
        "save_every": 4,
        "keep_best": {"monitor": "val_size"},
    }  # the size stays: the first is best
    made = config(folder / "run", two(), {"first": ADAMW, "second": SCHEDULE_FREE}, data=data, **rules)
    train(made, console=Console(quiet=True))
    (folder / "data").unlink()
    return folder / "run"


@pytest.fixture
def run(trained, tmp_path):
    """A copy that the test may change."""
    return shutil.copytree(trained, tmp_path / "run")


def test_the_components_have_the_saved_weights_and_are_ready_to_use(trained):
    loaded = load_run(trained)
    assert (loaded.step, loaded.checkpoint) == (12, trained / LAST)
    for name, component in loaded.components.items():
        saved = load_file(trained / LAST / name / "model.safetensors")
        assert saved.keys() == component.state_dict().keys()
        assert all(torch.equal(value, saved[key]) for key, value in component.state_dict().items())
    assert not any(module.training for module in loaded.components.modules())
    assert not any(parameter.requires_grad for parameter in loaded.components.parameters())


@pytest.mark.parametrize(
    ("checkpoint", "step"),
    [("latest", 12), ("best", 4), ("{run}/checkpoints/step_00000008", 8), ("{run}/checkpoints/best", 4)],
)
def test_a_checkpoint_is_chosen(trained, checkpoint, step):
    assert load_run(str(trained), checkpoint.format(run=trained)).step == step


def test_nothing_is_written_and_no_random_number_drawn(run):
    before, state = files_of(run), torch.get_rng_state()
    load_run(run, "best")
    assert files_of(run) == before
    assert torch.equal(torch.get_rng_state(), state)


def test_overrides_change_the_config(trained):
    loaded = load_run(trained, overrides={"data.batch_size": 3})
    assert loaded.config.data.batch_size == 3
    with pytest.raises(ConfigError, match="the weights do not fit"):
        load_run(trained, overrides={"model.components.second.params": {"width": 5}})


def test_a_run_that_trains_is_loaded_although_it_removes_checkpoints(run, monkeypatch):
    verify = loaded_run.verify

    def remove_it_first(folder):
        if folder.name == "step_00000012":
            drop(folder)
            (run / "checkpoints/latest").write_text("step_00000008")
        return verify(folder)

    monkeypatch.setattr(loaded_run, "verify", remove_it_first)
    with locked(run, print):
        assert load_run(run).step == 8


def test_a_run_that_is_not_there_is_refused(trained, tmp_path):
    with pytest.raises(ConfigError, match=r"no config\.yaml"):
        load_run(tmp_path)
    with pytest.raises(ConfigError, match=r"load_run\(RUN, checkpoint=PATH\)"):
        load_run(trained / "checkpoints/best")


def test_a_run_without_a_checkpoint_is_refused(run):
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(ConfigError, match="there is no checkpoint"):
        load_run(run)


def test_a_run_without_a_best_checkpoint_names_the_reason(run):
    (run / "checkpoints/best").unlink()
    with pytest.raises(ConfigError, match="no evaluation has chosen one"):
        load_run(run, "best")
    with pytest.raises(ConfigError, match=r"train\.keep_best is not set"):
        load_run(run, "best", overrides={"train.keep_best": None})


@pytest.mark.parametrize("file", ["first/model.safetensors", "second/optimizer.json", "manifest.json"])
@pytest.mark.parametrize("change", [lambda path: path.write_bytes(path.read_bytes()[:-1]), lambda path: path.unlink()])
def test_a_damaged_or_incomplete_checkpoint_is_refused_and_no_other_is_taken(run, file, change):
    change(run / LAST / file)
    with pytest.raises(ConfigError, match=r"(?s)damaged checkpoint: .*checkpoint verify"):
        load_run(run)


def test_a_checkpoint_of_a_newer_version_is_refused(run):
    manifest = json.loads((run / LAST / "manifest.json").read_text())
    mutations.seal_manifest(run / LAST, manifest | {"format_version": 2})
    with pytest.raises(NewerFormatError, match="Upgrade"):
        load_run(run)


def test_weights_that_are_not_finite_are_named(tmp_path):
    made = config(tmp_path / "run", two(), {"first": ADAMW, "second": ADAMW}, on_nonfinite="continue")
    made["model"]["component_optims"]["first"]["params"]["lr"] = 1e38
    train(made, console=Console(quiet=True))
    with pytest.warns(UserWarning, match="not finite: first"):
        load_run(tmp_path / "run")


def test_another_device_is_refused_where_there_is_none(trained):
    with pytest.raises(ConfigError, match="device: no such device; got 'gpu'"):
        load_run(trained, device="gpu")


def test_no_module_is_imported_within_no_plugins(trained):
    with no_plugins(), pytest.raises(ConfigError, match="sample_parts"):
        load_run(trained)


def test_an_objective_that_is_no_policy_does_not_act(trained):
    with pytest.raises(ConfigError, match=r"train\.objective\.type: must be a policy"):
        load_run(trained).actor()


@pytest.mark.parametrize("objective", ["remembering", "buffered"])
def test_the_state_of_the_objective_is_restored(tmp_path, objective):
    made = config(tmp_path / "run", two(), {"first": ADAMW, "second": ADAMW}, objective=objective)
    train(made, console=Console(quiet=True))
    saved = load_file(tmp_path / "run" / LAST / "objective.safetensors")["objective/scale"]
    assert saved != 1
    assert torch.equal(load_run(tmp_path / "run").objective.scale, saved)


def test_the_loss_is_that_of_the_last_evaluation_with_lazy_modules_too(tmp_path):
    components = {"first": {"type": "sample_trouble_parts.LazyLayers"}, "second": {"type": "normed"}}
    train(config(tmp_path / "run", components, {"first": ADAMW, "second": ADAMW}), console=Console(quiet=True))
    loaded, held_out = load_run(tmp_path / "run"), Noise().held_out
    saved = load_file(tmp_path / "run" / LAST / "first/model.safetensors")
    assert all(torch.equal(value, saved[key]) for key, value in loaded.components["first"].state_dict().items())
    loss = loaded.objective.losses(loaded.components, held_out.batch(torch.arange(len(held_out)))).total
    last = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])
    assert loss.item() == pytest.approx(last["loss"])


def test_a_prepare_that_changes_components_is_named(tmp_path):
    components = {"first": {"type": "sample_trouble_parts.TwoLayers"}, "second": {"type": "normed"}}
    made = config(tmp_path / "run", components, {"first": ADAMW, "second": ADAMW})
    made["train"]["objective"] = {"type": "sample_trouble_parts.Prepares", "params": {"what": "add"}}
    train(made, console=Console(quiet=True))
    with pytest.raises(ConfigError, match=r"(?s)the weights do not fit.*The prepare of Prepares is not called"):
        load_run(tmp_path / "run")
