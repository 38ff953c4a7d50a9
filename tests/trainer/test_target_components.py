"""Components that are a moving average of another one: `ema_of` and `tau`."""

import io
import json

import pytest
import sample_averages
import sample_faulty_parts  # noqa: F401
import torch
from conftest import files_of
from rich.console import Console
from safetensors.torch import load_file, save_file
from sample_runs import ADAMW, MLPS, config, drop, ready

from trainer import ConfigError, load_run, resume, train
from trainer.config.load import load_config
from trainer.loop.averaged_weights import MovingAverages

CRITIC = {"type": "normed", "params": {"dropout": 0.1}}
TARGET = {"ema_of": "critic", "tau": 0.125}


@pytest.fixture
def printed():
    return Console(file=io.StringIO(), width=1000)


def averaged(run, critic=CRITIC, target=TARGET, optim=ADAMW, objective="bootstrapped", params=None, **changed):
    components = {"target": target, "critic": critic}
    made = config(run, components, {"critic": optim}, objective=objective, **changed)
    made["plugins"].append("sample_averages")
    made["train"]["objective"]["params"] = params or {}
    return made


def tensors(component):
    return {name: tensor.clone() for name, tensor in component.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


SETTINGS = {
    "plain": {},
    "every": {"optim": {**ADAMW, "every": 3}},
    "accumulate": {"accumulate": 2},
    "several_steps": {"params": {"steps": 3}},
    "clipped": {"grad_clip_norm": 0.1},
    "half": {"precision": "bf16"},
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_target_is_the_average_over_the_steps_of_its_source(tmp_path, printed, setting):
    trainer = ready(averaged(tmp_path / "run", **SETTINGS[setting]), printed)
    assert same(tensors(trainer.components["critic"]), tensors(trainer.components["target"]))
    twin = sample_averages.SlowTwin(trainer.components["critic"], trainer.optimizers["critic"], lambda _: 0.125)
    trainer.run()
    assert twin.steps == {"every": 4, "several_steps": 36}.get(setting, 12)
    assert twin.differing(dict(trainer.components["target"].named_parameters())) == []
    assert twin.differing(dict(trainer.components["critic"].named_parameters()))


def test_a_step_that_is_left_out_moves_no_target(tmp_path, printed):
    made = config(tmp_path / "run", {**MLPS, "third": {"ema_of": "first", "tau": 0.5}}, {}, objective="faulty")
    made["model"]["component_optims"] = {"first": ADAMW, "second": ADAMW}
    made["plugins"].append("sample_faulty_parts")
    made["train"]["objective"]["params"] = {"way": "nan_loss", "at": [2, 3, 7], "where": "loss"}
    made["train"]["on_nonfinite"] = "skip"
    trainer = ready(made, printed)
    moves = []
    trainer.averages.follow = moves.append
    trainer.run()
    assert moves == ["first", "second"] * 9


def test_a_step_that_the_loss_scale_leaves_out_moves_no_target(tmp_path, printed):
    optim = {"type": "adamw", "params": {"lr": 1e-2, "implementation": "foreach"}}
    for rule in ("stop", "continue"):
        trainer = ready(averaged(tmp_path / rule, optim=optim, precision="fp16", on_nonfinite=rule), printed)
        trainer.updater._scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=4)
        twin = sample_averages.SlowTwin(trainer.components["critic"], trainer.optimizers["critic"], lambda _: 0.125)
        moves, move = [], trainer.averages.follow
        trainer.averages.follow = lambda name, moves=moves, move=move: (moves.append(name), move(name))
        trainer.run()
        assert 0 < twin.steps < 12
        assert len(moves) == twin.steps
        assert twin.differing(dict(trainer.components["target"].named_parameters())) == []


def test_buffers_are_averaged_copied_or_left(tmp_path, printed):
    trainer = ready(averaged(tmp_path / "run", critic={"type": "every_buffer"}), printed)
    critic, target = trainer.components["critic"], trainer.components["target"]
    mean, move = torch.zeros(4), MovingAverages.follow

    def follow(self, name):
        move(self, name)
        mean.copy_(mean.lerp(critic.mean, 0.125))

    trainer.averages.follow = follow.__get__(trainer.averages)
    trainer.run()
    assert torch.equal(target.mean, mean)
    assert not torch.equal(target.mean, critic.mean)
    assert int(target.calls) == int(critic.calls) == 12
    assert target.mask.tolist() == [0.0, float("-inf"), 0.0, 0.0]
    assert target.lowest.isfinite().all()  # it was infinite at the start
    assert target.cache.tolist() == [0.0] * 4


def test_statistics_of_batch_norm_are_averaged(tmp_path, printed):
    trainer = ready(averaged(tmp_path / "run", total_steps=1), printed)
    critic, target = trainer.components["critic"].norm, trainer.components["target"].norm
    trainer.run()
    assert torch.equal(target.running_mean, torch.zeros(4).lerp(critic.running_mean, 0.125))
    assert int(target.num_batches_tracked) == 1


def test_a_target_starts_at_what_its_source_loaded_and_prepare_made_of_it(tmp_path, printed):
    torch.manual_seed(5)
    weights = {"linear.weight": torch.randn(4, 4), "linear.bias": torch.randn(4)}
    save_file(weights, tmp_path / "saved.safetensors")
    init = {"path": str(tmp_path / "saved.safetensors"), "strict": False}
    trainer = ready(averaged(tmp_path / "loaded", critic={**CRITIC, "init_from": init}), printed)
    assert torch.equal(trainer.components["target"].linear.weight, weights["linear.weight"])
    made = averaged(tmp_path / "widened", objective="widening", params={"both": True})
    trainer = ready(made, printed)
    assert same(tensors(trainer.components["critic"]), tensors(trainer.components["target"]))
    assert trainer.components["target"].linear[0].out_features == 6
    with pytest.raises(ConfigError, match=r"^model\.components\.target\.ema_of: .*If the objective's prepare changes"):
        ready(averaged(tmp_path / "one", objective="widening"), printed)


def test_a_target_of_lazy_layers_has_the_weights_of_its_source(tmp_path, printed):
    made = averaged(tmp_path / "run", critic={"type": "sample_trouble_parts.LazyLayers"}, objective="critic_alone")
    trainer = ready(made, printed)
    assert same(tensors(trainer.components["target"]), tensors(trainer.components["critic"]))
    train(made, console=printed, overwrite=True)
    loaded = load_run(tmp_path / "run").components
    assert loaded["target"].head.out_features == 4
    assert not same(tensors(loaded["target"]), tensors(loaded["critic"]))


def test_a_target_is_saved_resumed_and_loaded_elsewhere(tmp_path, printed):
    for run in ("whole", "parts"):
        train(averaged(tmp_path / run, save_every=5, eval_every=4), console=printed)
    drop(tmp_path / "parts/checkpoints/step_00000012")
    drop(tmp_path / "parts/checkpoints/step_00000010")
    resume(tmp_path / "parts", console=printed)
    whole, parts = (files_of(tmp_path / run / "checkpoints/step_00000012") for run in ("whole", "parts"))
    assert whole == parts
    saved = load_file(tmp_path / "whole/checkpoints/step_00000012/target/model.safetensors")
    assert not (tmp_path / "whole/checkpoints/step_00000012/target/optimizer.json").exists()
    assert same(tensors(load_run(tmp_path / "whole").components["target"]), saved)
    made = config(tmp_path / "next", {"first": {**CRITIC, "init_from": f"{tmp_path / 'whole'}:target"}}, {})
    made["model"]["component_optims"] = {"first": ADAMW}
    assert same(tensors(ready(made, printed).components["first"]), saved)


def test_the_plan_names_source_and_tau(tmp_path, cli):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(averaged(tmp_path / "run")))
    _, plan = cli("plan", path)
    assert "average of critic, tau 0.125" in plan


def test_a_resume_with_another_tau_is_a_changed_config(tmp_path, printed):
    train(averaged(tmp_path / "run", save_every=4), console=printed)
    checkpoint = tmp_path / "run/checkpoints/step_00000004"
    with pytest.raises(ConfigError, match=r"model\.components\.target\.tau: saved 0\.125, now 0\.5"):
        resume(checkpoint, {"model.components.target.tau": 0.5}, console=printed)
    resume(checkpoint, {"model.components.target.tau": 0.5, "resume.on_change": "override"}, console=printed)


REFUSED = {
    "no_tau": ({"ema_of": "critic"}, r"target\.tau: required with ema_of"),
    "no_source": ({"ema_of": "critc", "tau": 0.1}, r"target\.ema_of: there is no other component .* 'critic'\?"),
    "itself": ({"ema_of": "target", "tau": 0.1}, r"target\.ema_of: there is no other component"),
    "tau_of_nothing": ({"type": "normed", "freeze": True, "tau": 0.1}, r"target\.tau: needs ema_of"),
    "mover_of_nothing": (
        {"type": "normed", "freeze": True, "moves_with": "critic"},
        r"target\.moves_with: needs ema_of",
    ),
    "no_mover": (
        {**TARGET, "moves_with": "critc"},
        r"target\.moves_with: must be a component that trains.* 'critic'\?",
    ),
    "moved_with_itself": ({**TARGET, "moves_with": "target"}, r"target\.moves_with: must be a component that trains"),
    "large": ({"ema_of": "critic", "tau": 1.5}, r"target\.tau: must be less than or equal to 1; got 1\.5"),
    "zero": ({"ema_of": "critic", "tau": 0}, r"target\.tau: must be greater than 0; got 0"),
    "trained": ({**TARGET, "freeze": False}, r"target\.freeze: must be true or left out"),
    "in_part": ({**TARGET, "freeze": ["linear"]}, r"target\.freeze: must be true or left out"),
    "loaded": ({**TARGET, "init_from": "RUN"}, r"target\.init_from: cannot be given with ema_of"),
    "other_type": ({**TARGET, "type": "every_buffer"}, r"target\.(type|params)"),
    "other_params": ({**TARGET, "params": {"dropout": 0.2}}, r"target\.params: must be that of critic"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_entry_that_contradicts_itself_is_refused(tmp_path, case):
    target, message = REFUSED[case]
    with pytest.raises(ConfigError, match=rf"model\.components\.{message}"):
        load_config(averaged(tmp_path / "run", target=target))


@pytest.mark.parametrize("critic", [None, {"params": {}}])
def test_a_source_that_is_not_valid_is_named_itself(tmp_path, critic):
    with pytest.raises(
        ConfigError, match=r"model\.components\.critic(\.type)?: (must be a mapping|required)"
    ) as caught:
        load_config(averaged(tmp_path / "run", critic=critic))
    assert "no other component" not in str(caught.value)


def test_only_a_component_that_trains_can_be_averaged(tmp_path, printed):
    for critic, message in (
        ({**CRITIC, "freeze": True}, "critic is frozen"),
        ({"type": "low_precision"}, r"ema_of: an average of critic would stand still.*: linear\.weight, linear\.bias"),
    ):
        with pytest.raises(ConfigError, match=rf"model\.components\.target\.ema_of: .*{message}|{message}"):
            ready(averaged(tmp_path / critic["type"], critic=critic), printed)
    made = averaged(tmp_path / "run")
    made["model"]["components"]["second"] = {"ema_of": "target", "tau": 0.1}
    with pytest.raises(ConfigError, match=r"second\.ema_of: target is an average of critic itself: take critic"):
        load_config(made)


def two_and_a_target(run, **target):
    """Return a run of two MLPs with one loss, and of an average of the second that moves with the first."""
    entry = {"ema_of": "second", "tau": 0.125, "moves_with": "first", **target}
    optims = {"first": {**ADAMW, "every": 2}, "second": ADAMW}
    return config(run, {**MLPS, "third": entry}, optims, objective="regression")


def test_a_target_moves_with_another_component_at_the_weights_after_the_update(tmp_path, printed):
    trainer = ready(two_and_a_target(tmp_path / "run"), printed)
    second, average = trainer.components["second"], tensors(trainer.components["third"])
    end = trainer.updater.step

    def step(loss, *names):
        end(loss, *names)
        if trainer.updater.update % 2 == 0:
            for name, weight in second.named_parameters():
                average[name].lerp_(weight.detach(), 0.125)

    trainer.updater.step = step
    trainer.run()
    assert same(tensors(trainer.components["third"]), average)


def test_a_component_that_moves_a_target_must_train(tmp_path, printed):
    made = two_and_a_target(tmp_path / "run")
    made["model"]["components"]["first"]["freeze"] = ["*"]
    with pytest.raises(ConfigError, match=r"components\.third\.moves_with: first has no parameters that train"):
        ready(made, printed)


def test_the_plan_names_the_component_that_moves_a_target(tmp_path, cli):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(two_and_a_target(tmp_path / "run")))
    assert "average of second, tau 0.125, moves with first" in cli("plan", path)[1]
