"""Several data sets as one: shares by weights, tasks and statistics together."""

from collections import Counter

import numpy as np
import pytest
import torch
from sample_lerobot_data import FEATURES, change_info, columns_of, statistics_of, write_states

from trainer import ConfigError
from trainer.config.entries import DataConfig
from trainer.lerobot_data.dataset import LeRobotData

LENGTHS = {"small": [3, 4], "large": [10, 11, 9]}
SAMPLES = {"small": 7, "large": 30}


@pytest.fixture
def roots(tmp_path):
    small = write_states(tmp_path / "small", LENGTHS["small"], seed=1, tasks=("push", "turn"))
    return {"small": small, "large": write_states(tmp_path / "large", LENGTHS["large"], seed=2, tasks=("lift", "push"))}


def opened(roots, weights=(None, None), **params):
    datasets = [
        {"root": str(root)} | ({} if weight is None else {"weight": weight})
        for root, weight in zip(roots.values(), weights, strict=True)
    ]
    return DataConfig(type="lerobot", params={"datasets": datasets, **params}).make("data")


def everything(split):
    return split.batch(torch.arange(len(split)))


def counts(split):
    """Return how many places each frame of each data set has."""
    batch = everything(split)
    return Counter(zip(batch["dataset_index"].tolist(), batch["index"].tolist(), strict=True))


def test_without_weights_each_sample_has_one_place(roots):
    train = opened(roots).train
    assert len(train) == 37
    assert set(counts(train).values()) == {1}
    assert len(counts(train)) == 37


@pytest.mark.parametrize(
    ("weights", "places"), [((1, 1), (30, 30)), ((1, 9), (7, 63)), ((0.5, 0.25), (60, 30)), ((3, 2), (45, 30))]
)
def test_weights_are_shares_and_an_epoch_has_every_sample(roots, weights, places):
    found = counts(opened(roots, weights).train)
    for number, (place, samples) in enumerate(zip(places, SAMPLES.values(), strict=True)):
        mine = [count for (dataset, _), count in found.items() if dataset == number]
        assert (sum(mine), len(mine)) == (place, samples)
        assert max(mine) - min(mine) <= 1


def test_a_batch_equals_those_of_the_parts(roots):
    parts = [LeRobotData(str(root), n_obs_steps=2, chunk=3).train for root in roots.values()]
    train = opened(roots, (1, 1), n_obs_steps=2, chunk=3).train
    indices = torch.tensor([59, 0, 29, 30, 4, 1])
    batch = train.batch(indices)
    expected = [(1, 29), (0, 0), (0, 29 * 7 // 30), (1, 0), (0, 4 * 7 // 30), (0, 0)]
    for row, (number, index) in enumerate(expected):
        sample = parts[number].batch(torch.tensor([index]))
        assert batch["dataset_index"][row] == number
        for name, value in sample.items():
            assert name == "task_index" or torch.equal(batch[name][row], value[0]), name


def test_tasks_are_numbered_together(roots):
    data = opened(roots)
    assert data.statistics["tasks"] == ("push", "turn", "lift")
    own = [("push", "turn"), ("lift", "push")]
    batch = everything(data.train)
    for number, episode, task in zip(batch["dataset_index"], batch["episode_index"], batch["task_index"], strict=True):
        assert data.statistics["tasks"][task] == own[number][episode % 2]


def test_statistics_are_those_of_all_frames_together(roots):
    columns = [columns_of(LENGTHS["small"], 1), columns_of(LENGTHS["large"], 2)]
    both = {name: np.concatenate([part[name] for part in columns]) for name in columns[0]}
    found = opened(roots, (5, 1)).statistics
    for name in ("observation.state", "action", "next.reward"):
        for statistic, value in statistics_of(both)[name].items():
            expected = torch.tensor(value, dtype=torch.float32)
            torch.testing.assert_close(found[name][statistic], expected, rtol=1e-5, atol=1e-6)


def test_episodes_are_held_out_of_each_set_and_not_weighted(roots):
    held_out = opened(roots, (1, 50), held_out=0.4).held_out
    assert set(counts(held_out).values()) == {1}
    batch = everything(held_out)
    episodes = set(zip(batch["dataset_index"].tolist(), batch["episode_index"].tolist(), strict=True))
    assert episodes == {(0, 1), (1, 2)}


def test_each_set_has_its_own_choice_of_episodes(roots):
    datasets = [
        {"root": str(roots["small"]), "episodes": [1]},
        {"root": str(roots["large"]), "exclude_episodes": [0, 2]},
    ]
    data = DataConfig(type="lerobot", params={"datasets": datasets}).make("data")
    assert len(data.train) == 4 + 11


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"held_out": [0]}, "data.params.held_out: must be a share"),
        ({"root": "x"}, "data.params.root: belongs to one data set"),
        ({"episodes": [0]}, "data.params.episodes: belongs to one data set"),
        ({"weights": (1, None)}, "data.params.datasets.1.weight: must be given"),
    ],
)
def test_parameters_that_do_not_fit_several_sets_are_refused(roots, params, words):
    with pytest.raises(ConfigError) as caught:
        opened(roots, **params)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fps": 20}, "data.params.datasets.1: has 20 frames a second; the first data set has 10"),
        ({"features": FEATURES | {"note": FEATURES["timestamp"]}}, "no column 'note'"),
        (
            {"features": {name: info for name, info in FEATURES.items() if name != "next.done"}},
            "data.params.datasets.1: 'next.done' is missing; in the first data set it is bool [1]",
        ),
    ],
)
def test_sets_that_differ_are_refused(roots, changes, words):
    change_info(roots["large"], **changes)
    with pytest.raises(ConfigError) as caught:
        opened(roots)
    assert words in str(caught.value)


def test_an_episode_in_two_sets_is_refused_if_some_are_held_out(roots):
    root = roots["large"]
    (root.parent / "link").symlink_to(root)
    datasets = [{"root": str(root), "episodes": [0, 1]}, {"root": str(root.parent / "link"), "episodes": [1, 2]}]
    both = {"datasets": datasets, "held_out": 0.1}
    assert len(DataConfig(type="lerobot", params={"datasets": datasets}).make("data").train) == 10 + 11 + 11 + 9
    with pytest.raises(ConfigError, match=r"datasets\.1\.episodes: has episode 1, which datasets\.0 has too"):
        DataConfig(type="lerobot", params=both).make("data")
    datasets[1] = {"root": str(roots["small"])}
    assert len(DataConfig(type="lerobot", params=both).make("data").train) == 10 + 3


def test_a_set_without_statistics_among_others_is_refused(roots):
    (roots["large"] / "meta/stats.json").unlink()
    with pytest.raises(ConfigError, match=r"datasets\.1: has no statistics of 'observation\.state'"):
        opened(roots)
    (roots["small"] / "meta/stats.json").unlink()
    assert set(opened(roots).statistics) == {"tasks"}


def test_a_mistake_in_one_of_the_sets_has_its_path(roots):
    datasets = [{"root": str(roots["small"])}, {"root": str(roots["large"]), "episodes": [3]}]
    with pytest.raises(ConfigError, match=r"data\.params\.datasets\.1\.episodes: no episode 3"):
        DataConfig(type="lerobot", params={"datasets": datasets}).make("data")
