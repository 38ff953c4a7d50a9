"""What `iql` and `td3_bc` share: acting, normalization, the components by name, and what is refused."""

import math
import re

import numpy as np
import pytest
import torch
from conftest import metrics_of
from sample_transitions import COMPONENTS, SGD, arrays, network, rl_config, trainer_of, write
from torch import nn

from trainer import MODEL_REGISTRY, ConfigError, load_run, train

BOTH = pytest.mark.parametrize("objective", ["iql", "td3_bc"])


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "data.npz")


def refused(config):
    with pytest.raises(ConfigError) as caught:
        trainer_of(config)
    return str(caught.value)


@BOTH
def test_a_trained_run_acts_in_the_units_of_the_data(tmp_path, path, objective):
    train(rl_config(tmp_path / "run", path, objective))
    obs = torch.from_numpy(arrays()["obs"]).float()
    policy = load_run(tmp_path / "run").actor()
    actions = policy.act({"observation.state": obs})
    state = (obs - obs.mean(0)) / (obs.std(0, correction=0) + 1e-3)
    actor = load_run(tmp_path / "run").components["actor"]
    low, high = (torch.from_numpy(getattr(arrays()["action"], end)(0)) for end in ("min", "max"))
    torch.testing.assert_close(actions, (actor(state).detach() + 1) / 2 * (high - low) + low)


@BOTH
def test_actions_stay_within_those_of_the_data(tmp_path, path, objective):
    components = {**COMPONENTS[objective], "actor": network(3, 2)}
    trainer = trainer_of(rl_config(tmp_path / "run", path, objective, components=components))
    with torch.no_grad():
        trainer.components["actor"].layers[-1].bias.copy_(torch.tensor([50.0, -50.0]))
    observation = {"observation.state": torch.zeros(4, 1, 3)}
    actions = trainer.objective.actions(trainer.components, observation)
    low, high = arrays()["action"].min(0), arrays()["action"].max(0)
    np.testing.assert_allclose(actions[:, 0].detach(), [[high[0], low[1]]] * 4, rtol=1e-6)


def test_modes_of_normalization_are_options(tmp_path):
    path = write(tmp_path / "data.npz", action=np.tanh(arrays()["action"]))
    params = {"normalization_mapping": {"STATE": "IDENTITY", "action": "IDENTITY"}}
    trainer = trainer_of(rl_config(tmp_path / "run", path, "iql", params=params))
    t = trainer.objective.transition(trainer.data.train.batch(torch.arange(20)))
    np.testing.assert_array_equal(t.state[0], arrays()["obs"].astype(np.float32))
    np.testing.assert_array_equal(t.next_state[0], arrays()["next_obs"])
    np.testing.assert_array_equal(t.action, np.tanh(arrays()["action"]))


def test_components_may_have_other_names(tmp_path, path):
    components = {
        "pi": network(3, 2, tanh=True),
        "v": network(3, 1),
        "q": network(5, 1),
        "slow": {"ema_of": "q", "tau": 0.1},
    }
    params = {"actor": "pi", "value": "v", "critics": ["q"], "target_critics": ["slow"]}
    trainer = trainer_of(rl_config(tmp_path / "run", path, "iql", params=params, components=components))
    trainer.run()
    assert trainer.updater.turns == {"pi": 6, "v": 6, "q": 6}


@BOTH
@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("target_critic_1", ["'target_critic_1'", "target_critic_1: {ema_of: critic_1, tau: 0.005}"]),
        ("actor", ["'actor'", "in_features: 3, out_features: 2", "tanh: true"]),
        ("critic_2", ["'critic_2'", "critic_2: {type: mlp", "in_features: 5, out_features: 1"]),
    ],
)
def test_a_component_that_is_missing_is_named_with_a_line_to_add(tmp_path, path, objective, missing, words):
    components = {
        name: entry
        for name, entry in COMPONENTS[objective].items()
        if name != missing and entry.get("ema_of") != missing
    }
    found = refused(rl_config(tmp_path / "run", path, objective, components=components))
    assert "model.components" in found
    for word in words:
        assert word in found


def test_components_in_no_role_or_in_two_are_refused(tmp_path, path):
    components = {**COMPONENTS["iql"], "encoder": network(3, 2)}
    assert "model.components.encoder: IQL does not use it" in refused(
        rl_config(tmp_path / "run", path, "iql", components=components)
    )
    params = {"critics": ["critic_1", "critic_1"]}
    assert "'critic_1' is named twice" in refused(rl_config(tmp_path / "run", path, "iql", params=params))
    params = {"critics": ["critic_1"]}
    assert "target_critics: must be one for each" in refused(rl_config(tmp_path / "run", path, "iql", params=params))


@BOTH
@pytest.mark.parametrize(
    ("entry", "found"),
    [
        (network(5, 1), "it is not"),
        ({**network(5, 1), "freeze": True}, "it is not"),
        ({"ema_of": "critic_2", "tau": 0.1}, "it is one of critic_2"),
    ],
)
def test_a_target_that_is_not_the_average_of_its_critic_is_refused(tmp_path, path, objective, entry, found):
    components = {**COMPONENTS[objective], "target_critic_1": entry}
    message = refused(rl_config(tmp_path / "run", path, objective, components=components))
    assert f"model.components.target_critic_1: must be a moving average of critic_1; {found}." in message
    assert "Write target_critic_1: {ema_of: critic_1, tau: 0.005}" in message


@BOTH
def test_a_critic_that_is_stepped_more_rarely_is_refused(tmp_path, path, objective):
    config = rl_config(tmp_path / "run", path, objective, optims={"critic_2": {**SGD, "every": 2}})
    assert "model.component_optims.critic_2.every: must be 1" in refused(config)
    assert not (tmp_path / "run").exists()


@BOTH
@pytest.mark.parametrize(
    ("name", "entry", "words"),
    [
        ("actor", network(3, 1), ["model.components.actor", "must return the actions, [2, 2]; got [2, 1]"]),
        ("critic_1", network(5, 3), ["critic_1: must return one number a sample", "[2, 1]; got [2, 3]"]),
        ("critic_1", network(3, 1), ["critic_1", "fails on an input of shape [2, 3], [2, 2]"]),
    ],
)
def test_sizes_that_do_not_fit_are_refused(tmp_path, path, objective, name, entry, words):
    components = {**COMPONENTS[objective], name: entry}
    found = refused(rl_config(tmp_path / "run", path, objective, components=components))
    for word in words:
        assert word in found


@MODEL_REGISTRY.register("other_output")
class OtherOutput(nn.Module):
    """A linear layer whose output `kind` puts into something else."""

    def __init__(self, kind: str, size: int = 3) -> None:
        super().__init__()
        self.kind, self.linear = kind, nn.Linear(size, 2 if size == 3 else 1)

    def forward(self, *inputs):
        y = self.linear(torch.cat(inputs, dim=1))
        kinds = {"three": (y, y, y), "one": (y,), "dict": {"mean": y}, "none": None, "text": (y, "std")}
        return {**kinds, "pair": (y, y), "wide": (y, torch.zeros(4, 1, 1))}[self.kind]


@BOTH
@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("actor", "three", "(mean, log_std); got a tuple of 3"),
        ("actor", "one", "(mean, log_std); got a tuple of 1"),
        ("actor", "dict", "(mean, log_std); got a dict"),
        ("actor", "none", "(mean, log_std); got a NoneType"),
        ("actor", "text", "(mean, log_std); got a tuple of 2"),
        ("critic_1", "pair", "must return one number a sample; got a tuple of 2"),
    ],
)
def test_outputs_that_are_something_else_are_refused(tmp_path, path, objective, name, kind, words):
    params = {"kind": kind, "size": 3 if name == "actor" else 5}
    components = {**COMPONENTS[objective], name: {"type": "other_output", "params": params}}
    found = refused(rl_config(tmp_path / "run", path, objective, components=components))
    assert re.search(rf"model\.components\.(target_)?{name}: ", found)
    assert words in found


def test_a_log_std_that_does_not_fit_the_actions_is_refused(tmp_path, path):
    components = {**COMPONENTS["iql"], "actor": {"type": "other_output", "params": {"kind": "wide"}}}
    found = refused(rl_config(tmp_path / "run", path, "iql", components=components))
    assert "model.components.actor: log_std must fit the actions, [2, 2]; got [4, 1, 1]" in found


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"normalization_mapping": {"ACTION": "MEAN_STD"}}, ["mode of the action must be MIN_MAX or IDENTITY"]),
        ({"normalization_mapping": {"ACTION": "IDENTITY"}}, ["must be MIN_MAX", "the data's actions are from"]),
        ({"normalization_mapping": {"STAT": "IDENTITY"}}, ["normalization_mapping.STAT", "did you mean 'STATE'"]),
        ({"observations": ["observation.stat"]}, ["'observation.stat'", "did you mean 'observation.state'"]),
        ({"expectile": 1.0}, ["expectile", "less than 1"]),
        ({"temperature": -1}, ["temperature"]),
        ({"discount": 1.1}, ["discount", "less than or equal to 1"]),
        ({"max_weight": 0}, ["max_weight"]),
        ({"critics": []}, ["critics"]),
        ({"beta": 3.0}, ["beta"]),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, path, params, words):
    found = refused(rl_config(tmp_path / "run", path, "iql", params=params))
    for word in ["train.objective.params" if "observations" not in params else "data", *words]:
        assert word in found


def test_data_without_rewards_are_refused(tmp_path, path):
    config = rl_config(tmp_path / "run", path, "iql", data={"type": "demonstrations", "params": {}})
    config["plugins"] = ["sample_demonstrations"]
    found = refused(config)
    assert "IQL learns from transitions" in found
    assert "`transitions`" in found


@BOTH
def test_accumulation_is_refused_as_losses_depend_on_steps_of_the_same_update(tmp_path, path, objective):
    found = refused(rl_config(tmp_path / "run", path, objective, accumulate=2))
    assert "train.accumulate: must be 1; got 2" in found
    assert "depends on the steps before it" in found


@BOTH
@pytest.mark.parametrize("options", [{"precision": "bf16"}, {"grad_clip_norm": 0.1}, {"precision": "fp16"}])
def test_it_trains_with(tmp_path, path, objective, options):
    trainer = trainer_of(rl_config(tmp_path / "run", path, objective, **options))
    trainer.run()
    lines = metrics_of(tmp_path / "run")
    assert len(lines) == 6
    assert all(math.isfinite(line["loss"]) for line in lines)


@BOTH
def test_an_update_of_values_that_are_not_finite_is_skipped(tmp_path, path, objective):
    config = rl_config(tmp_path / "run", path, objective, on_nonfinite="skip")
    config["model"]["component_optims"]["critic_1"] = {**SGD, "params": {"lr": 1e30}}
    trainer = trainer_of(config)
    trainer.run()
    assert trainer.updater.skipped["critic_1"] >= 1
    for component in trainer.components.values():
        assert all(parameter.isfinite().all() for parameter in component.parameters())


def test_behaviour_cloning_learns_from_transitions_and_acts(tmp_path, path):
    config = rl_config(
        tmp_path / "run",
        path,
        "behaviour_cloning",
        params={"wiring": ["actions = actor(observation.state)"], "loss": "mse"},
        components={"actor": network(3, 2)},
        optims={"actor": {"type": "adam", "params": {"lr": 0.02}}},
        total_steps=60,
    )
    train(config)
    losses = [line["loss"] for line in metrics_of(tmp_path / "run")]
    assert losses[-1] < 0.8 * losses[0]
    policy = load_run(tmp_path / "run").actor()
    assert policy.act({"observation.state": torch.zeros(5, 3)}).shape == (5, 2)


def test_several_inputs_of_an_mlp_are_joined():
    from trainer.builtins.modules import MLP

    module, one, two = MLP(5, 1, [4], activation="relu", tanh=True), torch.randn(7, 2), torch.randn(7, 3)
    assert torch.equal(module(one, two), module(torch.cat([one, two], dim=1)))
    hidden = torch.relu(module.layers[0](torch.cat([one, two], dim=1)))
    torch.testing.assert_close(module(one, two), torch.tanh(module.layers[2](hidden)))
