"""The data set `transitions` from Minari's folder, written by Minari itself."""

import numpy as np
import pytest
import torch
from conftest import needs
from sample_transitions import LENGTHS, arrays, opened

minari = pytest.importorskip("minari", reason="needs minari")
spaces = pytest.importorskip("gymnasium", reason="needs the extra `sim`").spaces

STATE, NEXT = "observation.state", "next.observation.state"
BOX = spaces.Box(-100, 100, (3,), np.float32)


def write(name, observation_space=BOX, wrap=lambda values: values, data_format="arrow"):
    """Write a data set of the episodes in `arrays`, in which each observation follows the one before."""
    whole, start = arrays(), 0
    buffers = []
    for length in LENGTHS:
        rows = slice(start, start + length)
        start += length
        buffers.append(
            minari.data_collector.EpisodeBuffer(
                observations=wrap(
                    np.concatenate([whole["obs"][rows], whole["next_obs"][rows][-1:]]).astype(np.float32)
                ),
                actions=whole["action"][rows],
                rewards=list(whole["reward"][rows]),
                terminations=list(whole["terminal"][rows] == 1),
                truncations=list(whole["timeout"][rows] == 1),
            )
        )
    minari.create_dataset_from_buffers(
        name,
        buffers,
        observation_space=observation_space,
        action_space=spaces.Box(-1, 3, (2,), np.float32),
        data_format=data_format,
    )


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))


@pytest.mark.filterwarnings("ignore")  # Minari's, of authors and descriptions that are not given
@pytest.mark.parametrize("data_format", ["arrow", pytest.param("hdf5", marks=needs("h5py"))])
def test_transitions_are_those_of_the_episodes(data_format):
    write("arm/random-v0", data_format=data_format)
    whole, data = arrays(), opened(minari="arm/random-v0", held_out=[3])
    batch = data.train.batch(torch.arange(len(data.train)))
    kept = sum(LENGTHS[:3])
    np.testing.assert_array_equal(batch["action"], whole["action"][:kept])
    np.testing.assert_array_equal(batch["terminal"], whole["terminal"][:kept])
    np.testing.assert_allclose(batch["reward"], whole["reward"][:kept], rtol=1e-6)
    np.testing.assert_array_equal(batch[STATE], whole["obs"][:kept].astype(np.float32))
    ends = np.cumsum(LENGTHS[:3]) - 1
    np.testing.assert_array_equal(batch[NEXT][ends], whole["next_obs"][ends])
    inside = np.setdiff1d(np.arange(kept), ends)
    np.testing.assert_array_equal(batch[NEXT][inside], batch[STATE][inside + 1])
    assert data.statistics["return"]["count"] == 4


@pytest.mark.filterwarnings("ignore")
def test_what_is_not_there_or_not_a_vector_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"data.params.minari: no data set 'arm/none-v0' here. Run: minari download"):
        opened(minari="arm/none-v0")
    write("arm/random-v0")
    (tmp_path / "arm/random-v0/data/metadata.json").write_text("{}")
    with pytest.raises(ValueError, match=r"data.params.minari: 'arm/random-v0' cannot be read: "):
        opened(minari="arm/random-v0")
    write("arm/goal-v0", spaces.Dict({"goal": BOX}), lambda values: {"goal": values})
    with pytest.raises(
        ValueError, match=r"arm/goal-v0: observations must be vectors of floating-point numbers; got dict"
    ):
        opened(minari="arm/goal-v0")
