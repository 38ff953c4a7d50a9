"""`policy_loss`: the loss that a module computes itself, and its actions."""

import io

import pytest
import torch
from conftest import metrics_of
from rich.console import Console
from sample_demonstrations import ACTION, IMAGE, STATE, Demonstrations
from sample_policies import policy_config
from torch import nn

from trainer import ConfigError, TensorSplit, load_run, train
from trainer.config.entries import ObjectiveConfig
from trainer.config.load import load_config

QUIET = Console(file=io.StringIO())
POLICY = "sample_policies."


def cloning(run, cls="Chunks", data=None, policy=None, **train):
    """Return the config of a policy on demonstrations; `policy_loss` is not named in it."""
    raw = policy_config(run, {"type": POLICY + cls, **(policy or {})}, **train)
    raw["plugins"].append("sample_demonstrations")
    return raw | {"data": {"type": "demonstrations", "params": data or {}, "batch_size": 8}}


def objective(**params):
    return ObjectiveConfig(type="policy_loss", params=params).make("train.objective")


class Recorder(nn.Module):
    """Keeps the batches that it sees, and returns what it is given."""

    def __init__(self, returned=None):
        super().__init__()
        self.weight, self.seen, self.returned = nn.Parameter(torch.ones(1)), [], returned

    def forward(self, batch):
        self.seen.append(batch)
        return self.weight.sum() if self.returned is None else self.returned


def components_of(module):
    return nn.ModuleDict({"policy": module})


def test_the_module_sees_the_whole_batch_normalized():
    data, policy, module = Demonstrations(), objective(normalization_mapping={"STATE": "MIN_MAX"}), Recorder()
    policy.prepare(components_of(module), data)
    batch = data.train.batch(torch.tensor([0, 5, 11]))
    policy.losses(components_of(module), {**batch, "task": torch.ones(3)})
    (seen,) = module.seen
    assert seen.keys() == {*batch, "task"}
    low, high = data.statistics[STATE]["min"], data.statistics[STATE]["max"]
    assert torch.allclose(seen[STATE], (batch[STATE] - low) / (high - low) * 2 - 1, atol=1e-5)
    mean, std = data.statistics[ACTION]["mean"], data.statistics[ACTION]["std"]
    assert torch.allclose(seen[ACTION], (batch[ACTION] - mean) / (std + 1e-8), atol=1e-5)
    assert seen[IMAGE].dtype == torch.float32
    assert seen["action_is_pad"].dtype == torch.bool


def test_observations_have_a_dimension_of_time_only_if_the_samples_have_it():
    class Selecting(Recorder):
        def select_action(self, batch):
            self.seen.append(batch)
            return batch[STATE][:, :2]

    data, policy, module = Demonstrations(n_obs_steps=1, chunk=1), objective(), Selecting()
    data.train = TensorSplit({name: each[:, 0] for name, each in data.train.batch(torch.arange(48)).items()})
    policy.prepare(components_of(module), data)
    batch = data.train.batch(torch.tensor([3]))
    policy.losses(components_of(module), batch)
    loaded = objective()
    loaded.load_state_dict(policy.state_dict())
    action = loaded.actor(components_of(module)).act({name: batch[name] for name in data.features if name != ACTION})
    assert action.shape == (1, 2)
    trained, acting = module.seen
    assert all(torch.equal(trained[name], acting[name]) for name in acting)
    assert acting[STATE].shape == (1, 3)


RETURNED = {
    "a scalar": (lambda w: w.sum(), {}),
    "a tuple": (lambda w: (w.sum(), {"l1": 0.5, "kl": torch.tensor(2.0)}), {"l1": 0.5, "kl": 2.0}),
    "no metrics": (lambda w: (w.sum(), None), {}),
}


@pytest.mark.parametrize(("make", "metrics"), RETURNED.values(), ids=RETURNED)
def test_a_loss_comes_alone_or_with_metrics(make, metrics):
    module = Recorder()
    module.returned = make(module.weight)
    outcome = objective().losses(components_of(module), {"x": torch.ones(2, 1)})
    assert outcome.total.item() == 1.0
    assert outcome.measured() == metrics


def test_metrics_that_are_not_scalars_are_left_out_with_one_warning():
    module, made = Recorder(), objective()
    module.returned = (module.weight.sum(), {"l1": 0.5, "texts": ["a"], "many": torch.ones(3)})
    with pytest.warns(UserWarning, match="is left out") as caught:
        outcomes = [made.losses(components_of(module), {}) for _ in range(2)]
    assert [outcome.measured() for outcome in outcomes] == [{"l1": 0.5}] * 2
    texts, many = (str(warning.message) for warning in caught)
    assert "the metric 'texts' of its forward is left out" in texts
    assert "a tensor of shape [3]" in many


@pytest.mark.parametrize("returned", [torch.ones(3), {"loss": torch.ones(1)}, (torch.ones(()), 1.0), 0.5])
def test_anything_else_than_a_loss_is_refused(returned):
    with pytest.raises(ConfigError, match=r"model.policy: its forward\(batch\) must return a loss, a scalar tensor"):
        objective().losses(components_of(Recorder(returned)), {})


def test_the_modes_of_the_policy_are_those_of_its_objective(tmp_path):
    made = load_config(cloning(tmp_path / "run", policy={"normalization": {"STATE": "MIN_MAX"}}))
    assert made.train.objective.type == "policy_loss"
    assert made.train.objective.params == {"normalization_mapping": {"STATE": "MIN_MAX"}}
    raw = cloning(tmp_path / "run", policy={"normalization": {"STATE": "MIN_MAX"}})
    raw["train"]["objective"] = {"type": "policy_loss", "params": {"normalization_mapping": {"STATE": "IDENTITY"}}}
    with pytest.raises(ConfigError) as error:
        load_config(raw)
    assert "train.objective.params.normalization_mapping: is {'STATE': 'IDENTITY'}, and model.policy.normaliz" in str(
        error.value
    )


def test_the_modes_of_the_policy_reach_every_objective_that_takes_them(tmp_path):
    raw = cloning(tmp_path / "run", policy={"normalization": {"STATE": "MIN_MAX"}})
    for kind in ("Policy_Loss", "behaviour_cloning"):
        raw["train"]["objective"] = {"type": kind}
        assert load_config(raw).train.objective.params == {"normalization_mapping": {"STATE": "MIN_MAX"}}
    raw["train"]["objective"] = {"type": "classification"}
    with pytest.raises(ConfigError, match=r"train\.objective\.type: .*model\.policy\.normalization .* set it to null"):
        load_config(raw)
    raw["model"]["policy"]["normalization"] = None
    assert load_config(raw).train.objective.params == {}


@pytest.mark.parametrize("cls", ["Chunks", "Selects"])
def test_a_trained_policy_acts_in_the_units_of_the_data_without_it(tmp_path, cls):
    data = {"n_obs_steps": 1 if cls == "Selects" else 2}
    train(cloning(tmp_path / "run", cls, data, total_steps=60, eval_every=30), console=QUIET)
    lines = [line for line in metrics_of(tmp_path / "run") if line["split"] == "train"]
    assert lines[-1]["loss"] < lines[0]["loss"] / 2
    loaded = load_run(tmp_path / "run")
    samples, actor = Demonstrations(**data), loaded.actor()
    batch = samples.train.batch(torch.tensor([1, 14]))
    observation = {name: batch[name][:, -1] for name in samples.features if name != ACTION}
    actor.reset()
    actions = torch.stack([actor.act(observation) for _ in range(3)])
    assert actions.shape == (3, 2, 2)
    mean, std = samples.statistics[ACTION]["mean"], samples.statistics[ACTION]["std"]
    assert ((actions[0] - mean).abs() < 4 * std).all()
    module = loaded.components["policy"]
    assert module.calls == (3 if cls == "Selects" else 1)
    assert module.resets == (1 if cls == "Selects" else 0)


def test_a_policy_that_cannot_act_is_reported_when_it_must(tmp_path):
    train(cloning(tmp_path / "run", "Silent", total_steps=1), console=QUIET)
    actor = load_run(tmp_path / "run").actor()
    observation = {name: torch.zeros(1, *f.shape) for name, f in Demonstrations().features.items() if name != ACTION}
    with pytest.raises(ConfigError, match=r"to act, Silent needs a method predict_action_chunk\(batch\) or select_act"):
        actor.act(observation)


def test_a_policy_of_data_without_features_cannot_act(tmp_path):
    train(policy_config(tmp_path / "run", total_steps=1), console=QUIET)
    loaded = load_run(tmp_path / "run")
    loaded.components["policy"].select_action = lambda batch: batch["x"]
    with pytest.raises(ConfigError, match="to act, it needs a data set with features"):
        loaded.actor().act({"x": torch.zeros(1, 4)})


def test_misplaced_options_are_refused(tmp_path):
    raw = cloning(tmp_path / "run")
    raw["train"]["objective"] = {"type": "policy_loss", "params": {"wiring": ["a = b(c)"]}}
    with pytest.raises(ConfigError, match="wiring: must be left out"):
        train(raw, console=QUIET)
    raw["train"]["objective"]["params"] = {"normalization_mapping": {"observation.stat": "MIN_MAX"}}
    with pytest.raises(
        ConfigError, match=r"normalization_mapping.observation.stat: .* did you mean 'observation.state'"
    ):
        train(raw, console=QUIET)
    raw["model"] = {"components": {"net": {"type": "mlp"}}, "component_optims": {"net": {"type": "adamw"}}}
    raw["train"]["objective"]["params"] = {}
    with pytest.raises(ConfigError, match=r"policy_loss needs a model.policy"):
        train(raw, console=QUIET)


def test_without_a_policy_the_objective_is_required(tmp_path):
    raw = cloning(tmp_path / "run")
    raw["model"] = {"components": {"net": {"type": "mlp"}}, "component_optims": {}}
    with pytest.raises(ConfigError, match=r"train.objective: required, but not given"):
        load_config(raw)
    raw["model"] = {"policy": {"type": "no_such_policy"}}
    with pytest.raises(ConfigError) as error:
        load_config(raw)
    assert "train.objective" not in str(error.value)


@pytest.mark.parametrize(
    ("policy", "params", "words"),
    [
        ({"normalization": {"STAT": "MIN_MAX"}}, {}, r"normalization_mapping \(model.policy.normalization\): needs a"),
        ({}, {"n_action_steps": 2}, "train.objective.params.n_action_steps: needs a data set with features"),
    ],
)
def test_options_on_features_are_refused_for_data_without_them(tmp_path, policy, params, words):
    raw = policy_config(tmp_path / "run", policy, total_steps=1)
    raw["train"]["objective"] = {"type": "policy_loss", "params": params}
    with pytest.raises(ConfigError, match=words):
        train(raw, console=QUIET)
