"""The averages of `train.ema` in checkpoints: resumed, loaded, exported, and taken by another run."""

import io
import json
import re
import shutil

import pytest
import torch
from conftest import files_of, metrics_of
from rich.console import Console
from safetensors.torch import load_file, save_file
from sample_runs import ADAMW, SCHEDULE_FREE, WARMUP, config, drop, ready, two

from trainer import ConfigError, NonFiniteError, load_run, resume, train
from trainer.config.load import load_config
from trainer.loop.averaged_weights import averaged_weights
from trainer.offline_trainer import OfflineTrainer

EMA = {"decay": 0.9, "power": 0.75}
OPTIMS = {"first": ADAMW, "second": WARMUP}
LAST = "checkpoints/step_00000012"
OVERRIDE = {"resume.on_change": "override"}


@pytest.fixture
def printed():
    return Console(file=io.StringIO(), width=1000)


def averaged(run, components=None, optims=None, ema=EMA, **changed):
    made = config(run, components or two(), optims or OPTIMS, **{"ema": ema, "save_every": 5, **changed})
    made["plugins"].append("sample_averages")
    return made


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    run = tmp_path_factory.mktemp("averaged") / "run"
    train(averaged(run, eval_every=4, keep_best={}), console=Console(quiet=True))
    return run


@pytest.fixture
def run(source, tmp_path):
    return shutil.copytree(source, tmp_path / "run")


def averages(run, name="first", last=LAST):
    return {**load_file(run / last / name / "model.safetensors"), **load_file(run / last / name / "ema.safetensors")}


def same(component, tensors):
    state = component.state_dict()
    return state.keys() == tensors.keys() and all(torch.equal(state[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize(
    "changed",
    [{}, {"save_async": True}, {"accumulate": 2}, {"precision": "bf16"}],
    ids=["plain", "async", "accumulate", "bf16"],
)
def test_a_resumed_run_has_the_averages_of_the_uninterrupted_one(tmp_path, printed, changed):
    optims = {"first": {**ADAMW, "every": 2}, "second": WARMUP}
    components = {**two(), "slow": {"ema_of": "first", "tau": 0.1}}
    for run in ("whole", "parts"):
        options = {"eval_every": 4, "keep_best": {}, **changed}
        train(averaged(tmp_path / run, components, optims, **options), console=printed)
    drop(tmp_path / "parts" / LAST)
    drop(tmp_path / "parts/checkpoints/step_00000010")
    resume(tmp_path / "parts/checkpoints/step_00000005", console=printed)
    whole, parts = (files_of(tmp_path / run / LAST) for run in ("whole", "parts"))
    assert whole == parts
    assert {"first/ema.safetensors", "second/ema.json", "slow/model.safetensors"} <= whole.keys()
    assert metrics_of(tmp_path / "whole") == metrics_of(tmp_path / "parts")


def test_a_loaded_run_has_the_averages(run):
    loaded = load_run(run)
    assert same(loaded.components["first"], averages(run))
    trained = load_file(run / LAST / "first/model.safetensors")
    assert not same(loaded.components["first"], trained)
    best = load_run(run, checkpoint="best")
    folder = best.checkpoint.relative_to(run).as_posix()
    assert same(best.components["second"], averages(run, "second", folder))


def test_a_loaded_run_repeats_the_evaluation(run, printed):
    trainer = OfflineTrainer(load_config(averaged(run)), printed, resumed=True)
    trainer.restore(run / LAST)
    loss = trainer.evaluations.on_held_out()["loss"]
    assert loss == [line["loss"] for line in metrics_of(run) if line["split"] == "held_out"][-1]
    batch = trainer.data.held_out.batch(torch.arange(10))
    loaded = load_run(run)
    first = loaded.objective.losses(loaded.components, batch).total
    with torch.no_grad(), averaged_weights((), trainer.averages):
        trainer.components.eval()
        assert torch.equal(first, trainer.objective.losses(trainer.components, batch).total)


def test_an_export_has_the_averages(run, tmp_path, cli):
    code, line = cli("checkpoint", "export", run, "--out", tmp_path / "all.safetensors")
    assert code == 0
    assert "of first, second (averages of train.ema: first, second)" in line
    exported = load_file(tmp_path / "all.safetensors")
    assert all(torch.equal(exported[f"first.{name}"], tensor) for name, tensor in averages(run).items())
    _, line = cli("checkpoint", "export", run, "--out", tmp_path / "trained.safetensors", "--no-ema")
    trained = load_file(run / LAST / "second/model.safetensors")
    exported = load_file(tmp_path / "trained.safetensors")
    assert all(torch.equal(exported[f"second.{name}"], tensor) for name, tensor in trained.items())
    assert not torch.equal(trained["linear.weight"], averages(run, "second")["linear.weight"])
    assert "averages" not in line
    cli("checkpoint", "export", run, "--out", tmp_path / "one.safetensors", "--component", "second")
    assert load_file(tmp_path / "one.safetensors").keys() == averages(run, "second").keys()


@pytest.mark.parametrize("place", ["{run}", "{run}/" + LAST, "{run}/" + LAST + "/first"])
def test_a_component_starts_from_the_averages_of_a_run(run, tmp_path, printed, place):
    def started(ema):
        init = {"path": place.format(run=run), "ema": ema}
        made = config(tmp_path / "next", {"first": {"type": "normed", "init_from": init}}, {"first": ADAMW})
        return OfflineTrainer(load_config(made), printed).components["first"]

    assert same(started(True), averages(run))
    assert re.search(r"first: 7 of 7 tensors from the averages in .*/first\b", printed.file.getvalue())
    assert same(started(False), load_file(run / LAST / "first/model.safetensors"))


def test_a_source_without_averages_is_refused(run, tmp_path, printed):
    save_file(averages(run), tmp_path / "plain.safetensors")
    train(averaged(tmp_path / "bare", ema=None), console=printed)
    for path in ("plain.safetensors", "bare"):
        init = {"path": str(tmp_path / path), "ema": True}
        made = config(tmp_path / "next", {"first": {"type": "normed", "init_from": init}}, {"first": ADAMW})
        with pytest.raises(ConfigError, match=r"first\.init_from: ema: .* has no averages of train\.ema\. Set it to"):
            OfflineTrainer(load_config(made), printed)
    made["model"]["components"]["first"]["init_from"] |= {"weights": False, "optimizer": True}
    with pytest.raises(ConfigError, match=r"first\.init_from\.ema: must be false with weights: false"):
        load_config(made)


def test_averages_that_a_resume_adds_start_at_its_weights(tmp_path, printed):
    run = tmp_path / "run"
    train(averaged(run, ema=None), console=printed)
    checkpoint = run / "checkpoints/step_00000010"
    added = {"train.ema": EMA}
    with pytest.raises(ConfigError, match=r"train\.ema\.decay: saved None, now 0\.9"):
        resume(checkpoint, added, console=printed)
    trainer = OfflineTrainer(load_config({**averaged(run), "resume": {"on_change": "override"}}), printed, resumed=True)
    trainer.restore(checkpoint)
    with averaged_weights((), trainer.averages):
        assert same(trainer.components["first"], load_file(checkpoint / "first/model.safetensors"))
    resume(checkpoint, {**added, **OVERRIDE}, console=printed)
    assert "the checkpoint has no averages of first: they start at its weights" in printed.file.getvalue()
    assert json.loads((run / LAST / "first/ema.json").read_text()) == {"steps": 2}
    resume(checkpoint, {"resume.on_change": "keep"}, console=printed)
    assert not list((run / LAST).glob("*/ema.*"))


def test_averages_that_a_resume_takes_away_are_gone(run, printed):
    resume(run / "checkpoints/step_00000010", {"train.ema": None, **OVERRIDE}, console=printed)
    assert not list((run / LAST).glob("*/ema.*"))
    assert same(load_run(run).components["first"], load_file(run / LAST / "first/model.safetensors"))


def test_another_decay_continues_with_the_saved_averages(run, printed):
    resume(run / "checkpoints/step_00000010", {"train.ema.decay": 0.5, **OVERRIDE}, console=printed)
    assert json.loads((run / LAST / "first/ema.json").read_text()) == {"steps": 12}


def test_the_tools_show_and_compare_averages(run, tmp_path, cli):
    _, shown = cli("checkpoint", "inspect", run)
    assert "average of first: 6 tensors, 36 values, 144 B; steps" in shown
    _, shown = cli("checkpoint", "diff", "--all", run / "checkpoints/step_00000010", run / LAST)
    assert ["first.ema.steps", "10", "12"] in [line.split() for line in shown.splitlines()]
    assert cli("checkpoint", "verify", run)[0] == 0


def test_names_that_the_weights_lack_are_damage(run, printed):
    from trainer.checkpoint.contents import read_averages

    folder = run / LAST / "first"
    save_file({**load_file(folder / "ema.safetensors"), "other": torch.zeros(1)}, folder / "ema.safetensors")
    with pytest.raises(ValueError, match=r"ema\.safetensors: other is not in model\.safetensors"):
        read_averages(folder)


def test_an_average_that_is_not_finite_is_not_saved(tmp_path, printed):
    trainer = ready(averaged(tmp_path / "run"), printed)
    trainer.run()
    trainer.averages.ema["second"].tensors["linear.bias"][0] = float("nan")
    with pytest.raises(NonFiniteError, match=r"second\.linear\.bias of train\.ema \(1 of 4 values\)"):
        trainer.save()


def test_a_schedule_free_component_has_its_own_average_in_its_weights(tmp_path, printed):
    train(averaged(tmp_path / "run", optims={"first": SCHEDULE_FREE, "second": ADAMW}), console=printed)
    loaded = load_run(tmp_path / "run").components
    assert same(loaded["first"], load_file(tmp_path / "run" / LAST / "first/model.safetensors"))
    assert same(loaded["second"], averages(tmp_path / "run", "second"))


def test_a_run_that_fails_saves_its_averages(tmp_path, printed):
    made = averaged(tmp_path / "run", save_every=None, objective="faulty")
    made["plugins"].append("sample_faulty_parts")
    made["train"]["objective"]["params"] = {"way": "explode", "at": [7], "where": "loss"}
    with pytest.raises(RuntimeError, match="no licence"):
        train(made, console=printed)
    folder = tmp_path / "run/checkpoints/step_00000007"
    assert json.loads((folder / "second/ema.json").read_text()) == {"steps": 7}
