"""hf://ORG/NAME where a config, a run or weights are named, from the cache of huggingface_hub without a connection."""

import shutil
import sys
from contextlib import suppress

import pytest
import torch
import yaml
from conftest import needs
from sample_files import _forgets  # noqa: F401  # a fixture
from sample_hub import COMMIT, in_cache, small, trained, use
from sample_runs import ADAMW, MLPS
from sample_strangers import PLACES, STRANGER, config

import trainer
from trainer import ConfigError, ExperimentConfig
from trainer.runtime import hub

pytestmark = needs("huggingface_hub")
NAME = "someone/two-parts"


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """Return the folder of an empty cache, which is all that there is of the hub."""
    return use(monkeypatch, tmp_path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("hub"))


def put_config(cache, raw, revision="main"):
    folder = in_cache(cache, NAME, revision)
    (folder / "config.yaml").write_text(yaml.safe_dump(raw))
    return folder


def put_run(cache, run):
    """Put a run into the cache as the library does: each file is a link to one that has another name."""
    folder = in_cache(cache, NAME)
    blobs = folder.parents[1] / "blobs"
    blobs.mkdir()
    for number, file in enumerate(sorted(path for path in run.rglob("*") if path.is_file())):
        link = folder / file.relative_to(run)
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, blobs / str(number))
        link.symlink_to(blobs / str(number))
    return folder


@pytest.mark.parametrize("revision", ["", "@main", f"@{COMMIT}"])
def test_a_config_is_read_by_branch_and_by_commit(cache, revision):
    put_config(cache, small("runs/theirs"))
    found = trainer.load_config(f"hf://{NAME}{revision}", {"train.total_steps": 7})
    assert (str(found.train.run_dir), found.train.total_steps) == ("runs/theirs", 7)


def test_a_tag_with_a_slash_is_a_revision(cache):
    put_config(cache, small("runs/theirs"), "v1.2")
    assert trainer.load_config(f"hf://{NAME}@v1.2").seed == 0
    assert hub.parse_reference("hf://a/b@refs/pr/1") == ("a/b", "refs/pr/1")


def test_plan_plot_and_train_take_a_reference(cache, cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put_config(cache, small("runs/theirs"))
    for command in (["plan"], ["plot"], ["train", "--train.total_steps=2"], ["train", "--overwrite"]):
        code, printed = cli(command[0], f"hf://{NAME}", *command[1:])
        assert code == 0, printed
    assert trainer.load_run(tmp_path / "runs/theirs").step == 4


def test_a_run_is_loaded_through_the_links_of_the_cache(cache, run):
    folder = put_run(cache, run)
    loaded, local = trainer.load_run(f"hf://{NAME}"), trainer.load_run(run)
    assert loaded.checkpoint == folder / "checkpoints/step_00000004"
    theirs, ours = loaded.components.state_dict(), local.components.state_dict()
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)


def test_a_damaged_weight_is_found_as_in_a_local_run(cache, run, tmp_path):
    weights = put_run(cache, run) / "checkpoints/step_00000004/first/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ConfigError, match=r"model\.safetensors: is not as it was written"):
        trainer.load_run(f"hf://{NAME}")
    raw = small(tmp_path / "next")
    raw["model"]["components"]["first"]["init_from"] = f"hf://{NAME}"
    with pytest.raises(ConfigError, match=r"first\.init_from: .*is not as it was written"):
        trainer.train(raw)


def test_the_reference_stays_in_the_config_of_a_run(cache, run, tmp_path):
    put_run(cache, run)
    raw = small(tmp_path / "next", total_steps=1)
    raw["model"]["components"]["second"]["init_from"] = f"hf://{NAME}@main:first"
    trainer.train(raw)
    saved = yaml.safe_load((tmp_path / "next/config.yaml").read_text())
    init = saved["model"]["components"]["second"]["init_from"]
    assert (init["path"], init["component"]) == (f"hf://{NAME}@main", "first")
    assert trainer.resume(tmp_path / "next", {"train.total_steps": 2}).step == 2


def test_a_single_file_of_weights_in_a_repository_is_a_source(cache, run, tmp_path):
    folder = in_cache(cache, NAME)
    shutil.copy(run / "checkpoints/step_00000004/first/model.safetensors", folder)
    components = {name: {**MLPS[name], "init_from": {"path": f"hf://{NAME}"}} for name in MLPS}
    raw = small(tmp_path / "next", total_steps=1)
    raw["model"] = {
        "components": {name: {**entry, "freeze": name == "second"} for name, entry in components.items()},
        "component_optims": {"first": ADAMW},
    }
    trainer.train(raw)
    frozen = trainer.load_run(tmp_path / "next").components["second"].state_dict()
    source = trainer.load_run(run).components["first"].state_dict()
    assert all(torch.equal(frozen[name], source[name]) for name in source)


@pytest.mark.parametrize(
    "reference", ["hf://", "hf://name", "hf://a/b/c", "hf://a/b@", "hf://a/b@m n", "hf://../b@x;y"]
)
def test_a_malformed_reference_is_refused(cache, reference, tmp_path):
    for load in (trainer.load_config, trainer.load_run):
        with pytest.raises(ConfigError, match=r"must be hf://ORG/NAME or hf://ORG/NAME@REVISION; got hf://"):
            load(reference)
    raw = small(tmp_path / "run")
    raw["model"]["components"]["first"]["init_from"] = reference
    with pytest.raises(ConfigError, match=r"first\.init_from\.path: must be hf://"):
        trainer.load_config(raw)


def test_what_a_repository_lacks_is_named(cache):
    folder = in_cache(cache, NAME)
    with pytest.raises(ConfigError, match=rf"config: hf://{NAME} has no config\.yaml"):
        trainer.load_config(f"hf://{NAME}")
    with pytest.raises(ConfigError, match=rf"hf://{NAME}: there is no run here"):
        trainer.load_run(f"hf://{NAME}")
    (folder / "config.yaml").write_text(yaml.safe_dump(small("runs/theirs")))
    with pytest.raises(ConfigError, match="no checkpoint"):
        trainer.load_run(f"hf://{NAME}")


def test_evaluate_takes_a_reference(cache, run, cli):
    put_run(cache, run)
    code, printed = cli("evaluate", f"hf://{NAME}")
    assert code == 2
    assert "train.objective.type: must be a policy" in printed


def test_a_run_on_the_hub_is_not_resumed(cache, cli):
    code, printed = cli("resume", f"hf://{NAME}")
    assert code == 2
    assert "a run on the hub cannot be resumed. Start from its weights with init_from" in printed


@pytest.mark.usefixtures("_forgets")
@pytest.mark.parametrize("place", PLACES)
def test_no_place_in_a_config_from_the_hub_imports_a_module(cache, tmp_path, monkeypatch, place):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "stranger.py").write_text(STRANGER)
    put_config(cache, config(tmp_path, PLACES[place]))
    with pytest.raises(ConfigError, match=r"only with --allow-plugins, or allow_plugins=True.*not imported: stranger"):
        trainer.load_config(f"hf://{NAME}")
    assert not (tmp_path / "RAN").exists()
    with suppress(ConfigError):  # it has no such classes; but it was imported
        trainer.load_config(f"hf://{NAME}", allow_plugins=True)
    assert (tmp_path / "RAN").exists()


@pytest.mark.usefixtures("_forgets")
def test_the_command_line_imports_for_a_config_from_the_hub_on_demand(cache, cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stranger.py").write_text(STRANGER)
    put_config(cache, small("runs/theirs") | {"plugins": ["stranger"]})
    for command in (["plan"], ["plot"], ["train"], ["plan", "--no-plugins"]):
        code, printed = cli(command[0], f"hf://{NAME}", *command[1:])
        assert code == 2
        assert "plugins: " in printed
        assert "not imported: stranger" in printed
    assert not (tmp_path / "RAN").exists()
    assert cli("plan", f"hf://{NAME}", "--allow-plugins")[0] == 0
    assert (tmp_path / "RAN").exists()


@pytest.mark.usefixtures("_forgets")
def test_a_run_on_the_hub_imports_no_module_of_its_snapshot(cache, run, cli):
    folder = put_run(cache, run)
    text = (folder / "config.yaml").read_text().replace("plugins: []", "plugins: [stranger]")
    (folder / "config.yaml").write_text(f'# modules are looked for in ["{folder}"]\n{text}')
    (folder / "stranger.py").write_text(STRANGER)
    with pytest.raises(ConfigError, match=r"plugins: .*not imported: stranger"):
        trainer.load_run(f"hf://{NAME}")
    assert "not imported: stranger" in cli("evaluate", f"hf://{NAME}")[1]
    with pytest.raises(ConfigError, match="there is no module 'stranger'"):  # allowed, but that folder is not searched
        trainer.load_run(f"hf://{NAME}", allow_plugins=True)
    assert not (folder / "RAN").exists()
    assert "stranger" not in sys.modules


def test_from_pretrained_takes_folders_files_and_names(cache, run, tmp_path, monkeypatch):
    put_config(cache, small("runs/theirs"))
    for place in (run, str(run), run / "config.yaml"):
        assert ExperimentConfig.from_pretrained(place).train.run_dir == run
    assert str(ExperimentConfig.from_pretrained(NAME, revision=COMMIT).train.run_dir) == "runs/theirs"
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, tmp_path / NAME)  # what is here comes first
    assert ExperimentConfig.from_pretrained(NAME).train.run_dir == run
    with pytest.raises(ConfigError, match="revision: belongs to a repository"):
        ExperimentConfig.from_pretrained(run, revision="main")
    with pytest.raises(ConfigError, match="must be ORG/NAME of a repository, or a path that exists; got 'nothing'"):
        ExperimentConfig.from_pretrained("nothing")
