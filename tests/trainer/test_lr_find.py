"""`innerstep lr-find`: one component moves at a rising lr, the others are held, and nothing is left behind."""

import json
import random
import re

import numpy as np
import pytest
import torch
import yaml
from conftest import files_of
from rich.console import Console
from sample_runs import ADAMW, MLPS, PLATEAU, SCHEDULE_FREE, WARMUP, config, ready

from trainer import train
from trainer.errors import ConfigError
from trainer.lr_finder import Curve, LrRange, _tested

SGD = {"type": "sgd", "params": {"lr": 0.1, "grad_clip_norm": 0, "momentum": 0.0}}
ONE_CYCLE = {"type": "adamw", "params": {"schedule": {"type": "one_cycle", "max_lr": 1e-2}}}
LINEAR = {name: {"type": "torch.nn.Linear", "params": {"in_features": 4, "out_features": 4}} for name in MLPS}


def written(folder, first=ADAMW, components=MLPS, **changed):
    """Write a config whose first component has the optimizer `first`; return the file."""
    made = config(folder / "run", components, {"first": first, "second": ADAMW}, eval_every=4, **changed)
    (folder / "config.yaml").write_text(yaml.safe_dump(made))
    return folder / "config.yaml"


def weights_of(trainer):
    return {name: tensor.clone() for name, tensor in trainer.components.state_dict().items()}


def random_numbers():
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()


@pytest.mark.parametrize("optim", [ADAMW, SGD, WARMUP, SCHEDULE_FREE, PLATEAU, ONE_CYCLE])
def test_one_component_is_stepped_at_rising_rates_and_the_other_is_held(tmp_path, optim):
    made = config(tmp_path / "run", MLPS, {"first": optim, "second": ADAMW}, eval_every=4)
    trainer = ready(made, Console(quiet=True))
    before, lrs = weights_of(trainer), []
    trainer.optimizers["first"].register_step_pre_hook(lambda made, *_: lrs.append(float(made.param_groups[0]["lr"])))
    curve = _tested(trainer, "first", LrRange(1e-4, 1e-2, 13))
    assert lrs == pytest.approx([1e-4 * 100 ** (index / 12) for index in range(13)])
    assert (list(curve.lrs), len(curve.losses), curve.end) == (pytest.approx(lrs), 13, "")
    after = weights_of(trainer)
    moved = {name.split(".")[0] for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert moved == {"first"}


def test_groups_keep_the_ratio_of_their_rates(tmp_path):
    rules = {"lr": 1e-2, "param_groups": [{"match": ["*bias"], "lr_multiplier": 0.25}]}
    optim = {"type": "adamw", "params": rules}
    trainer = ready(config(tmp_path / "run", MLPS, {"first": optim, "second": ADAMW}), Console(quiet=True))
    ratios = set()
    trainer.optimizers["first"].register_step_pre_hook(
        lambda made, *_: ratios.add(round(made.param_groups[1]["lr"] / made.param_groups[0]["lr"], 6))
    )
    _tested(trainer, "first", LrRange(1e-4, 1e-2, 12))
    assert ratios in ({0.25}, {4.0})


def test_the_test_starts_where_a_run_of_the_config_starts(tmp_path, cli):
    path = written(tmp_path)
    made = config(tmp_path / "other", MLPS, {"first": ADAMW, "second": ADAMW}, total_steps=1)
    train(made, console=Console(quiet=True))
    first = json.loads((tmp_path / "other/metrics.jsonl").read_text().splitlines()[0])["loss"]
    from trainer import load_config
    from trainer.offline_trainer import OfflineTrainer

    curve = _tested(OfflineTrainer(load_config(path), Console(quiet=True)), "second", LrRange(1e-4, 1e-2, 12))
    assert curve.losses[0] == first


def test_nothing_is_written_and_no_generator_moves(tmp_path, cli, monkeypatch):
    path = written(tmp_path)
    monkeypatch.chdir(tmp_path)
    before, numbers = files_of(tmp_path), random_numbers()
    code, printed = cli("lr-find", path, "--component", "first", "--updates=20", "--from=1e-4", "--to=1")
    assert (code, files_of(tmp_path), random_numbers()) == (0, before, numbers)
    assert "first: 20 updates" in printed
    assert "held: second" in printed


FIELDS = {
    "lr": (SGD, "params.lr"),
    "peak_lr": (WARMUP, "params.peak_lr"),
    "max_lr": (ONE_CYCLE, "params.schedule.max_lr"),
    "a plateau": (PLATEAU, "params.lr"),
    "schedule-free": (SCHEDULE_FREE, "params.lr"),
}


@pytest.mark.parametrize("case", FIELDS)
def test_the_suggestion_is_an_override_that_the_config_accepts(tmp_path, cli, case):
    optim, field = FIELDS[case]
    path = written(tmp_path, optim, LINEAR)
    code, printed = cli(
        "lr-find", path, "--component=first", "--updates=60", "--from=1e-3", "--to=100", "--data.batch_size=37"
    )
    assert code == 0
    (override,) = re.findall(rf"--model\.component_optims\.first\.{re.escape(field)}=\S+", printed)
    below = [f"--model.component_optims.first.params.{name}=0" for name in ("start_lr",) if name in printed]
    assert cli("plan", path, override, *below)[0] == 0


def test_a_diverging_loss_ends_the_test_and_the_suggestion_is_lower(tmp_path, cli):
    path = written(tmp_path, SGD, LINEAR)
    code, printed = cli("lr-find", path, "--component=first", "--updates=60", "--from=1e-3", "--to=1e6")
    assert code == 0
    assert re.search(r"until (the loss diverged|a loss or gradient became NaN or infinite) at lr ", printed)
    end = float(re.search(r"at lr (\S+);", printed)[1])
    assert float(re.search(r"suggestion: ([^,]+),", printed)[1]) < end / 2


def test_without_a_fall_there_is_no_suggestion(tmp_path, cli):
    path = written(tmp_path, SGD)
    code, printed = cli("lr-find", path, "--component=first", "--updates=20", "--from=1e-12", "--to=1e-10")
    assert code == 0
    assert "No suggestion" in printed
    assert "component_optims" not in printed


def test_the_marks_lie_where_the_curve_says():
    lrs = [10 ** (at / 10 - 4) for at in range(50)]
    losses = [2.0 - 1.5 / (1 + (1e-2 / lr) ** 4) + (lr / 2) ** 2 for lr in lrs]
    curve = Curve(lrs, losses, 50)
    assert curve.falls()
    assert 5e-3 < curve.steepest() < 2e-2
    assert 5e-3 < curve.below_minimum() < 5e-2


@pytest.mark.parametrize("tested", ["actor", "critic"])
def test_the_loss_is_that_of_the_component_where_an_objective_steps_several(tmp_path, tested):
    parts = {
        name: {"type": "mlp", "params": {"in_features": 4, "out_features": 4}} for name in ("actor", "critic", "target")
    }
    parts["target"]["freeze"] = True
    made = config(tmp_path / "run", parts, {"actor": ADAMW, "critic": ADAMW}, objective="actor_critic")
    trainer = ready(made, Console(quiet=True))
    curve = _tested(trainer, tested, LrRange(1e-6, 1e-5, 12))
    assert (max(curve.losses) < 0.2) == (tested == "actor")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--component=frist"], "--component: there is no component 'frist'; did you mean 'first'?"),
        (["--component=first", "--model.components.first.freeze=true"], "first is frozen"),
        (["--component=first", "--from=1", "--to=0.1"], "--from, --to: must be above 0, and --from below --to"),
        (["--component=first", "--from=0"], "--from, --to"),
        (["--component=first", "--to=inf"], "--from, --to"),
        (["--component=first", "--updates=3"], "--updates: must be at least 12; got 3"),
        (["--component=first", "--out=x.gif"], "--out: must end in .png, .svg or .pdf; got x.gif"),
        (["--component=first", "--out=missing/x.png"], "--out: there is no directory missing"),
    ],
)
def test_a_mistake_is_refused_before_training(tmp_path, cli, arguments, message):
    code, printed = cli("lr-find", written(tmp_path), *arguments)
    assert code == 2
    assert message in printed
    assert not (tmp_path / "run").exists()


def test_a_moving_average_has_no_lr(tmp_path):
    from trainer import load_config
    from trainer.lr_finder import find_lr

    parts = {**MLPS, "slow": {"ema_of": "second", "tau": 0.1}}
    made = load_config(config(tmp_path / "run", parts, {"first": ADAMW, "second": ADAMW}))
    with pytest.raises(ConfigError, match="slow is the moving average of second"):
        find_lr(made, "slow", LrRange(), None, Console(quiet=True))


def test_a_picture_is_written_on_request(tmp_path, cli):
    out = tmp_path / "curve.pdf"
    code, _ = cli("lr-find", written(tmp_path), "--component=first", "--updates=12", "--out", out)
    assert code == 0
    assert out.read_bytes().startswith(b"%PDF")
