"""LeRobot's ACT on PushT for a given time, and its rollouts in the environment that `configs/pusht.yaml` names.

It needs LeRobot 0.6.1 and gym-pusht: python benchmarks/pusht_act.py [--minutes 10 | --updates 1150] [--lr 1e-4]
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.interfaces.dataset import Batch
from trainer.simulation.gym import GymEnvironment

ROOT = Path(__file__).parent.parent / "tests/data/pusht"
CHUNK, ACTED, BATCH, EPISODES, FIRST_SEED = 16, 8, 8, 20, 100_000


class ActActor:
    """LeRobot's policy with its own processors, as an actor in several environments at once."""

    def __init__(self, policy: Any, before: Any, after: Any) -> None:
        self._policy, self._before, self._after = policy, before, after

    def reset(self) -> None:
        """Empty the policy's queue of actions."""
        self._policy.reset()

    @torch.no_grad()
    def act(self, observation: Batch) -> Tensor:
        """Return one action an environment."""
        batch = dict(observation)
        batch["observation.image"] = observation["observation.image"].float() / 255
        action: Tensor = self._after(self._policy.select_action(self._before(batch)))
        return action


def act_policy(lr: float) -> tuple[Any, Any, Any, Any]:
    """Return ACT with LeRobot's defaults, but for the chunk and the learning rate, its processors and its data."""
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.datasets import LeRobotDataset
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy
    from lerobot.policies.factory import make_pre_post_processors

    data = LeRobotDataset(
        "local/pusht",
        root=ROOT,
        delta_timestamps={"action": [step / 10 for step in range(CHUNK)]},
        video_backend="pyav",
        return_uint8=True,
    )
    config = ACTConfig(
        chunk_size=CHUNK,
        n_action_steps=ACTED,
        pretrained_backbone_weights=None,
        device="cpu",
        push_to_hub=False,
        optimizer_lr=lr,
        optimizer_lr_backbone=lr,
    )
    config.input_features = {
        "observation.image": PolicyFeature(FeatureType.VISUAL, (3, 96, 96)),
        "observation.state": PolicyFeature(FeatureType.STATE, (2,)),
    }
    config.output_features = {"action": PolicyFeature(FeatureType.ACTION, (2,))}
    before, after = make_pre_post_processors(config, dataset_stats=data.meta.stats)
    return ACTPolicy(config), before, after, data


def batches(data: Any) -> Iterator[Any]:
    """Yield shuffled batches for ever, from one process: the second core is the model's."""
    loader = torch.utils.data.DataLoader(data, BATCH, shuffle=True, num_workers=1, drop_last=True)
    while True:
        yield from loader


def train(policy: Any, before: Any, data: Any, seconds: float, most: int | None) -> int:
    """Train as LeRobot's loop does, for a time or, if `most` is given, for so many updates; return their number."""
    optimizer = policy.config.get_optimizer_preset().build(policy.get_optim_params())
    policy.train()
    end = time.perf_counter() + seconds
    for updates, batch in enumerate(batches(data), start=1):
        batch["observation.image"] = batch["observation.image"].float() / 255
        loss, _ = policy(before(batch))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), policy.config.get_optimizer_preset().grad_clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        if updates % 100 == 0:
            print(f"update {updates}: loss {loss.item():.4f}", flush=True)
        if updates == most or (most is None and time.perf_counter() > end):
            return updates
    raise AssertionError("the batches have no end")


def main() -> None:
    """Train, roll out, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--updates", type=int)
    parser.add_argument("--lr", type=float, default=1e-4)
    options = parser.parse_args()
    torch.manual_seed(0)
    policy, before, after, data = act_policy(options.lr)
    updates = train(policy, before, data, 60 * options.minutes, options.updates)
    policy.eval()
    size = {"observation_width": 96, "observation_height": 96}
    environment = GymEnvironment(id="gym_pusht:gym_pusht/PushT-v0", env={"obs_type": "pixels_agent_pos", **size})
    seeds = range(FIRST_SEED, FIRST_SEED + EPISODES)
    episodes = environment.episodes(ActActor(policy, before, after), seeds, 10, use_async_envs=False)
    print(f"{updates} updates; success {sum(bool(one.success) for one in episodes) / EPISODES:.2f}")
    for name in episodes[0].info:
        print(f"{name} {sum(one.info[name] for one in episodes) / EPISODES:.3f}")


if __name__ == "__main__":
    main()
