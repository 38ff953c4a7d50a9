"""The data set `transitions`: what its batches hold, from .npz files and from LeRobot's format."""

import pickle

import numpy as np
import pytest
import torch
from conftest import needs
from sample_transitions import LENGTHS, arrays, opened, write

from trainer.interfaces.features import FeatureType

TOTAL = sum(LENGTHS)
STATE, NEXT = "observation.state", "next.observation.state"


def whole(split):
    return split.batch(torch.arange(len(split)))


def test_a_batch_has_the_rows_of_the_file(tmp_path):
    expected = arrays()
    data = opened(path=write(tmp_path / "data.npz"))
    rows = torch.tensor([7, 0, 19])
    batch = data.train.batch(rows)
    names = {STATE: "obs", "action": "action", "reward": "reward", NEXT: "next_obs", "terminal": "terminal"}
    assert set(batch) == set(names)
    for name, array in names.items():
        assert batch[name].dtype == torch.float32
        np.testing.assert_array_equal(batch[name].numpy(), expected[array][rows].astype(np.float32))
    assert len(data.train) == TOTAL
    assert data.held_out is None


def test_policies_see_the_state_the_action_and_the_reward(tmp_path):
    features = opened(path=write(tmp_path / "data.npz")).features
    assert {name: (feature.type, feature.shape) for name, feature in features.items()} == {
        STATE: (FeatureType.STATE, (3,)),
        "action": (FeatureType.ACTION, (2,)),
        "reward": (FeatureType.REWARD, ()),
    }


def test_statistics_are_those_of_all_rows_and_of_whole_episodes(tmp_path):
    expected = arrays()
    statistics = opened(path=write(tmp_path / "data.npz"), held_out=0.25).statistics
    for name, array in ((STATE, "obs"), ("action", "action"), ("reward", "reward")):
        values = expected[array].astype(np.float64)
        for key, value in (("mean", values.mean(0)), ("std", values.std(0)), ("min", values.min(0))):
            np.testing.assert_allclose(statistics[name][key], value, rtol=1e-6)
        np.testing.assert_allclose(statistics[name]["q90"], np.quantile(values, 0.9, axis=0), rtol=1e-6)
    returns = [sum(part) for part in np.split(expected["reward"].astype(np.float64), np.cumsum(LENGTHS)[:-1])]
    assert statistics["return"]["mean"] == pytest.approx(np.mean(returns), rel=1e-6)
    assert statistics["return"]["max"] == pytest.approx(max(returns), rel=1e-6)
    assert statistics["return"]["count"] == 4


def test_an_episode_without_an_end_has_no_return(tmp_path):
    timeout = arrays()["timeout"]
    timeout[-1] = 0
    data = opened(path=write(tmp_path / "data.npz", timeout=timeout), held_out=[3])
    assert data.statistics["return"]["count"] == 3
    assert len(data.held_out) == LENGTHS[3]


def test_returns_are_unknown_where_episodes_are(tmp_path):
    data = opened(path=write(tmp_path / "data.npz", timeout=None))
    assert "return" not in data.statistics
    path = write(tmp_path / "a.npz", timeout=None, terminal=0 * arrays()["terminal"])
    assert opened(path=path, episode_length=5).statistics["return"]["count"] == 4


@pytest.mark.parametrize(("held_out", "kept"), [(0.25, [3]), (0.01, [3]), (0.5, [2, 3]), ([1, 0], [0, 1])])
def test_whole_episodes_are_held_out(tmp_path, held_out, kept):
    path = write(tmp_path / "data.npz")
    data, everything = opened(path=path, held_out=held_out), whole(opened(path=path).train)
    episode = torch.repeat_interleave(torch.arange(4), torch.tensor(LENGTHS))
    is_kept = torch.isin(episode, torch.tensor(kept))
    for name, values in everything.items():
        assert torch.equal(whole(data.held_out)[name], values[is_kept])
        assert torch.equal(whole(data.train)[name], values[~is_kept])


def test_the_last_rows_are_held_out_where_episodes_are_unknown(tmp_path):
    data = opened(path=write(tmp_path / "data.npz", timeout=None), held_out=0.1)
    assert (len(data.train), len(data.held_out)) == (18, 2)
    np.testing.assert_array_equal(whole(data.held_out)["reward"].numpy(), arrays()["reward"][-2:])


def test_arrays_may_have_other_names_types_and_a_column_for_single_numbers(tmp_path):
    one = {name: values[:, 0] for name, values in arrays(state=1, action=1).items() if values.ndim == 2}
    path = tmp_path / "data.npz"
    np.savez(
        path,
        observations=one["obs"].astype(np.float64),
        actions=one["action"].astype(np.float16),
        rewards=np.arange(TOTAL)[:, None],
        next_observations=one["next_obs"],
        terminals=arrays()["terminal"].astype(bool),
    )
    names = {"obs": "observations", "action": "actions", "reward": "rewards", "next_obs": "next_observations"}
    data = opened(path=str(path), names={**names, "terminal": "terminals"})
    batch = whole(data.train)
    assert [list(batch[name].shape) for name in (STATE, "action", "reward")] == [[TOTAL, 1], [TOTAL, 1], [TOTAL]]
    assert batch["terminal"].tolist() == [0.0] * 3 + [1.0] + [0.0] * 16
    assert batch["reward"].tolist() == list(range(TOTAL))


def test_rewards_are_scaled_and_shifted(tmp_path):
    path, reward = write(tmp_path / "data.npz"), torch.from_numpy(arrays()["reward"])
    data = opened(path=path, reward_scale=0.1, reward_shift=-1.0)
    torch.testing.assert_close(whole(data.train)["reward"], reward * 0.1 - 1)
    np.testing.assert_allclose(data.statistics["reward"]["mean"], reward.mean() * 0.1 - 1, rtol=1e-5)


def test_rewards_are_normalized_by_the_range_of_the_returns(tmp_path):
    reward = arrays()["reward"].astype(np.float64)
    returns = [part.sum() for part in np.split(reward, np.cumsum(LENGTHS)[:-1])]
    data = opened(path=write(tmp_path / "data.npz"), reward_normalization="return_range")
    scale = 1000 / (max(returns) - min(returns))
    np.testing.assert_allclose(whole(data.train)["reward"], reward * scale, rtol=1e-5)
    assert data.statistics["return"]["max"] == pytest.approx(max(returns), rel=1e-5)


def test_the_fingerprint_changes_with_the_values(tmp_path):
    path = write(tmp_path / "data.npz")
    first = opened(path=path).fingerprint()
    assert opened(path=path, held_out=0.5).fingerprint() == first
    assert opened(path=path, reward_scale=2.0).fingerprint() != first
    action = arrays()["action"]
    action[3, 1] += 1e-3
    assert opened(path=write(tmp_path / "other.npz", action=action)).fingerprint() != first


def test_a_split_can_be_sent_to_workers(tmp_path):
    split = opened(path=write(tmp_path / "data.npz")).train
    copy = pickle.loads(pickle.dumps(split))
    assert torch.equal(whole(copy)["action"], whole(split)["action"])


def test_the_behaviours_return_is_printed(tmp_path, capsys):
    opened(path=write(tmp_path / "data.npz", reward=np.ones(TOTAL, np.float32)))
    assert "20 transitions of 4 episodes, returns 4 to 6, mean 5" in capsys.readouterr().out


@needs("pyarrow")
class TestLeRobotsFormat:
    """Data sets in LeRobot's format with `next.reward` and `next.done`."""

    LENGTHS = (4, 7, 1, 6)

    @pytest.fixture
    def root(self, tmp_path):
        from sample_lerobot_data import write_states

        return str(write_states(tmp_path / "data", self.LENGTHS, files=2))

    def columns(self):
        from sample_lerobot_data import columns_of

        return columns_of(self.LENGTHS)

    def test_the_next_observation_is_that_of_the_next_frame(self, root):
        columns, batch = self.columns(), whole(opened(root=root).train)
        assert len(batch["action"]) == 18
        for row in range(18):
            is_last = bool(columns["next.done"][row])
            expected = columns["observation.state"][row if is_last else row + 1]
            np.testing.assert_array_equal(batch[NEXT][row], expected)
            np.testing.assert_array_equal(batch[STATE][row], columns["observation.state"][row])
            assert batch["terminal"][row] == is_last
        np.testing.assert_array_equal(batch["reward"], columns["next.reward"])
        np.testing.assert_array_equal(batch["action"], columns["action"])

    def test_the_last_frame_of_a_cut_episode_is_left_out(self, root):
        from sample_lerobot_data import change_table

        done = self.columns()["next.done"]
        done[[10, 17]] = False  # the ends of the episodes 1 and 3
        done[5] = True  # in the middle of episode 1

        def change(table, rows):
            import pyarrow as pa

            return table.set_column(table.column_names.index("next.done"), "next.done", pa.array(done[rows]))

        change_table(f"{root}/data/chunk-000/file-000.parquet", lambda table: change(table, slice(0, 11)))
        change_table(f"{root}/data/chunk-000/file-001.parquet", lambda table: change(table, slice(11, 18)))
        data = opened(root=root, held_out=[3])
        kept = [row for row in range(17) if row != 10]
        joined = torch.cat([whole(data.train)["reward"], whole(data.held_out)["reward"]])
        np.testing.assert_array_equal(joined, self.columns()["next.reward"][kept])
        assert len(data.held_out) == 5
        assert whole(data.train)["terminal"].nonzero().flatten().tolist() == [3, 5, 10]
        assert data.statistics["return"]["count"] == 4

    def test_another_feature_may_be_the_end(self, root):
        data = opened(root=root, names={"terminal": "task_index"}, episodes=[0, 1, 3])
        assert len(data.train) == 3 + 7 + 6  # the tasks 0, 1, 1: the last frame of episode 0 is left out

    def test_observations_are_chosen(self, root):
        features = opened(root=root, observations=["observation.state"]).features
        assert list(features) == [STATE, "action", "reward"]
        assert features["action"].shape == (1,)

    @pytest.mark.parametrize(
        ("params", "words"),
        [
            ({"observations": ["observation.stat"]}, ["observations.0", "did you mean 'observation.state'"]),
            ({"observations": ["observation.environment_state"]}, ["observations", "must be vectors"]),
            ({"observations": ["action"]}, ["observations", "must be vectors", "observation.state"]),
            ({"names": {"terminal": "next.don"}}, ["names.terminal", "did you mean 'next.done'"]),
            ({"names": {"obs": "observation.state"}}, ["names.obs", "action, reward, terminal"]),
            ({"names": {"terminal": "timestamp"}}, ["'terminal' must be 0 or 1"]),
            ({"episodes": [9]}, ["no episode 9"]),
            ({"episode_length": 5}, ["episode_length", "belongs to path"]),
            ({"held_out": 0.99}, ["held_out", "to train on"]),
        ],
    )
    def test_what_does_not_fit_is_refused(self, root, params, words):
        with pytest.raises(ValueError, match=r"data|params") as caught:
            opened(root=root, **params)
        for word in words:
            assert word in str(caught.value)

    def test_a_data_set_without_rewards_is_refused(self):
        from conftest import ROOT

        with pytest.raises(ValueError, match=r"names[.]terminal: no feature 'next.dome'"):
            opened(root=str(ROOT / "tests/data/pusht"), names={"terminal": "next.dome"})
