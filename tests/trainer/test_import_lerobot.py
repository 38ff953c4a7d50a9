"""`innerstep import-lerobot`: each value at its place, and each decision named."""

import json

import pytest
import yaml
from conftest import needs
from sample_train_configs import ACT, changed

from trainer.config.entries import DataConfig, OptimConfig
from trainer.config.evaluation import EvaluationConfig
from trainer.config.yaml_file import read_config_file
from trainer.importing.train_config import convert

GIVEN = {
    "use_policy_training_preset": False,
    "scheduler": {"type": "diffuser", "name": "cosine", "num_warmup_steps": 50},
}


def converted(**by_path):
    return convert(changed(**by_path)).config


def comments(path, **by_path):
    return "\n".join(convert(changed(**by_path)).comments.get(path, []))


def lost(**by_path):
    """Return the paths of the fields whose values are lost."""
    return [path for path, left in convert(changed(**by_path)).left.items() if left.matters]


def test_the_data_set_and_its_time_steps_are_those_of_the_run():
    params = {"root": "data/arm", "episodes": [0, 1, 2], "held_out": 0.1, "chunk": 20}
    data = converted()["data"]
    assert data == {
        "type": "lerobot",
        "params": {**params, "use_imagenet_stats": False, "video_backend": "pyav"},
        "batch_size": 16,
        "workers": 2,
    }
    DataConfig.model_validate(data)


def test_a_data_set_without_a_folder_is_named_on_the_hub():
    data = converted(dataset__root=None, dataset__revision="v3.0")["data"]
    assert (data["params"]["repo_id"], data["params"]["revision"]) == ("someone/arm", "v3.0")
    assert "HF_LEROBOT_HOME" in comments("data.params.repo_id", dataset__root=None)


def test_diffusions_actions_begin_before_the_present():
    data = converted(policy__type="diffusion", policy__n_obs_steps=3, policy__horizon=8, policy__drop_n_last_frames=5)[
        "data"
    ]
    assert data["params"]["deltas"] == {"action": [-2, -1, 0, 1, 2, 3, 4, 5]}
    assert (data["params"]["n_obs_steps"], data["params"]["drop_n_last_frames"]) == (3, 5)


def test_image_transforms_are_lerobots_class():
    transforms = {
        "enable": True,
        "max_num_transforms": 1,
        "tfs": {"blur": {"type": "GaussianBlur", "kwargs": {"kernel_size": 3}}},
    }
    (entry,) = converted(dataset__image_transforms=transforms)["data"]["params"]["image_transforms"]
    assert entry == {"type": "lerobot.transforms.ImageTransforms", "params": {"cfg": transforms}}


def test_options_of_the_policy_are_params_and_its_modes_the_normalization():
    policy = converted()["model"]["policy"]
    assert policy["type"] == "lerobot.act"
    assert policy["normalization"] == ACT["policy"]["normalization_mapping"]
    assert policy["params"]["optimizer_lr_backbone"] == 2e-6
    assert policy["params"].keys().isdisjoint({"device", "use_amp", "push_to_hub", "normalization_mapping", "type"})


def test_features_that_are_empty_are_left_to_the_data():
    params = converted(policy__input_features={}, policy__output_features=None)["model"]["policy"]["params"]
    assert params.keys().isdisjoint({"input_features", "output_features"})


@pytest.mark.parametrize(
    ("pretrained", "revision", "path"),
    [
        ("someone/act", None, "hf://someone/act"),
        ("someone/act", "v1", "hf://someone/act@v1"),
        ("/x/act", None, "/x/act"),
    ],
)
def test_a_pretrained_policy_is_a_path_in_place_of_a_type(pretrained, revision, path):
    policy = converted(policy__pretrained_path=pretrained, policy__pretrained_revision=revision)["model"]["policy"]
    assert policy["path"] == path
    assert "type" not in policy


def test_the_optimizer_that_lerobot_drops_in_silence_is_named():
    assert converted()["model"]["component_optims"] == {"policy": {"type": "preset"}}
    text = comments("model.component_optims.policy.type")
    assert "drops these in silence" in text
    assert "optimizer.lr: 0.0003; policy.optimizer_lr is 1e-05" in text
    assert "optimizer.weight_decay" not in text


def test_an_optimizer_that_is_the_policys_own_needs_no_words():
    assert "silence" not in comments("model.component_optims.policy.type", optimizer__lr=1e-5)


def test_a_config_that_was_typed_by_hand_has_every_value_named_that_is_dropped():
    text = comments("model.component_optims.policy.type", policy={"type": "act"})
    assert "optimizer.lr: 0.0003\n" in text
    assert "optimizer.type: 'adamw'" in text


def test_without_the_preset_the_given_optimizer_and_scheduler_are_taken():
    entry = converted(**GIVEN)["model"]["component_optims"]["policy"]
    assert entry["type"] == "adamw"
    assert (entry["params"]["lr"], entry["params"]["grad_clip_norm"]) == (3e-4, 10.0)
    assert entry["params"]["schedule"] == {"type": "diffuser", "name": "cosine", "num_warmup_steps": 50}
    OptimConfig.model_validate(entry)


def test_options_of_the_guides_command_line_are_the_optimizers():
    optims = converted(policy__optimizer={"lr": 1e-4}, policy__scheduler={"type": "linear", "num_warmup_steps": 9})
    params = optims["model"]["component_optims"]["policy"]["params"]
    assert params == {"lr": 1e-4, "schedule": {"type": "linear", "num_warmup_steps": 9}}


def test_the_run_has_the_length_and_the_cadence():
    train = converted()["train"]
    names = ["total_steps", "run_dir", "log_every", "save_every", "save_every_minutes", "eval_every", "precision"]
    assert [train[name] for name in names] == [5000, "outputs/train/act", 50, 500, None, 250, "fp16"]
    assert "device" not in train, "auto, as LeRobot falls back too"
    assert converted()["seed"] == 7


@pytest.mark.parametrize(
    ("fields", "key", "value"),
    [
        ({"seed": None}, ("seed",), 0),
        ({"output_dir": None, "job_name": None}, ("train", "run_dir"), "runs/aloha_act"),
        ({"log_freq": 0}, ("train", "log_every"), 5000),
        ({"save_freq": -1}, ("train", "save_every"), None),
        ({"save_checkpoint": False}, ("train", "save_every"), None),
        ({"policy__device": "cpu"}, ("train", "precision"), "bf16"),
        ({"policy__device": "cuda:1"}, ("train", "device"), "cuda:1"),
        ({"policy__dtype": "bfloat16"}, ("train", "precision"), "bf16"),
        ({"ema": {"enable": True, "max_decay": 0.99, "power": 0.7}}, ("train", "ema"), {"decay": 0.99, "power": 0.7}),
        ({"ema": {"enable": True, "decay": 0.9}}, ("train", "ema"), {"decay": 0.9, "power": None}),
    ],
)
def test_a_value_without_an_equal_is_the_nearest_one(fields, key, value):
    found = converted(**fields)
    for name in key:
        found = found[name]
    assert found == value


@needs("gymnasium")
def test_the_environment_has_lerobots_id_seeds_and_length():
    evaluation = converted()["train"]["evaluation"]
    assert evaluation["params"] == {
        "id": "gym_aloha:gym_aloha/AlohaTransferCube-v0",
        "env": {"obs_type": "pixels_agent_pos"},
        "max_episode_steps": 400,
    }
    assert (evaluation["every"], evaluation["seed"], evaluation["n_episodes"], evaluation["batch_size"]) == (
        1000,
        7,
        8,
        4,
    )
    EvaluationConfig.model_validate({**evaluation, "params": {"id": "Pendulum-v1"}})


def test_a_batch_of_environments_that_lerobot_lowers_is_lowered_and_named():
    assert converted(eval__batch_size=50)["train"]["evaluation"]["batch_size"] == 8
    assert "lowers eval.batch_size, 50" in comments("train.evaluation.batch_size", eval__batch_size=50)


@pytest.mark.parametrize(
    "fields", [{"env": None}, {"env_eval_freq": 0}, {"env": {"type": "libero", "task": "libero_10"}}]
)
def test_without_episodes_there_is_no_evaluation(fields):
    assert "evaluation" not in converted(**fields)["train"]


def test_an_environment_that_gymnasium_cannot_make_is_named():
    assert "env.type" in lost(env={"type": "libero", "task": "libero_10"})
    assert "lerobot-eval" in comments("train.run_dir", env={"type": "libero", "task": "libero_10"})


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({}, "wandb.project"),
        ({"peft": {"method_type": "LORA", "r": 16}}, "peft.method_type"),
        ({"rename_map": {"a": "b"}}, "rename_map"),
        ({"sample_weighting": {"type": "rabc"}}, "sample_weighting"),
        ({"use_rabc": True}, "use_rabc"),
        ({"job": {"target": "a10g-small"}}, "job.target"),
        ({"policy__push_to_hub": True, "policy__repo_id": "someone/new"}, "policy.repo_id"),
        ({"dataset__streaming": True}, "dataset.streaming"),
        ({"ema": {"enable": True, "update_after_step": 10}}, "ema.update_after_step"),
        ({"parallelism": {"dp_shard": 8}}, "parallelism.dp_shard"),
        ({"accelerator": {"gradient_accumulation": {"steps": 2}}}, "accelerator.gradient_accumulation.steps"),
    ],
)
def test_a_value_that_is_lost_is_named(fields, path):
    assert path in lost(**fields)


@pytest.mark.parametrize(("mixed", "precision"), [("no", "fp32"), ("bf16", "bf16")])
def test_the_precision_of_newer_configs_is_that_of_the_accelerator(mixed, precision):
    fields = {"accelerator": {"mixed_precision": mixed, "ddp": {"static_graph": False}}, "policy__use_amp": True}
    assert converted(**fields)["train"]["precision"] == precision
    assert not [path for path in lost(**fields) if path.startswith("accelerator")]


def test_values_of_what_is_off_are_not_lost():
    assert not [path for path in lost(wandb__enable=False) if path.startswith("wandb")]


def test_an_unknown_field_is_named_with_the_nearest():
    left = convert(changed(stepz=5)).left["stepz"]
    assert left.matters
    assert "did you mean 'steps'" in left.reason
    left = convert(changed(schedular={"name": "cosine"})).left["schedular.name"]  # a section that is not in the file
    assert "did you mean 'scheduler" in left.reason


def test_fields_of_older_configs_have_their_places():
    shapes = {"observation.image": [3, 96, 96], "observation.state": [2], "observation.environment_state": [16]}
    modes = {"observation.image": "mean_std", "observation.state": "min_max"}
    policy = {"type": "act", "learning_rate": 1e-3, "input_shapes": shapes, "output_shapes": {"action": [2]}}
    policy |= {"input_normalization_modes": modes, "output_normalization_modes": {"action": "min_max"}}
    found = convert({**ACT, "policy": policy, "eval_freq": 300}).config
    params = found["model"]["policy"]["params"]
    assert params["optimizer_lr"] == 1e-3
    assert [feature["type"] for feature in params["input_features"].values()] == ["VISUAL", "STATE", "ENV"]
    assert params["output_features"] == {"action": {"type": "ACTION", "shape": [2]}}
    assert found["model"]["policy"]["normalization"] == {"VISUAL": "MEAN_STD", "STATE": "MIN_MAX", "ACTION": "MIN_MAX"}
    assert found["train"]["evaluation"]["every"] == 300


def test_the_file_reads_back_as_what_was_converted(cli, tmp_path):
    (tmp_path / "train_config.json").write_text(json.dumps(changed(policy__type="diffusion", policy__horizon=64)))
    code, printed = cli("import-lerobot", tmp_path / "train_config.json", tmp_path / "out.yaml")
    assert code == 0, printed
    expected = convert(json.loads((tmp_path / "train_config.json").read_text())).config
    assert read_config_file(tmp_path / "out.yaml") == yaml.safe_load((tmp_path / "out.yaml").read_text()) == expected
    text = (tmp_path / "out.yaml").read_text()
    assert max(map(len, text.splitlines())) <= 120
    assert "drops these in silence" in text
    assert "wandb.project: arms" in text.partition("Not mapped:")[2]
    assert "wandb.project: arms" in printed
