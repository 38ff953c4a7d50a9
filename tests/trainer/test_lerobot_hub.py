"""Data sets by `repo_id`: from the cache of huggingface_hub, without a connection."""

import shutil
from fnmatch import fnmatch

import pytest
from conftest import needs
from sample_lerobot_data import write_states

from trainer import ConfigError
from trainer.config.entries import DataConfig

pytestmark = needs("huggingface_hub")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Return the folder of a snapshot of the repository `someone/arm` in an empty cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "hub/datasets--someone--arm"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(COMMIT)
    (repository / "refs/v1").write_text(COMMIT)
    return write_states(repository / "snapshots" / COMMIT, [4, 7], files=2)


def opened(**params):
    return DataConfig(type="lerobot", params=params).make("data")


@pytest.mark.parametrize("revision", [None, "v1", COMMIT])
def test_a_repository_in_the_cache_is_read_offline(cache, revision):
    assert len(opened(repo_id="someone/arm", revision=revision).train) == 11


@pytest.mark.parametrize(("name", "revision"), [("someone/leg", None), ("someone/arm", "v2")])
def test_a_repository_that_is_not_in_the_cache_is_named(cache, name, revision):
    with pytest.raises(ConfigError, match=rf"data\.params\.repo_id: '{name}' is not in the cache"):
        opened(repo_id=name, revision=revision)


def test_an_invalid_name_is_refused(cache):
    with pytest.raises(ConfigError, match=r"data\.params\.repo_id: 'a//b' cannot be loaded"):
        opened(repo_id="a//b")


def test_a_snapshot_that_lacks_a_file_of_the_chosen_episodes_is_named(cache):
    (cache / "data/chunk-000/file-001.parquet").unlink()
    assert len(opened(repo_id="someone/arm", episodes=[0]).train) == 4
    with pytest.raises(ConfigError, match=r"file-001\.parquet: the data set has no such file"):
        opened(repo_id="someone/arm")


def test_one_of_several_sets_may_be_a_repository(cache, tmp_path):
    shutil.copytree(cache, tmp_path / "copy")
    assert len(opened(datasets=[{"repo_id": "someone/arm"}, {"root": str(tmp_path / "copy")}]).train) == 22


def test_huggingface_hub_that_is_not_installed_is_named_with_its_extra(cache, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r"data\.params\.repo_id needs .* pip install 'innerstep\[hub\]'"):
        opened(repo_id="someone/arm")


def test_only_the_files_that_are_needed_are_loaded(cache, tmp_path, monkeypatch):
    asked = []

    def snapshot_download(repo_id, repo_type, revision, allow_patterns, local_files_only):
        asked.append((repo_id, repo_type, revision, allow_patterns))
        folder = tmp_path / COMMIT
        for file in cache.rglob("*.*"):
            name = file.relative_to(cache)
            if file.is_file() and any(fnmatch(str(name), pattern) for pattern in allow_patterns):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, folder / name)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert len(opened(repo_id="someone/arm", revision="v1", episodes=[1]).train) == 7
    patterns = ["meta/*", "data/chunk-000/file-001.parquet"]
    assert asked == [
        ("someone/arm", "dataset", "v1", ["meta/*"]),
        ("someone/arm", "dataset", COMMIT, patterns),  # the same commit, if the branch has moved meanwhile
    ]
