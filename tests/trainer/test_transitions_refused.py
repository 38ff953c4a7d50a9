"""Files of transitions that cannot be learned from are refused, with the place and the remedy."""

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, needs
from sample_transitions import arrays, opened, write

TOTAL = 20


def message(**params):
    with pytest.raises(ValueError, match=r"data|params|npz") as caught:  # a ConfigError, or pydantic's
        opened(**params)
    return str(caught.value)


def with_value(name, value, row=7):
    values = arrays()[name]
    values[row] = value
    return {name: values}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"action": None, "actions": arrays()["action"]},
            ["no array 'action'", "did you mean 'actions'", "names.action"],
        ),
        ({"terminal": None}, ["no array 'terminal'", "obs, action, reward", "names.terminal"]),
        ({"reward": arrays()["reward"][:19]}, ["one row a transition", "'reward' has 19", "'action' 20"]),
        ({"next_obs": np.zeros((TOTAL, 4), np.float32)}, ["'obs' and 'next_obs'", "[20, 3] and [20, 4]"]),
        ({"obs": np.zeros((TOTAL, 3, 2), np.float32)}, ["'obs'", "[rows, size]", "[20, 3, 2]"]),
        ({"obs": np.zeros((TOTAL, 0), np.float32)}, ["'obs'", "[rows, size]"]),
        ({"action": np.zeros((TOTAL, 1), np.int64)}, ["'action'", "floating-point", "int64", "choices"]),
        ({"reward": np.zeros((TOTAL, 2))}, ["'reward'", "one number a row", "[20, 2]"]),
        ({"reward": np.array(["a"] * TOTAL)}, ["'reward'", "must be numbers", "<U1"]),
        ({"reward": np.float32(1)}, ["'reward'", "one number a row", "[]"]),
        (with_value("obs", np.nan), ["'observation.state' has NaN", "1 row", "row 7"]),
        (with_value("next_obs", np.inf), ["'next.observation.state' has NaN", "row 7"]),
        ({"reward": np.full(TOTAL, 1e300)}, ["'reward' has NaN or an infinite value in 20 rows", "row 0"]),
        (with_value("terminal", 0.5), ["'terminal' must be 0 or 1", "row 7 has 0.5"]),
        (with_value("timeout", np.nan), ["'timeout' must be 0 or 1", "row 7 has nan"]),
        (with_value("timeout", 3), ["'timeout' must be 0 or 1", "row 7 has 3"]),
        ({name: values[:0] for name, values in arrays().items()}, ["no transition"]),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, changed, words):
    found = message(path=write(tmp_path / "data.npz", **changed))
    for word in words:
        assert word in found


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"names": {"obs": "observation"}}, ["no array 'observation'", "names.obs"]),
        ({"names": {"timeout": "timeouts"}}, ["no array 'timeouts'", "did you mean 'timeout'"]),
        (
            {"names": {"observations": "obs"}},
            ["names.observations", "obs, action, reward, next_obs, terminal, timeout"],
        ),
        ({"episode_length": 5}, ["episode_length", "timeouts"]),
        ({"held_out": [4]}, ["held_out", "no episode 4"]),
        ({"held_out": [0, 1, 2, 3]}, ["held_out", "to train on"]),
        ({"held_out": 1.0}, ["held_out", "less than 1"]),
        ({"reward_scale": 0}, ["reward_scale"]),
        ({"reward_scale": 1e39}, ["reward_scale", "1e+39", "float32"]),
        ({"reward_shift": float("nan")}, ["reward_shift"]),
        ({"reward_normalization": "std"}, ["reward_normalization", "return_range"]),
        ({"observations": ["obs"]}, ["observations", "belongs to root or repo_id", "path"]),
        ({"episodes": [0]}, ["episodes", "belongs to root or repo_id"]),
        ({"revision": "main"}, ["revision", "belongs to repo_id"]),
        ({"root": "data"}, ["one of path, root, repo_id, minari", "path and root"]),
        ({"gamma": 0.9}, ["gamma"]),
    ],
)
def test_parameters_that_do_not_fit_are_refused(tmp_path, params, words):
    found = message(path=write(tmp_path / "data.npz"), **params)
    for word in words:
        assert word in found


def test_what_needs_episodes_is_refused_without(tmp_path):
    path = write(tmp_path / "data.npz", timeout=None)
    found = message(path=path, reward_normalization="return_range")
    assert "whole episodes" in found
    assert "episode_length" in found
    assert "must be a share" in message(path=path, held_out=[1])
    assert "must divide the 20 rows" in message(path=path, episode_length=7)


def test_an_episode_that_ends_before_its_length_is_refused(tmp_path):
    found = message(path=write(tmp_path / "data.npz", timeout=None), episode_length=5)
    assert "episode_length: row 3 (from 0)" in found
    assert "`timeout`" in found
    terminal = np.zeros(TOTAL, np.float32)
    terminal[[4, 19]] = 1
    assert len(opened(path=write(tmp_path / "data.npz", timeout=None, terminal=terminal), episode_length=5).train) == 20


@needs("pyarrow")
@pytest.mark.parametrize(
    ("names", "words"),
    [
        ({"reward": "action"}, ["names.reward: 'action' is used otherwise too"]),
        ({"terminal": "observation.state"}, ["names.terminal: 'observation.state' is used otherwise too"]),
        ({"reward": "observation.image"}, ["names.reward: must be one number a frame", "[96, 96, 3]"]),
        ({"action": "observation.image"}, ["names.action: must be a vector", "[96, 96, 3]"]),
    ],
)
def test_features_of_lerobot_that_cannot_have_the_role_are_refused(names, words):
    found = message(root=str(ROOT / "tests/data/pusht"), names=names)
    for word in words:
        assert word in found


def test_returns_that_are_all_the_same_have_no_range(tmp_path):
    path = write(tmp_path / "data.npz", reward=np.zeros(TOTAL))
    assert "all 4 returns are 0" in message(path=path, reward_normalization="return_range")


def test_a_source_is_required():
    assert "must have one of path, root, repo_id, minari; it has none" in message()


def test_a_file_that_is_no_archive_of_arrays_is_refused(tmp_path):
    assert "is not there" in message(path=str(tmp_path / "none.npz"))
    assert "is not there" in message(path=str(tmp_path))
    np.save(tmp_path / "one.npy", np.zeros(3))
    assert "holds one array" in message(path=str(tmp_path / "one.npy"))
    content = Path(write(tmp_path / "data.npz")).read_bytes()
    for cut in (0, 10, len(content) // 2):
        (tmp_path / "cut.npz").write_bytes(content[:cut])
        assert "is not an .npz file that can be read" in message(path=str(tmp_path / "cut.npz"))
    damaged = bytearray(content)
    damaged[content.index(arrays()["reward"].tobytes())] ^= 0xFF
    (tmp_path / "damaged.npz").write_bytes(damaged)
    assert "is not an .npz file that can be read" in message(path=str(tmp_path / "damaged.npz"))


class Bomb:
    """Code that runs when it is unpickled."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled')",))


def test_nothing_is_unpickled(tmp_path):
    path = write(tmp_path / "data.npz", reward=np.array([Bomb()] * TOTAL, dtype=object))
    assert "Python objects" in message(path=path)
    (tmp_path / "data.pkl").write_bytes(pickle.dumps(Bomb()))
    assert "can be read" in message(path=str(tmp_path / "data.pkl"))


def test_a_library_that_is_missing_is_asked_for_by_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    assert "pip install 'innerstep[minari]'" in message(minari="pendulum/random-v0")
    assert "belongs to path" in message(minari="pendulum/random-v0", episode_length=5)
