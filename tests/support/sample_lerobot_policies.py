"""LeRobot's own training and evaluation of small policies on PushT, and the same as configs of innerstep."""

import zlib
from types import SimpleNamespace

import torch
from conftest import ROOT

PUSHT = ROOT / "tests/data/pusht"
EPISODES = [0, 7]
BATCH, UPDATES = 4, 20

PARAMS = {
    "act": {
        "chunk_size": 16,
        "n_action_steps": 8,
        "dim_model": 32,
        "n_heads": 2,
        "dim_feedforward": 48,
        "n_encoder_layers": 1,
        "n_vae_encoder_layers": 1,
        "latent_dim": 8,
        "pretrained_backbone_weights": None,
        "optimizer_lr": 1e-4,
    },
    "diffusion": {
        "horizon": 16,
        "n_action_steps": 8,
        "down_dims": [16, 32],
        "n_groups": 4,
        "diffusion_step_embed_dim": 16,
        "spatial_softmax_num_keypoints": 8,
        "crop_shape": [84, 84],
        "num_train_timesteps": 20,
        "pretrained_backbone_weights": None,
        "scheduler_warmup_steps": 5,
    },
}
PARTS = {
    "act": {"backbone": "model.backbone", "vae": "model.vae_encoder*"},
    "diffusion": {"unet": "diffusion.unet", "encoder": "diffusion.rgb_encoder"},
}
TIMES = {
    "act": {"chunk": 16},
    "diffusion": {"n_obs_steps": 2, "deltas": {"action": list(range(-1, 15))}},
}


def config(key, run, optims, parts=None, params=None, **train):
    """Return the config of a run whose batches are those of `losses_of_lerobot`; `params` are more of the policy's."""
    policy = {"type": f"lerobot.{key}", "params": {**PARAMS[key], **(params or {})}}
    data = {"root": str(PUSHT), "episodes": EPISODES, "cache_dir": str(run.parent / "cache"), **TIMES[key]}
    return {
        "seed": 0,
        "data": {"type": "lerobot", "params": data, "batch_size": BATCH},
        "model": {"policy": {**policy, "parts": parts or {}}, "component_optims": optims},
        "train": {"total_steps": UPDATES, "log_every": 1, "run_dir": str(run), "device": "cpu", **train},
    }


def lerobot_config(key, **more):
    """Return LeRobot's config object of a small policy."""
    from lerobot.policies.factory import make_policy_config

    return make_policy_config(key, **{**PARAMS[key], "device": "cpu", "push_to_hub": False, **more})


def lerobot_data(policy_config):
    """Return LeRobot's data set with the time steps that the policy asks for."""
    from lerobot.datasets import LeRobotDataset
    from lerobot.datasets.factory import IMAGENET_STATS, resolve_delta_timestamps

    plain = LeRobotDataset("innerstep/pusht", root=PUSHT, episodes=EPISODES, video_backend="pyav")
    times = resolve_delta_timestamps(policy_config, plain.meta)
    data = LeRobotDataset(
        "innerstep/pusht", root=PUSHT, episodes=EPISODES, delta_timestamps=times, video_backend="pyav"
    )
    for camera in data.meta.camera_keys:
        for name, value in IMAGENET_STATS.items():
            data.meta.stats[camera][name] = torch.tensor(value, dtype=torch.float32)
    return data


def losses_of_lerobot(key, **params):
    """Return the losses of updates by LeRobot's own classes and factories, and the policy after them.

    The first weights, the order of the samples and the random numbers are those of a run of innerstep with seed 0.
    """
    from lerobot.optim.factory import make_optimizer_and_scheduler
    from lerobot.policies.factory import make_policy, make_pre_post_processors

    from trainer.loop.batches import _epoch_order
    from trainer.runtime.rng import seed_all

    made = lerobot_config(key, **params)
    data = lerobot_data(made)
    torch.manual_seed(zlib.crc32(b"policy"))
    policy = make_policy(made, ds_meta=data.meta)
    preprocessor, _ = make_pre_post_processors(made, dataset_stats=data.meta.stats)
    preset = SimpleNamespace(
        optimizer=made.get_optimizer_preset(),
        scheduler=made.get_scheduler_preset(),
        steps=UPDATES,
        use_policy_training_preset=True,
    )
    optimizer, scheduler = make_optimizer_and_scheduler(preset, policy)
    order = _epoch_order(len(data), 0, 0).tolist()
    samples = {index: data[index] for index in order[: BATCH * UPDATES]}
    losses = []
    seed_all(0)
    policy.train()
    for update in range(UPDATES):
        chosen = [samples[index] for index in order[update * BATCH : (update + 1) * BATCH]]
        batch = preprocessor(torch.utils.data.default_collate(chosen))
        loss, _ = policy.forward(batch)  # from here as in lerobot.scripts.lerobot_train.update_policy
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), preset.optimizer.grad_clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        if scheduler is not None:
            scheduler.step()
        losses.append(loss.item())
    return losses, policy
