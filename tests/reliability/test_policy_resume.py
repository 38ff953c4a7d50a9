"""Policies, killed at random updates and resumed in a new process: the same weights, state and metrics."""

import random
import time
from functools import partial

import pytest
import sample_lerobot_policies
import sample_policies
import sample_two_ways
import yaml
from conftest import ROOT, files_of, finish, metrics_of, needs, start

pytestmark = pytest.mark.slow

STEPS = 40
OFTEN = {"total_steps": STEPS, "save_every": 5, "eval_every": 8, "log_every": 1, "keep_best": {}}
ADAMW = {"type": "adamw", "params": {"lr": 1e-3}}
SCHEDULE_FREE = {"type": "schedule_free_radam", "params": {"lr": 1e-3}}
WARMUP = {"type": "adamw_warmup_cosine_decay", "params": {"peak_lr": 1e-3, "warmup_steps": 5}}
TRANSFORMS = [
    {"type": "kornia.augmentation.ColorJitter", "params": {"brightness": 0.3, "p": 1.0}},
    {"type": "kornia.augmentation.RandomCrop", "params": {"size": [96, 96], "padding": 8, "p": 1.0}},
]


def cloning(run):
    """Return the config of behaviour cloning on PushT: workers, random image transforms, and dropout."""
    head = {"action_dim": 2, "chunk": 8, "dim": 32, "depth": 1, "heads": 2, "dropout": 0.1}
    return {
        "data": {
            "type": "lerobot",
            "params": {
                "root": str(ROOT / "tests/data/pusht"),
                "n_obs_steps": 2,
                "chunk": 8,
                "held_out": 0.1,
                "image_transforms": TRANSFORMS,
                "cache_dir": str(run.parent / "cache"),
            },
            "batch_size": 8,
            "workers": 2,
        },
        "model": {
            "components": {
                "backbone": {"type": "conv_backbone", "params": {"width": 8, "keypoints": 8, "dim": 32}},
                "embedder": {"type": "mlp", "params": {"in_features": 2, "out_features": 32}},
                "head": {"type": "action_transformer", "params": head},
            },
            "component_optims": {"backbone": ADAMW, "embedder": SCHEDULE_FREE, "head": WARMUP},
        },
        "train": {
            "objective": {
                "type": "behaviour_cloning",
                "params": {
                    "wiring": [
                        "seen = backbone(observation.image)",
                        "felt = embedder(observation.state)",
                        "actions = head(seen, felt)",
                    ]
                },
            },
            "run_dir": str(run),
            "device": "cpu",
            **OFTEN,
        },
    }


def flow(run):
    """Return the config of flow matching, which draws noise and times; its head has cautious AdamW and dropout."""
    made = sample_two_ways.config(run)
    made["train"] |= OFTEN
    return made


def in_parts(run):
    """Return the config of a policy whose parts have different optimizers; one has dropout, and a frozen BatchNorm."""
    frozen = {"modules": sample_policies.PARTS["backbone"], "freeze": ["1"]}
    policy = {"params": {"dropout": 0.2}, "parts": {**sample_policies.PARTS, "backbone": frozen}}
    optims = {"policy": WARMUP, "backbone": SCHEDULE_FREE, "vae": {**ADAMW, "every": 2}}
    return sample_policies.policy_config(run, policy, optims, grad_clip_norm=0.1, **OFTEN)


def act(run):
    """Return the config of LeRobot's ACT in parts with three kinds of optimizers: dropout, and noise of its VAE."""
    optims = {"policy": {"type": "preset"}, "backbone": WARMUP, "vae": SCHEDULE_FREE}
    made = sample_lerobot_policies.config("act", run, optims, sample_lerobot_policies.PARTS["act"])
    made["data"]["params"] |= {"held_out": [7]}
    made["train"] |= OFTEN
    return made


def offline(run, name):
    """Return the config of offline reinforcement learning on the pendulum: targets, and TD3+BC's delayed actor."""
    made = yaml.safe_load((ROOT / f"configs/pendulum_{name}.yaml").read_text())
    made["data"]["params"]["path"] = str(ROOT / "configs/pendulum/transitions.npz")
    made["train"] = {"objective": made["train"]["objective"], "run_dir": str(run), "device": "cpu", **OFTEN}
    for optim in made["model"]["component_optims"].values():
        optim["params"] = {key: value for key, value in optim["params"].items() if key != "warmup_steps"}
    return {**made, "plugins": []}


CONFIGS = {
    "lerobot_act": pytest.param(act, marks=needs("lerobot")),
    "behaviour_cloning": pytest.param(cloning, marks=[needs("kornia"), needs("av"), needs("pyarrow")]),
    "flow_matching": flow,
    "in parts": in_parts,
    "iql": partial(offline, name="iql"),
    "td3_bc": partial(offline, name="td3_bc"),
}


def updates_of(run):
    """Return how many updates a run has logged so far."""
    metrics = run / "metrics.jsonl"
    return metrics.read_text().count('"split": "train"') if metrics.exists() else 0


def kill_at(process, run, update):
    """Kill a process without warning once its run has done an update; return whether it was alive then."""
    while updates_of(run) <= update and process.poll() is None:
        time.sleep(0.002)
    alive = process.poll() is None
    process.kill()
    process.communicate()
    return alive


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_policy_killed_at_random_updates_ends_as_the_uninterrupted_one(tmp_path, config):
    whole, run = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, run):
        folder.with_suffix(".yaml").write_text(yaml.safe_dump(config(folder)))
    finish(start("train", whole.with_suffix(".yaml")))
    moments = random.Random(0)
    kills = [moments.randrange(first, first + STEPS // 4) for first in range(0, STEPS - STEPS // 4, STEPS // 4)]
    process, hits = start("train", run.with_suffix(".yaml")), 0
    for update in kills:
        hits += kill_at(process, run, update)
        process = start("resume", run)
    assert "resuming after" in finish(process)
    assert hits == len(kills)
    for step in (35, STEPS):
        checkpoint = f"checkpoints/step_{step:08d}"
        assert files_of(run / checkpoint) == files_of(whole / checkpoint)
    assert metrics_of(run) == metrics_of(whole)
