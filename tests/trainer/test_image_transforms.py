"""Image transforms: any class by dotted path, the same numbers after a resume, errors before the first update."""

import pickle
import random

import pytest
import torch
from conftest import needs
from sample_robot_data import DATA, FRONT
from sample_transforms import Brightness

from trainer.errors import ConfigError
from trainer.lerobot_data.frames import FrameOptions, open_frames
from trainer.lerobot_data.image_transforms import make_transforms
from trainer.lerobot_data.reading import read_meta
from trainer.loop.batches import ShuffledBatches

SHAPE = (3, 8, 12)


def of(name, **params):
    return {"type": f"sample_transforms.{name}", "params": params}


def frames(samples=4, steps=2):
    return torch.randint(256, (samples, steps, *SHAPE), dtype=torch.uint8)


def test_without_transforms_frames_become_numbers_from_0_to_1():
    batch = frames()
    found = make_transforms([], SHAPE)(batch)
    assert found.dtype == torch.float32
    assert torch.equal(found, batch.float() / 255)


def test_transforms_are_applied_to_each_sample_in_order():
    batch, apply = frames(), make_transforms([of("Brightness"), of("Shift"), of("Brightness", low=2, high=2)], SHAPE)
    torch.manual_seed(5), random.seed(5)
    found = apply(batch)
    torch.manual_seed(5), random.seed(5)
    for sample, result in zip(batch, found, strict=True):
        expected = (Brightness()(sample.float() / 255) + random.random()) * 2
        torch.empty(()).uniform_()  # of the third
        torch.testing.assert_close(result, expected)


def test_a_function_is_called_with_its_parameters():
    batch = frames()
    found = make_transforms([of("function", factor=0.5), {"type": "torch.nn.functional.relu"}], SHAPE)
    assert torch.equal(found(batch), batch.float() / 255 * 0.5)
    assert torch.equal(pickle.loads(pickle.dumps(found))(batch), found(batch))


def test_building_transforms_draws_no_random_numbers():
    before = torch.get_rng_state(), random.getstate()
    make_transforms([of("Brightness"), of("Shift")], SHAPE)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (of("Crop"), r"image_transforms.0: .*Crop must return .*same shape.*\(1, 3, 8, 11\) of .*\(1, 3, 8, 12\)"),
        (of("Double"), "data.params.image_transforms.0: .*float32; it makes float64"),
        (of("Nothing"), "image_transforms.0: .*returns a NoneType"),
        (of("Failing"), r"image_transforms.0: .*fails on a frame.*no such kernel \(sample_transforms.py"),
        (of("Unbuilt"), r"image_transforms.0.params: .*cannot be built: RuntimeError: no weights"),
        (of("Brightness", lw=1), "image_transforms.0.params.lw: .*low"),
        (of("Brightness", low="much"), "image_transforms.0.params.low: .*got 'much'"),
        (of("Brightness", low=2.0), r"image_transforms.0.params: low must be <= high; got 2.0 and 1.5"),
        (of("Brightnes"), "image_transforms.0.type: .*has no Brightnes; did you mean 'Brightness'"),
        (of("NotCallable"), "image_transforms.0.type: .*is not a ImageTransform"),
        (of("function", degrees=3), "image_transforms.0: .*fails on a frame.*unexpected keyword argument 'degrees'"),
        ({"type": "sample_transforms.random"}, "image_transforms.0.type: .*is not a ImageTransform"),
        ({"type": "Brightness"}, "image_transforms.0.type: unknown image transform 'Brightness'"),
        ({"params": {}}, "image_transforms.0.type: required"),
        ({"type": "a.B", "parms": {}}, "image_transforms.0.parms: .*params"),
    ],
)
def test_a_transform_that_cannot_work_is_an_error_at_construction(spec, message):
    with pytest.raises(ConfigError, match=message):
        make_transforms([spec], SHAPE)


class Samples:
    """A split of transformed frames."""

    def __init__(self, transforms):
        meta = read_meta(DATA / "robot")
        self.frames = open_frames(meta, FRONT, meta.episodes, FrameOptions("lazy", video_backend="pyav"))
        self.apply = make_transforms(transforms, self.frames.shape)

    def __len__(self):
        return 53

    def batch(self, indices):
        return {"frames": self.apply(self.frames[indices[:, None]])}


def _batches(split, workers, updates):
    with ShuffledBatches(split, 8, seed=3, workers=workers) as batches:
        return [next(batches.of_update(update))["frames"] for update in updates]


@pytest.mark.parametrize(
    "transforms",
    [
        [of("Brightness"), of("Shift")],
        pytest.param(
            [
                {"type": "kornia.augmentation.ColorJiggle", "params": {"brightness": [0.8, 1.2], "hue": 0.1}},
                {"type": "kornia.augmentation.RandomAffine", "params": {"degrees": 5.0, "same_on_batch": True}},
            ],
            marks=needs("kornia"),
        ),
    ],
    ids=["own", "kornia"],
)
def test_batches_are_the_same_when_a_run_with_workers_is_resumed(transforms):
    split = Samples(transforms)
    whole = _batches(split, 2, range(10))
    resumed = _batches(split, 1, range(4, 10))  # in the second epoch from update 7 on
    assert not torch.equal(whole[0], whole[7])
    for update, batch in enumerate(resumed, 4):
        assert torch.equal(batch, whole[update])


def test_transforms_can_be_sent_to_worker_processes():
    batch, apply = frames(), make_transforms([of("Brightness")], SHAPE)
    sent = pickle.loads(pickle.dumps(apply))
    torch.manual_seed(1)
    expected = apply(batch)
    assert not torch.equal(apply(batch), expected)
    torch.manual_seed(1)
    assert torch.equal(sent(batch), expected)


@needs("kornia")
@pytest.mark.parametrize("same", [True, False])
def test_steps_of_a_sample_get_the_same_change_if_the_class_does_that(same):
    spec = {"type": "kornia.augmentation.ColorJiggle", "params": {"brightness": 0.4, "same_on_batch": same}}
    batch = frames(samples=5, steps=1).expand(-1, 3, -1, -1, -1)
    found = make_transforms([spec], SHAPE)(batch)
    steps_are_equal = [torch.equal(sample[0], sample[1]) for sample in found]
    assert all(steps_are_equal) if same else not any(steps_are_equal)
    assert not torch.equal(found[0] - batch[0] / 255, found[1] - batch[1] / 255)
