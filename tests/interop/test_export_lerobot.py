"""`innerstep export --to lerobot`: LeRobot loads the folder, and acts as the run does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import needs
from rich.console import Console
from safetensors.torch import load_file
from sample_lerobot_policies import PARTS, config, lerobot_config, lerobot_data

from trainer import load_run, train

pytestmark = [needs("lerobot"), pytest.mark.filterwarnings("ignore")]  # LeRobot's libraries warn of much

QUIET = Console(quiet=True)
PARTS_OF_ACT = {name: {"modules": [modules]} for name, modules in PARTS["act"].items()}
OPTIMS = {
    "policy": {"type": "adamw", "params": {"lr": 1e-3}},
    "backbone": {"type": "sgd", "params": {"lr": 1e-3}},
    "vae": {"type": "adamw", "params": {"lr": 1e-4}},
}


def act_config(run, **policy):
    """Return the config of a run of ACT in three parts, each with its own optimizer."""
    made = config("act", run, OPTIMS, PARTS_OF_ACT, total_steps=3)
    made["train"].setdefault("objective", {"type": "lerobot_policy"})
    made["model"]["policy"].update(policy)
    return made


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    made = act_config(tmp_path_factory.mktemp("act") / "run")
    train(made, console=QUIET)
    return Path(made["train"]["run_dir"])


def observations(number, environments=3):
    """Return observations as a simulator gives them, one for each time step."""
    generator = torch.Generator().manual_seed(8)
    frames = torch.randint(0, 256, (number, environments, 3, 96, 96), generator=generator, dtype=torch.uint8)
    states = 500 * torch.rand(number, environments, 2, generator=generator)
    return [
        {"observation.image": frame, "observation.state": state} for frame, state in zip(frames, states, strict=True)
    ]


def lerobots_actions(folder, seen, key="act"):
    """Return the actions of LeRobot's policy and processors in a folder, as its evaluation uses them."""
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors

    policy = get_policy_class(key).from_pretrained(folder, strict=True)
    policy.to("cpu").eval()
    policy.config.device = "cpu"
    overrides = {"device_processor": {"device": "cpu"}}
    before, after = make_pre_post_processors(policy.config, str(folder), preprocessor_overrides=overrides)
    actions = []
    torch.manual_seed(3)  # some policies draw random numbers
    with torch.inference_mode():
        for observation in seen:
            frame = observation["observation.image"].float() / 255
            given = before({**observation, "observation.image": frame, "task": [""] * len(frame)})
            actions.append(after(policy.select_action(given)))
    return torch.stack(actions)


def test_lerobot_acts_as_the_run_does_with_the_exported_folder(run, tmp_path, cli):
    code, printed = cli("export", run, tmp_path / "out", "--to", "lerobot")
    assert code == 0, printed
    assert {"config.json", "model.safetensors", "policy_preprocessor.json", "policy_postprocessor.json"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }
    assert len({path.stat().st_mode for path in (tmp_path / "out").iterdir()}) == 1
    seen = observations(10)  # the second chunk of actions begins
    actor = load_run(run).actor()
    expected = torch.stack([actor.act(observation) for observation in seen])
    assert expected.std() > 0
    assert torch.equal(lerobots_actions(tmp_path / "out", seen), expected)


@pytest.mark.slow
def test_lerobot_acts_as_a_run_of_diffusion_in_parts_does(tmp_path, cli):
    parts = {name: {"modules": [modules]} for name, modules in PARTS["diffusion"].items()}
    optims = {name: {"type": "preset"} for name in ("policy", *parts)}
    train(config("diffusion", tmp_path / "run", optims, parts, total_steps=2), console=QUIET)
    code, printed = cli("export", tmp_path / "run", tmp_path / "out", "--to", "lerobot")
    assert code == 0, printed
    seen = observations(10)  # the second chunk of actions begins
    theirs = lerobots_actions(tmp_path / "out", seen, "diffusion")
    actor = load_run(tmp_path / "run").actor()
    torch.manual_seed(3)
    assert torch.equal(theirs, torch.stack([actor.act(observation) for observation in seen]))


def test_a_checkpoint_of_lerobots_is_trained_in_parts_and_goes_back(tmp_path, cli):
    from lerobot.policies.factory import make_policy, make_pre_post_processors

    made = lerobot_config("act")
    data = lerobot_data(made)
    policy = make_policy(made, ds_meta=data.meta)
    policy.save_pretrained(tmp_path / "theirs")
    for processor in make_pre_post_processors(made, dataset_stats=data.meta.stats):
        processor.save_pretrained(tmp_path / "theirs")
    run = tmp_path / "run"
    settings = act_config(run)
    settings["model"]["policy"] = {"path": str(tmp_path / "theirs"), "parts": PARTS_OF_ACT}
    train(settings, console=QUIET)
    code, printed = cli("export", run, tmp_path / "ours", "--to", "lerobot")
    assert code == 0, printed
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "ours"))
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {"model.backbone.conv1.weight", "model.vae_encoder_cls_embed.weight", "model.action_head.weight"} <= moved
    assert all((before[name] - after[name]).abs().max() < 0.02 for name in before)
    theirs, ours = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("theirs", "ours"))
    same = theirs.keys() - {"device", "push_to_hub"}
    assert {name: ours[name] for name in same} == {name: theirs[name] for name in same}
    seen = observations(3)
    actor = load_run(run).actor()
    expected = torch.stack([actor.act(observation) for observation in seen])
    assert torch.equal(lerobots_actions(tmp_path / "ours", seen), expected)


@pytest.mark.slow
def test_lerobots_own_evaluation_gives_the_rewards_of_innersteps(run, tmp_path, cli):
    pytest.importorskip("gym_pusht", reason="needs gym_pusht")
    assert cli("export", run, tmp_path / "out", "--to", "lerobot")[0] == 0
    options = [
        f"--policy.path={tmp_path / 'out'}",
        "--policy.device=cpu",
        *("--env.type=pusht", "--env.episode_length=20"),
        *("--eval.n_episodes=2", "--eval.batch_size=2", "--eval.use_async_envs=false", "--seed=1000"),
        f"--output_dir={tmp_path / 'evaluated'}",
    ]
    environment = {**os.environ, "SDL_VIDEODRIVER": "dummy", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    command = [str(Path(sys.executable).with_name("lerobot-eval")), *options]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    (task,) = json.loads((tmp_path / "evaluated/eval_info.json").read_text())["per_task"]
    code, printed = cli(
        *("evaluate", run, "--train.evaluation.type=gym", "--train.evaluation.params.id=gym_pusht:gym_pusht/PushT-v0"),
        "--train.evaluation.params.env={obs_type: pixels_agent_pos, observation_width: 96, observation_height: 96}",
        *("--train.evaluation.params.max_episode_steps=20", "--train.evaluation.n_episodes=2"),
        *("--train.evaluation.batch_size=2", "--train.evaluation.seed=1000"),
    )
    assert code == 0, printed
    rows = [line.split() for line in printed.splitlines() if line.strip().startswith("100")]
    assert [f"{reward:.4g}" for reward in task["metrics"]["sum_rewards"]] == [row[2] for row in rows]


def test_the_script_of_act_acts_as_lerobots_policy_does(run, tmp_path, cli):
    code, printed = cli("export", run, tmp_path / "out", "--to", "torch")
    assert code == 0, printed
    assert "bit for bit" in printed
    program = (tmp_path / "out/policy.py").read_text()
    assert "w['policy.model.backbone.conv1.weight']" in program
    assert "vae_encoder" not in program
