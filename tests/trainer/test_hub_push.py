"""Runs, components, configs and policies pushed to a hub, and read back from it."""

import json
import shutil

import pytest
import torch
import yaml
from conftest import needs
from sample_hub import LIBRARY_WARNS, _hub, checkpoint_files, small, trained  # noqa: F401  # a fixture
from sample_runs import ADAMW, MLPS

import trainer
from trainer import ExperimentConfig
from trainer.runtime.hub_push import CARD_MARK

pytestmark = [needs("huggingface_hub"), LIBRARY_WARNS]
NAME = "someone/two-parts"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("hub"))


def same(one, other):
    """Return whether two modules have the same tensors."""
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def card(hub):
    """Return the metadata and the text of the repository's page."""
    _, metadata, text = hub.files(NAME)["README.md"].decode().split("---\n", 2)
    return yaml.safe_load(metadata), text


def test_a_pushed_run_is_loaded_bit_for_bit(hub, run):
    reference = trainer.push_to_hub(run, NAME)
    loaded, local = trainer.load_run(f"hf://{NAME}"), trainer.load_run(run)
    assert reference == f"hf://{NAME}@{hub.repositories['models', NAME].branches['main']}"
    assert loaded.step == local.step == 4
    assert same(loaded.components, local.components)
    assert checkpoint_files(loaded.config.train.run_dir) == checkpoint_files(run)


def test_nothing_is_printed_where_there_is_no_terminal(hub, run, capfd):
    trainer.push_to_hub(run, NAME)
    trainer.load_run(f"hf://{NAME}")
    assert tuple(capfd.readouterr()) == ("", "")


def test_a_push_is_one_commit(hub, run):
    trainer.push_to_hub(run, NAME)
    assert len(hub.repositories["models", NAME].commits) == 2  # the first is that of the empty repository


def test_a_push_replaces_the_checkpoint_of_an_earlier_one(hub, run):
    trainer.push_to_hub(run, NAME, checkpoint=run / "checkpoints/step_00000002")
    hub.files(NAME)["notes.txt"] = b"mine"
    assert trainer.load_run(f"hf://{NAME}").step == 2
    trainer.push_to_hub(run, NAME)
    assert {name.split("/")[1] for name in hub.files(NAME) if name.startswith("checkpoints/step")} == {"step_00000004"}
    assert hub.files(NAME)["notes.txt"] == b"mine"
    assert trainer.load_run(f"hf://{NAME}").step == 4


def test_the_best_checkpoint_is_the_best_there_too(hub, run):
    trainer.push_to_hub(run, NAME, checkpoint="best")
    best = trainer.load_run(run, "best")
    loaded = trainer.load_run(f"hf://{NAME}", "best")
    assert loaded.step == best.step
    assert same(loaded.components, best.components)


def test_a_component_is_pushed_alone_and_starts_another_run(hub, run, tmp_path):
    trainer.push_to_hub(run, NAME, component="first")
    folders = {name.rpartition("/")[0] for name in hub.files(NAME)}
    assert folders == {"", "checkpoints", "checkpoints/step_00000004", "checkpoints/step_00000004/first"}
    components = {"first": {**MLPS["first"], "init_from": f"hf://{NAME}"}}
    components["second"] = {**MLPS["second"], "freeze": True, "init_from": f"hf://{NAME}@main:first"}
    raw = small(tmp_path / "next", total_steps=1)
    raw["model"] = {"components": components, "component_optims": {"first": ADAMW}}
    trainer.train(raw)
    assert same(trainer.load_run(tmp_path / "next").components["second"], trainer.load_run(run).components["first"])
    with pytest.raises(trainer.ConfigError, match="single components of a run: first"):
        trainer.load_run(f"hf://{NAME}")


def test_nothing_that_is_pushed_names_a_folder_of_this_machine(hub, run, tmp_path, cli):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    saved = yaml.safe_load((copy / "config.yaml").read_text())
    saved["model"]["components"]["first"]["init_from"] = {"path": str(run)}
    heading = f'# innerstep 0.1.0, run format 1\n# modules are looked for in ["{tmp_path}"]\n'
    (copy / "config.yaml").write_text(heading + yaml.safe_dump(saved))
    code, printed = cli("push", copy, NAME)
    assert code == 0
    pushed = yaml.safe_load(hub.files(NAME)["config.yaml"])
    assert pushed["train"]["run_dir"] == "runs/two-parts"
    assert pushed["model"]["components"]["first"]["init_from"]["path"] == run.name
    assert f"config.yaml: train.run_dir is runs/two-parts there, and not {run}" in printed
    assert f"model.components.first.init_from.path is {run.name} there, and not {run}" in printed
    assert not [name for name, content in hub.files(NAME).items() if str(tmp_path.parent).encode() in content]


def test_the_page_of_a_run_describes_it(hub, run):
    trainer.push_to_hub(run, NAME)
    metadata, text = card(hub)
    assert metadata == {"library_name": "innerstep", "tags": ["innerstep"]}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    loss = next(line["loss"] for line in lines if (line["split"], line["step"]) == ("held_out", 4))
    for part in ("after 4 updates", "| `first` | `mlp` | `adamw` |", f"| `loss` | {loss:.6g} |", f"hf://{NAME}"):
        assert part in text


def test_a_page_of_the_users_stays_and_one_of_ours_is_replaced(hub, run, cli):
    hub.add(NAME, {"README.md": b"mine"})
    assert "README.md: left as it is in someone/two-parts" in cli("push", run, NAME)[1]
    assert hub.files(NAME)["README.md"] == b"mine"
    hub.files(NAME)["README.md"] = f"old {CARD_MARK}".encode()
    assert "left as it is" not in cli("push", run, NAME)[1]
    assert b"after 4 updates" in hub.files(NAME)["README.md"]


def test_a_branch_and_a_private_repository_are_created(hub, run, cli):
    assert cli("push", run, NAME, "--private", "--revision", "tuned")[0] == 0
    repository = hub.repositories["models", NAME]
    assert repository.private
    assert "config.yaml" in hub.files(NAME, "tuned")
    assert "config.yaml" not in hub.files(NAME, "main")
    assert trainer.load_run(f"hf://{NAME}@tuned").step == 4


def test_a_pushed_config_is_the_same_experiment(hub, tmp_path):
    config = trainer.load_config(small(tmp_path / "somewhere"))
    reference = config.push_to_hub(NAME)
    assert set(hub.files(NAME)) == {"config.yaml", "README.md"}
    for name in (NAME, f"hf://{NAME}", reference):
        found = ExperimentConfig.from_pretrained(name)
        asked = config.resolved()
        asked["train"]["run_dir"] = "runs/two-parts"
        assert found.resolved() == asked


def test_a_config_in_a_file_is_pushed_by_the_command(hub, tmp_path, cli):
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(small("runs/mine")))
    code, printed = cli("push", path, NAME)
    assert (code, printed.splitlines()[-1][:24]) == (0, f"pushed: hf://{NAME}@"[:24])
    assert yaml.safe_load(hub.files(NAME)["config.yaml"])["train"]["run_dir"] == "runs/two-parts"
    assert f"innerstep train hf://{NAME}" in hub.files(NAME)["README.md"].decode()


def test_a_folder_in_lerobots_format_is_pushed_as_it_is(hub, tmp_path):
    names = ("config.json", "model.safetensors", "train_config.json", "policy_preprocessor.json")
    for name in names:
        (tmp_path / name).write_text('{"type": "act"}')
    (tmp_path / "weights.pt").write_bytes(b"a pickle")
    trainer.push_to_hub(tmp_path, NAME)
    assert {name: content for name, content in hub.files(NAME).items() if name != "README.md"} == dict.fromkeys(
        names, b'{"type": "act"}'
    )
    metadata, _ = card(hub)
    assert metadata["library_name"] == "lerobot"
    assert metadata["tags"] == ["innerstep", "robotics", "act"]


def test_a_push_imports_nothing_of_a_run(hub, run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    config = (copy / "config.yaml").read_text().replace("plugins: []", "plugins: [not_there]")
    (copy / "config.yaml").write_text(config)
    trainer.push_to_hub(copy, NAME)
    assert yaml.safe_load(hub.files(NAME)["config.yaml"])["plugins"] == ["not_there"]
