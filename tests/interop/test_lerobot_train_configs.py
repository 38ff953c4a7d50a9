"""Every field of LeRobot's TrainPipelineConfig, with each policy and environment that it knows, is mapped or named."""

import dataclasses
import json

import pytest
from conftest import needs

pytestmark = [needs("lerobot"), pytest.mark.filterwarnings("ignore")]  # LeRobot's libraries warn of much

POLICIES = [
    *("act", "diffusion", "eo1", "evo1", "fastwam", "groot", "lingbot_va", "molmoact2", "multi_task_dit"),
    *("pi0", "pi05", "pi0_fast", "smolvla", "tdmpc", "vla_jepa", "vqbet", "wall_x", "xvla"),
]
ENVIRONMENTS = [
    *("aloha", "gym_manipulator", "isaaclab_arena", "libero", "libero_plus", "metaworld", "pusht", "robocasa"),
    *("robomme", "robotwin", "vlabench"),
]


def leaves(values, path=""):
    """Yield the dotted path of each value that is not a mapping with entries."""
    for name, value in values.items():
        here = f"{path}.{name}" if path else name
        if isinstance(value, dict) and value:
            yield from leaves(value, here)
        else:
            yield here


def made(choice):
    """Return a config of LeRobot's with its defaults; if a package that one of them needs is missing, by its fields."""
    try:
        return choice(device="cpu", push_to_hub=False)
    except ImportError:
        config = object.__new__(choice)
        for field in dataclasses.fields(choice):
            default = field.default_factory() if field.default is dataclasses.MISSING else field.default
            setattr(config, field.name, default)
        return config


def train_config(policy="act", environment=None, **fields):
    """Return a TrainPipelineConfig as train_config.json has it, and the config object of its policy."""
    import draccus
    import lerobot.policies  # noqa: F401 registers the policies
    from lerobot.configs.default import DatasetConfig, PeftConfig
    from lerobot.configs.policies import PreTrainedConfig
    from lerobot.configs.train import TrainPipelineConfig
    from lerobot.envs.configs import EnvConfig
    from lerobot.utils.sample_weighting import SampleWeightingConfig

    config = made(PreTrainedConfig.get_choice_class(policy))
    env = None if environment is None else EnvConfig.get_choice_class(environment)()
    whole = TrainPipelineConfig(dataset=DatasetConfig("lerobot/pusht"), policy=config, env=env)
    whole.peft, whole.sample_weighting = PeftConfig(), SampleWeightingConfig()
    for name, value in fields.items():
        setattr(whole, name, value)
    return json.loads(json.dumps(draccus.encode(whole, TrainPipelineConfig), default=str)), config


def untreated(values):
    """Return the fields of `values` that the import neither maps nor names as without a place."""
    from trainer.importing.train_config import convert

    done = convert(values)
    assert not [left for left in done.left.values() if "no such field" in left.reason]
    return [
        path
        for path in leaves(values)
        if not any(path == seen or path.startswith(f"{seen}.") for seen in (*done.mapped, *done.left))
    ]


def test_the_policies_and_environments_of_the_installed_lerobot_are_these():
    import lerobot.policies  # noqa: F401 registers the policies
    from lerobot.configs.policies import PreTrainedConfig
    from lerobot.envs.configs import EnvConfig

    assert sorted(PreTrainedConfig.get_known_choices()) == sorted([*POLICIES, "gaussian_actor"])
    assert sorted(EnvConfig.get_known_choices()) == sorted(ENVIRONMENTS)


def test_the_config_has_every_field_of_the_dataclasses():
    from lerobot.configs.train import TrainPipelineConfig

    values, _ = train_config()
    assert values.keys() == {field.name for field in dataclasses.fields(TrainPipelineConfig)}


@pytest.mark.parametrize("policy", POLICIES)
def test_every_field_is_mapped_or_named_with_each_policy(policy):
    values, _ = train_config(policy)
    assert untreated(values) == []


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize("every", [100, 0])
def test_every_field_is_mapped_or_named_with_each_environment(environment, every):
    values, _ = train_config("act", environment, env_eval_freq=every)
    assert untreated(values) == []


@pytest.mark.parametrize("preset", [True, False])
@pytest.mark.parametrize("scheduler", ["constant_with_warmup", "cosine_decay_with_warmup", "diffuser", "vqbet"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_every_field_is_mapped_or_named_with_each_optimizer(optimizer, scheduler, preset):
    from lerobot.optim import LRSchedulerConfig, OptimizerConfig

    lengths = {
        "num_warmup_steps": 5,
        "num_decay_steps": 9,
        "num_vqvae_training_steps": 2,
        "peak_lr": 1.0,
        "decay_lr": 0.1,
    }
    kind = LRSchedulerConfig.get_choice_class(scheduler)
    names = {field.name for field in dataclasses.fields(kind)}
    values, _ = train_config(
        optimizer=OptimizerConfig.get_choice_class(optimizer)(),
        scheduler=kind(**{name: value for name, value in lengths.items() if name in names}),
        use_policy_training_preset=preset,
    )
    assert untreated(values) == []


@pytest.mark.parametrize("policy", POLICIES)
def test_samples_have_the_time_steps_that_lerobot_gives_the_policy(policy):
    from trainer.importing.train_config import convert

    values, config = train_config(policy)
    params = convert(values).config["data"]["params"]
    actions = params.get("deltas", {}).get("action", list(range(params.get("chunk", 1))))
    assert actions == list(config.action_delta_indices or [0])
    observed = list(config.observation_delta_indices or [0])
    if observed == list(range(1 - len(observed), 1)):
        assert params.get("n_obs_steps", 1) == len(observed)
    assert params.get("drop_n_last_frames", 0) == (getattr(config, "drop_n_last_frames", 0) or 0)


def test_other_time_steps_of_observations_are_deltas_of_each():
    from trainer.importing.train_config import convert

    values, config = train_config("tdmpc")
    values["policy"]["input_features"] = {"observation.state": {"type": "STATE", "shape": [2]}}
    deltas = convert(values).config["data"]["params"]["deltas"]
    assert deltas["observation.state"] == config.observation_delta_indices
    assert deltas["next.reward"] == config.reward_delta_indices
