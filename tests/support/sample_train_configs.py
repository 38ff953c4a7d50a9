"""Configs of training runs as LeRobot writes them, for tests that do without LeRobot."""

import copy

ACT = {
    "dataset": {
        "repo_id": "someone/arm",
        "root": "data/arm",
        "episodes": [0, 1, 2],
        "image_transforms": {"enable": False, "max_num_transforms": 3},
        "use_imagenet_stats": False,
        "video_backend": "pyav",
        "eval_split": 0.1,
    },
    "env": {"type": "aloha", "task": "AlohaTransferCube-v0", "fps": 50, "episode_length": 400},
    "policy": {
        "type": "act",
        "n_obs_steps": 1,
        "input_features": {
            "observation.images.top": {"type": "VISUAL", "shape": [3, 48, 64]},
            "observation.state": {"type": "STATE", "shape": [14]},
        },
        "output_features": {"action": {"type": "ACTION", "shape": [14]}},
        "device": "cuda",
        "use_amp": True,
        "push_to_hub": False,
        "chunk_size": 20,
        "n_action_steps": 10,
        "normalization_mapping": {"VISUAL": "MEAN_STD", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"},
        "kl_weight": 10.0,
        "optimizer_lr": 1e-5,
        "optimizer_weight_decay": 1e-4,
        "optimizer_lr_backbone": 2e-6,
    },
    "output_dir": "outputs/train/act",
    "job_name": "act",
    "seed": 7,
    "num_workers": 2,
    "batch_size": 16,
    "steps": 5000,
    "env_eval_freq": 1000,
    "log_freq": 50,
    "save_freq": 500,
    "eval_steps": 250,
    "tolerance_s": 1e-4,
    "use_policy_training_preset": True,
    "optimizer": {"type": "adamw", "lr": 3e-4, "weight_decay": 1e-4, "grad_clip_norm": 10.0},
    "scheduler": None,
    "eval": {"n_episodes": 8, "batch_size": 4, "use_async_envs": False},
    "wandb": {"enable": True, "project": "arms"},
}
"""A run of ACT as train_config.json has it, with some fields left out."""


def changed(**by_path):
    """Return ACT with values by path, `__` in place of dots; ... removes one."""
    config = copy.deepcopy(ACT)
    for path, value in by_path.items():
        *parents, last = path.split("__")
        place = config
        for parent in parents:
            place = place.setdefault(parent, {})
        if value is ...:
            del place[last]
        else:
            place[last] = value
    return config
