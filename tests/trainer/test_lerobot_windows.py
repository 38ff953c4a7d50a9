"""Samples of episodes: equal to a plain reading, frame by frame."""

import pickle
import random
from contextlib import closing

import pytest
import torch
from sample_lerobot_data import columns_of, slow_batch, write_states

from trainer.lerobot_data.dataset import LeRobotData
from trainer.loop.batches import ShuffledBatches

LENGTHS = [5, 1, 12, 2, 30]
COLUMNS = columns_of(LENGTHS)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_states(tmp_path_factory.mktemp("states") / "data", LENGTHS, files=2)


def assert_equal(made, expected):
    assert set(made) == set(expected)
    for name, tensor in expected.items():
        assert made[name].dtype == tensor.dtype, name
        assert torch.equal(made[name], tensor), name


def test_a_batch_has_observations_up_to_its_frame_and_actions_from_it_on(root):
    data = LeRobotData(str(root), n_obs_steps=3, chunk=4)
    deltas = {"observation.state": [-2, -1, 0], "observation.environment_state": [-2, -1, 0], "action": [0, 1, 2, 3]}
    assert len(data.train) == 50
    assert_equal(data.train.batch(torch.arange(50)), slow_batch(COLUMNS, LENGTHS, range(50), deltas))


@pytest.mark.parametrize("seed", range(8))
def test_random_windows_equal_a_plain_reading(root, seed):
    draw = random.Random(seed)
    names = draw.sample(sorted(COLUMNS), draw.randint(1, 6))
    deltas = {name: [draw.randint(-40, 40) for _ in range(draw.randint(1, 5))] for name in names}
    drop = draw.choice([0, 1, 4])
    data = LeRobotData(str(root), deltas=deltas, features=names, drop_n_last_frames=drop)
    indices = torch.randint(len(data.train), (20,))
    columns = {name: COLUMNS[name] for name in names}
    assert len(data.train) == sum(max(0, length - drop) for length in LENGTHS)
    assert_equal(data.train.batch(indices), slow_batch(columns, LENGTHS, indices.tolist(), deltas, drop))


def test_an_episode_of_one_frame_is_padded_on_both_sides(root):
    batch = LeRobotData(str(root), deltas={"action": [-1, 0, 1]}).train.batch(torch.tensor([5]))
    assert batch["action_is_pad"].tolist() == [[True, False, True]]
    assert (batch["action"] == batch["action"][0, 1]).all()


def test_chosen_episodes_have_the_samples_that_they_have_among_all(root):
    whole = LeRobotData(str(root), n_obs_steps=2, chunk=9).train
    part = LeRobotData(str(root), n_obs_steps=2, chunk=9, episodes=[3, 0, 2], exclude_episodes=[0]).train
    assert_equal(part.batch(torch.arange(len(part))), whole.batch(torch.tensor([*range(6, 18), 18, 19])))


def test_times_in_seconds_are_the_same_windows(root):
    frames = LeRobotData(str(root), deltas={"action": [-2, 0, 3]}).train
    seconds = LeRobotData(str(root), delta_timestamps={"action": [-0.2, 0, 0.30001]}).train
    assert_equal(seconds.batch(torch.arange(50)), frames.batch(torch.arange(50)))


@pytest.mark.parametrize("index", [-1, 50])
def test_an_index_beyond_the_samples_is_an_error(root, index):
    with pytest.raises(IndexError, match="from 0 to 49"):
        LeRobotData(str(root)).train.batch(torch.tensor([0, index]))


def test_a_split_that_was_sent_to_another_process_has_the_same_samples(root):
    split = LeRobotData(str(root), n_obs_steps=2, chunk=3, held_out=0.4).held_out
    sent = pickle.loads(pickle.dumps(split))
    assert_equal(sent.batch(torch.arange(len(split))), split.batch(torch.arange(len(split))))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # where there are fewer processors than workers
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")  # Python 3.12 says so of every fork
def test_workers_serve_the_same_batches(root):
    split = LeRobotData(str(root), n_obs_steps=2, chunk=3).train
    here = ShuffledBatches(split, 16, seed=3)
    with closing(ShuffledBatches(split, 16, seed=3, workers=2)) as there:
        for step in range(5):
            assert_equal(next(there.of_update(step)), next(here.of_update(step)))
