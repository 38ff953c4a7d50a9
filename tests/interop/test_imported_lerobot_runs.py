"""A config that LeRobot wrote is imported, planned, and trained on LeRobot's own policy."""

import json

import pytest
from conftest import metrics_of, needs
from rich.console import Console
from sample_lerobot_policies import EPISODES, PARAMS, PUSHT, lerobot_config

from trainer import load_config, train
from trainer.offline_trainer import OfflineTrainer
from trainer.reporting.plan_table import plan_text

pytestmark = [needs("lerobot"), pytest.mark.filterwarnings("ignore")]  # LeRobot's libraries warn of much


@pytest.fixture
def imported(cli, tmp_path):
    """Write LeRobot's config of a run of a small policy, import it, and return the config with local folders."""

    def write(key, env=None, **fields):
        import draccus
        from lerobot.configs.default import DatasetConfig
        from lerobot.configs.train import TrainPipelineConfig

        data = DatasetConfig("innerstep/pusht", root=str(PUSHT), episodes=EPISODES, video_backend="pyav")
        policy = lerobot_config(key)
        for name, value in vars(policy).items():  # as LeRobot's own parser reads them
            setattr(policy, name, tuple(value) if isinstance(value, list) else value)
        config = TrainPipelineConfig(
            dataset=data, policy=policy, env=env, batch_size=4, num_workers=0, steps=2, log_freq=1
        )
        config.optimizer, config.scheduler = policy.get_optimizer_preset(), policy.get_scheduler_preset()
        config.output_dir = tmp_path / "run"
        for name, value in fields.items():
            setattr(config, name, value)
        (tmp_path / "train_config.json").write_text(
            json.dumps(draccus.encode(config, TrainPipelineConfig), default=str)
        )
        code, printed = cli("import-lerobot", tmp_path / "train_config.json", tmp_path / "out.yaml")
        assert code == 0, printed
        assert "needs a change" not in printed
        return load_config(tmp_path / "out.yaml", {"data.params.cache_dir": str(tmp_path / "cache")})

    return write


@pytest.mark.parametrize("key", PARAMS)
def test_an_imported_config_trains_lerobots_policy_with_its_preset(imported, key, tmp_path):
    config = imported(key)
    train(config)
    preset = lerobot_config(key).get_optimizer_preset()
    lines = metrics_of(tmp_path / "run")
    assert len([line for line in lines if "lr/policy" in line]) == 2
    assert config.model.component_optims["policy"].factory.lr == preset.lr


@needs("gym_pusht")
def test_the_plan_of_an_imported_config_has_its_environment_and_transforms(imported):
    from lerobot.configs.default import DatasetConfig
    from lerobot.envs.configs import PushtEnv
    from lerobot.transforms import ImageTransformsConfig

    transforms = ImageTransformsConfig(enable=True, max_num_transforms=2)
    data = DatasetConfig("innerstep/pusht", root=str(PUSHT), episodes=EPISODES, image_transforms=transforms)
    config = imported("act", PushtEnv(task="PushT-v0"), dataset=data)
    assert config.train.evaluation.params["id"] == "gym_pusht:gym_pusht/PushT-v0"
    trainer = OfflineTrainer(config, Console(quiet=True))
    assert "policy" in plan_text(trainer.plan())
