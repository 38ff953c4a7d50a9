"""`load_run` of a policy: it acts as it did in training, without the demonstrations."""

import pytest
import sample_demonstrations
import sample_two_ways
import torch
from rich.console import Console
from sample_demonstrations import IMAGE, STATE, WIRING, policy_config

from trainer import ConfigError, load_config, load_run, train
from trainer.offline_trainer import OfflineTrainer

QUIET = Console(quiet=True)


def observations(steps, environments=2):
    """Return observations as a simulator gives them, one for each time step."""
    generator = torch.Generator().manual_seed(3)
    frames = torch.randint(0, 256, (steps, environments, 3, 8, 8), generator=generator, dtype=torch.uint8)
    states = torch.randn(steps, environments, 3, generator=generator)
    return [{STATE: state, IMAGE: frame} for state, frame in zip(states, frames, strict=True)]


def acted(actor, seen):
    torch.manual_seed(5)  # a policy may draw random numbers
    actor.reset()
    return torch.stack([actor.act(observation) for observation in seen])


CLONING = ("demonstrations", policy_config, observations(7))
FLOW = ("two_ways", sample_two_ways.config, [{STATE: torch.ones(2, 2) * step} for step in range(7)])


@pytest.mark.parametrize(("data", "config", "seen"), [CLONING, FLOW], ids=["behaviour_cloning", "flow_matching"])
def test_a_loaded_policy_acts_as_the_one_that_was_trained(tmp_path, monkeypatch, data, config, seen):
    train(config(tmp_path / "run"), console=QUIET)
    trainer = OfflineTrainer(load_config(tmp_path / "run/config.yaml"), QUIET, resumed=True)
    trainer.restore(tmp_path / "run/checkpoints/step_00000012")
    expected = acted(trainer.objective.actor(trainer.components.eval()), seen)

    def gone(self):
        raise AssertionError("the data set is built")

    module = sample_demonstrations if data == "demonstrations" else sample_two_ways
    cls = next(
        value for value in vars(module).values() if getattr(value, "__name__", "") in ("Demonstrations", "TwoWays")
    )
    monkeypatch.setattr(cls, "__init__", gone)
    loaded = load_run(tmp_path / "run")
    assert loaded.policy.features == trainer.objective.features
    torch.testing.assert_close(acted(loaded.actor(), seen), expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0


def test_two_actors_of_a_run_share_no_memory(tmp_path):
    train(policy_config(tmp_path / "run"), console=QUIET)
    loaded, seen = load_run(tmp_path / "run"), observations(4)
    alone = acted(loaded.actor(), seen)
    first, second = loaded.actor(), loaded.actor()
    for observation, action in zip(seen, alone, strict=True):
        second.act({name: value.flip(0) for name, value in observation.items()})
        assert torch.equal(first.act(observation), action)


def test_the_actions_that_are_carried_out_can_be_chosen(tmp_path):
    train(policy_config(tmp_path / "run"), console=QUIET)
    seen = observations(4)
    every_step = load_run(tmp_path / "run", overrides={"train.objective.params.n_action_steps": 1})
    actions, chunks = acted(every_step.actor(), seen), acted(load_run(tmp_path / "run").actor(), seen)
    assert torch.equal(actions[0], chunks[0])
    assert not torch.equal(actions[1], chunks[1])
    assert torch.equal(actions[3], chunks[3])


def test_an_override_that_the_saved_state_contradicts_is_refused(tmp_path):
    train(policy_config(tmp_path / "run"), console=QUIET)
    path = "train.objective.params"
    with pytest.raises(ConfigError, match=rf"modes: saved .*'{STATE}': 'MEAN_STD'.*now .*'{STATE}': 'MIN_MAX'"):
        load_run(tmp_path / "run", overrides={f"{path}.normalization_mapping": {"STATE": "MIN_MAX"}})
    wiring = ["seen = backbone(observation.effort)", *WIRING[1:]]
    with pytest.raises(ConfigError, match=f"of a policy of {IMAGE}, {STATE}, action; the options name .*effort"):
        load_run(tmp_path / "run", overrides={f"{path}.wiring": wiring})
    with pytest.raises(ConfigError, match=rf"{path}\.n_action_steps: must be at most 3, .* got 4"):
        load_run(tmp_path / "run", overrides={f"{path}.n_action_steps": 4}).actor()


def test_the_commands_on_checkpoints_take_the_run_of_a_policy(tmp_path, cli):
    run = tmp_path / "run"
    train(policy_config(run, save_every=6), console=QUIET)
    code, inspected = cli("checkpoint", "inspect", run)
    assert code == 0
    (state,) = (line for line in inspected.splitlines() if line.startswith("state of objective: 6 tensors"))
    assert len(state) < 400
    code, compared = cli("checkpoint", "diff", run / "checkpoints/step_00000006", run)
    assert (code, "state of objective: identical" in compared) == (1, True)
    for command in (
        ["verify", run],
        ["export", run, "--out", tmp_path / "all.safetensors"],
        ["convert", run, tmp_path / "torch", "--to", "torch"],
    ):
        assert cli("checkpoint", *command)[0] == 0
