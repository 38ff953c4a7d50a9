"""`innerstep import-lerobot`: which file it takes, and the errors of those that it does not."""

import json
import os

import pytest
from conftest import needs
from sample_train_configs import ACT, changed

POLICY = {"type": "act", "normalization_mapping": {}, "chunk_size": 4}


@pytest.fixture
def run(cli, tmp_path):
    """Run the import of a file with this content; return (exit code, what it printed)."""

    def imported(content, name="train_config.json"):
        source = tmp_path / name
        source.write_text(content if isinstance(content, str) else json.dumps(content))
        return cli("import-lerobot", source, tmp_path / "out.yaml")

    return imported


WITHOUT_PRESET = {"use_policy_training_preset": False}
MISTAKES = {
    "broken JSON": ('{"dataset": ', "train_config.json:1:13: a value must stand here"),
    "not a mapping": ("[1]", "must hold a mapping"),
    "a policy's config": (
        POLICY,
        "it is the config of a policy, which has no data set. Give its folder as model.policy.path",
    ),
    "an evaluation's config": ({"env": {}, "eval": {}}, "it is the config of an evaluation"),
    "a config of innerstep": ({"data": {}, "model": {}}, "is a config of innerstep already"),
    "a config of Hydra": ({"dataset_repo_id": "a/b", "training": {}}, "is a config of LeRobot before 2025"),
    "something else": ({"a": 1}, "must be LeRobot's config of a training run, train_config.json; it holds no dataset"),
    "a section that is text": (changed(eval="all"), "eval: must be a mapping; got 'all'"),
    "no policy": (changed(policy=None), "policy: must be a mapping with type; got None"),
    "a dotted path of a policy": (changed(policy__type="act.modeling_act"), "policy.type: must be a key of LeRobot's"),
    "no type": (changed(policy__type=...), "policy.type: must name a policy, such as act"),
    "an online policy": (changed(policy__type="gaussian_actor"), "policy.type: gaussian_actor learns online"),
    "a reward model": ({**ACT, "reward_model": {"type": "sarm"}}, "reward_model: a reward model cannot be imported"),
    "path and type": (
        changed(policy__path="someone/act"),
        "policy.path: someone/act and policy.type: 'act': give one of them",
    ),
    "a path that is no text": (changed(policy={"path": 3}), "policy.path: must be text; got 3"),
    "no data set": (changed(dataset={"repo_id": None}), "dataset.repo_id: must be the name of a data set; got None"),
    "steps as text": (changed(steps="many"), "steps: must be a whole number; got 'many'"),
    "a length as text": (changed(policy__chunk_size="x"), "policy.chunk_size: must be a whole number; got 'x'"),
    "a flag as text": (changed(use_policy_training_preset="yes"), "use_policy_training_preset: must be true or false"),
    "no optimizer": (
        changed(**WITHOUT_PRESET, optimizer=None),
        "optimizer.type: required, as use_policy_training_preset",
    ),
    "an unknown optimizer": (changed(**WITHOUT_PRESET, optimizer={"type": "adamv"}), "did you mean 'adam'"),
    "a dotted path": (
        changed(**WITHOUT_PRESET, optimizer={"type": "antigravity.Adam"}),
        "optimizer.type: must be a key of LeRobot's; got 'antigravity.Adam'",
    ),
    "several optimizers": (
        changed(**WITHOUT_PRESET, optimizer={"type": "multi_adam"}),
        "optimizer.type: multi_adam is several",
    ),
    "two spellings": (
        changed(policy__input_shapes={"observation.state": [2]}),
        "policy.input_shapes and policy.input_features",
    ),
    "two modes of a type": (
        changed(
            policy__normalization_mapping={},
            policy__input_normalization_modes={"observation.image": "mean_std", "observation.image2": "min_max"},
        ),
        "policy.input_normalization_modes.observation.image2: must be MEAN_STD",
    ),
    "an environment without a task": (changed(env={"type": "mine"}), "env.task: required for this environment"),
}


@pytest.mark.parametrize(("content", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_file_that_cannot_be_imported_is_refused_and_nothing_is_written(run, tmp_path, content, words):
    code, printed = run(content)
    assert code == 2
    assert words in " ".join(printed.split())
    assert not (tmp_path / "out.yaml").exists()


def test_a_malformed_name_of_a_repository_is_named_at_its_argument(cli, tmp_path):
    code, printed = cli("import-lerobot", "hf://someone", tmp_path / "out.yaml")
    assert (code, "TRAIN_CONFIG: must be hf://ORG/NAME" in printed) == (2, True), printed


def test_yaml_is_read_too(run):
    text = "dataset: {repo_id: someone/arm}\npolicy: {type: act, chunk_size: 4}\nsteps: 10\n"
    assert run(text, "run.yaml")[0] == 0


def test_an_existing_file_is_replaced_on_demand_only(cli, run, tmp_path):
    (tmp_path / "out.yaml").write_text("mine")
    code, printed = run(ACT)
    assert code == 2
    assert "is there already" in printed
    assert (tmp_path / "out.yaml").read_text() == "mine"
    assert cli("import-lerobot", tmp_path / "train_config.json", tmp_path / "out.yaml", "--overwrite")[0] == 0
    assert "lerobot.act" in (tmp_path / "out.yaml").read_text()
    assert sorted(os.listdir(tmp_path)) == ["out.yaml", "train_config.json"]


def test_a_directory_that_is_missing_is_named(cli, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(ACT))
    assert "there is no directory" in cli("import-lerobot", tmp_path / "a.json", tmp_path / "none/out.yaml")[1]


@pytest.mark.parametrize("inner", ["", "pretrained_model", "checkpoints/last/pretrained_model"])
def test_a_folder_of_lerobots_is_searched_and_its_weights_are_named(cli, tmp_path, inner):
    folder = tmp_path / "run" / inner
    folder.mkdir(parents=True)
    (folder / "train_config.json").write_text(json.dumps(ACT))
    (folder / "model.safetensors").write_bytes(b"")
    assert cli("import-lerobot", tmp_path / "run", tmp_path / "out.yaml")[0] == 0
    header = " ".join((tmp_path / "out.yaml").read_text().replace("#", "").split())
    assert f"write `path: {folder}` in place of model.policy.type" in header


def test_a_folder_of_a_policy_alone_is_named_as_such(cli, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(POLICY))
    code, printed = cli("import-lerobot", tmp_path, tmp_path / "out.yaml")
    assert code == 2
    assert "has no train_config.json. It has config.json, a policy's config" in " ".join(printed.split())


def test_the_config_of_a_pretrained_policy_is_read_from_its_path(cli, tmp_path):
    (tmp_path / "pretrained").mkdir()
    (tmp_path / "pretrained/config.json").write_text(json.dumps({**POLICY, "chunk_size": 6}))
    content = changed(policy={"path": str(tmp_path / "pretrained"), "kl_weight": 1.0})
    (tmp_path / "train_config.json").write_text(json.dumps(content))
    assert cli("import-lerobot", tmp_path / "train_config.json", tmp_path / "out.yaml")[0] == 0
    text = (tmp_path / "out.yaml").read_text()
    assert f"path: {tmp_path / 'pretrained'}" in text
    assert "chunk: 6" in text
    assert "kl_weight: 1.0" in text


@needs("huggingface_hub")
def test_a_repository_in_the_cache_of_the_hub_is_read_offline(cli, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "hub/models--someone--act/snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs/main").write_text(commit)
    (snapshot / "train_config.json").write_text(json.dumps(ACT))
    assert cli("import-lerobot", "hf://someone/act", tmp_path / "out.yaml")[0] == 0
    assert "is not in the cache" in " ".join(cli("import-lerobot", "hf://someone/arm", tmp_path / "b.yaml")[1].split())
