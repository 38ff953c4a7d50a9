"""Relative paths in configs mean the same from every working directory."""

from pathlib import Path

import pytest
import yaml
from rich.console import Console
from sample_runs import ADAMW, MLPS, config

from trainer import DATASET_REGISTRY, ConfigError, load_config, resume, train
from trainer.config.path_values import path_parameters

QUIET = Console(quiet=True)
BASE = config("runs/x", {"first": MLPS["first"]}, {"first": ADAMW}, total_steps=2)


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "project/more").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "project"


def write(path, **sections):
    path.write_text(yaml.safe_dump(sections))
    return path


def test_a_path_in_a_file_starts_at_the_folder_of_the_file(project):
    loaded = load_config(write(project / "c.yaml", **BASE))
    assert loaded.train.run_dir == project / "runs/x"


def test_a_path_starts_at_the_file_in_which_it_is_written(project):
    write(project / "base.yaml", **BASE)
    weights = {"components": {"first": {"init_from": "../w/x:first"}}}
    file = write(project / "more/c.yaml", extends="../base.yaml", model=weights)
    loaded = load_config(file)
    init = loaded.model.components["first"].init_from
    assert loaded.train.run_dir == project / "runs/x"
    assert (init.path, init.component) == (project / "w/x", "first")


def test_a_path_on_the_command_line_starts_at_the_working_directory(project):
    file = write(project / "c.yaml", **BASE)
    assert load_config(file, {"train.run_dir": "runs/y"}).train.run_dir == Path.cwd() / "runs/y"
    assert load_config(BASE).train.run_dir == Path.cwd() / "runs/x"


@pytest.mark.parametrize("text", ["~/x", "$PLACE/x", "${PLACE}/x", "/abs/x"])
def test_an_absolute_path_stays_what_it_is(project, monkeypatch, text):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("PLACE", "/place")
    raw = {**BASE, "train": {**BASE["train"], "run_dir": text}}
    expected = {"~": "/home/me/x", "$": "/place/x", "/": "/abs/x"}[text[0]]
    assert load_config(write(project / "c.yaml", **raw)).train.run_dir == Path(expected)


def test_interpolation_and_variables_meet_in_one_path(project, monkeypatch):
    monkeypatch.setenv("WHO", "me")
    raw = {**BASE, "train": {**BASE["train"], "run_dir": "${WHO}/$WHO/${train.total_steps}/$${WHO}"}}
    assert load_config(write(project / "c.yaml", **raw)).train.run_dir == project / "me/me/2/${WHO}"


def test_a_link_to_a_folder_is_followed_where_the_system_follows_it(project, tmp_path):
    (tmp_path / "link").symlink_to(project / "more", target_is_directory=True)
    write(project / "more/c.yaml", **{**BASE, "train": {**BASE["train"], "run_dir": "../x"}})
    assert load_config(tmp_path / "link/c.yaml").train.run_dir.resolve() == project / "x"


class Folders:
    def __init__(self, place: Path, name: str, several: list[Path] | None = None, both: str | Path = "") -> None: ...


def test_parameters_annotated_as_paths_are_filled_in_and_text_stays(monkeypatch):
    monkeypatch.setenv("HERE", "/here")
    given = {"place": "$HERE/a", "name": "$HERE/a", "several": ["$HERE", "b"], "both": "$HERE/$$"}
    assert path_parameters(Folders, given) == {
        "place": Path("/here/a"),
        "name": "$HERE/a",
        "several": [Path("/here"), Path("b")],
        "both": Path("/here/$"),
    }


def test_the_folder_of_a_data_set_starts_at_the_file_and_is_in_the_runs_config(project):
    data = {"type": "lerobot", "params": {"root": "my$$data", "datasets": [{"root": "a"}, {"repo_id": "b/c"}]}}
    loaded = load_config(write(project / "c.yaml", **{**BASE, "data": data}))
    assert loaded.resolved()["data"]["params"] == {
        "root": f"{project}/my$$data",
        "datasets": [{"root": f"{project}/a"}, {"repo_id": "b/c"}],
    }
    with pytest.raises(ConfigError, match=r"data\.params\.root.*'NOT_SET' is not set"):
        load_config(BASE, {"data": {"type": "lerobot", "params": {"root": "$NOT_SET/x"}}})
    assert "lerobot" in DATASET_REGISTRY


def test_a_run_is_resumed_from_anywhere(project, tmp_path, monkeypatch):
    train(write(project / "c.yaml", **BASE), console=QUIET)
    written = yaml.safe_load((project / "runs/x/config.yaml").read_text())
    assert written["train"]["run_dir"] == str(project / "runs/x")
    monkeypatch.chdir(tmp_path)
    assert resume("project/runs/x", {"train.total_steps": 3, "resume.on_change": "override"}, console=QUIET)


def test_relative_paths_in_the_config_of_an_old_run_start_at_the_working_directory(project):
    old = project / "config.yaml"
    old.write_text("# innerstep 0.1.0, run format 1\n" + yaml.safe_dump(BASE))
    assert load_config(old).train.run_dir == Path("runs/x")
