"""Normalization: the formulas, frames, the way back, and statistics that do not fit."""

import pytest
import torch

from trainer import ConfigError
from trainer.interfaces.features import Feature, FeatureType
from trainer.policies.normalization import NEEDED, Normalization, NormalizationMode

STATE, FRAMES = "observation.state", "observation.images.top"
FEATURES = {STATE: Feature(FeatureType.STATE, (3,)), FRAMES: Feature(FeatureType.VISUAL, (2, 1, 2))}
STATISTICS = {
    STATE: {
        "mean": [0.5, -2.0, 4.0],
        "std": [2.0, 0.25, 0.0],
        "min": [-1.0, -4.0, 4.0],
        "max": [3.0, 0.0, 4.0],
        "q01": [-0.5, -3.0, 4.0],
        "q99": [2.5, -1.0, 4.0],
        "q10": [0.0, -2.5, 4.0],
        "q90": [1.0, -1.5, 4.0],
    },
    FRAMES: {"mean": [0.5, 0.25], "std": [0.5, 0.125], "min": [0.0, 0.2], "max": [1.0, 0.6]},
}
VALUES = [1.5, -1.0, 4.0]
GOLDEN = {  # of LeRobot 0.6.1, for VALUES; the last column is constant in the data
    "MEAN_STD": [0.5, 4.0, 0.0],
    "MIN_MAX": [0.25, 0.5, -1.0],
    "QUANTILES": [1 / 3, 1.0, -1.0],
    "QUANTILE10": [2.0, 2.0, -1.0],
    "IDENTITY": VALUES,
}


def of(mode, frames="MEAN_STD", statistics=STATISTICS):
    return Normalization(FEATURES, {STATE: NormalizationMode(mode), FRAMES: NormalizationMode(frames)}, statistics)


@pytest.mark.parametrize("mode", NormalizationMode)
def test_each_mode_has_the_values_of_lerobot(mode):
    normalized = of(mode)(STATE, torch.tensor([[VALUES]]))
    torch.testing.assert_close(normalized, torch.tensor([[GOLDEN[mode]]]))


@pytest.mark.parametrize("mode", NormalizationMode)
def test_unnormalize_undoes_normalize(mode):
    values = torch.randn(5, 4, 3) * 3
    values[..., 2] = 4.0  # constant in the data
    normalization = of(mode)
    torch.testing.assert_close(normalization.unnormalize(STATE, normalization(STATE, values)), values)


def test_bytes_of_frames_are_divided_by_255_and_floats_are_not():
    frames = torch.tensor([0, 255, 51, 102], dtype=torch.uint8).reshape(1, 1, 2, 1, 2)
    expected = torch.tensor([-1.0, 1.0, -0.4, 1.2]).reshape(frames.shape)
    normalization = of("IDENTITY")
    torch.testing.assert_close(normalization(FRAMES, frames), expected)
    torch.testing.assert_close(normalization(FRAMES, frames / 255), expected)
    torch.testing.assert_close(of("IDENTITY", "IDENTITY")(FRAMES, frames), frames / 255)


def test_a_batch_is_normalized_by_name_and_not_changed_in_place():
    batch = {STATE: torch.tensor([VALUES]), "task_index": torch.tensor([3])}
    normalized = of("MIN_MAX").normalize(batch)
    assert normalized["task_index"] is batch["task_index"]
    assert batch[STATE].tolist() == [VALUES]
    torch.testing.assert_close(normalized[STATE], torch.tensor([GOLDEN["MIN_MAX"]]))


def test_identity_keeps_the_type_of_whole_numbers():
    assert of("IDENTITY")(STATE, torch.tensor([[1, 2, 3]], dtype=torch.uint8)).dtype == torch.uint8


def test_the_statistics_are_those_of_the_mode_and_no_others():
    normalization = of("QUANTILES")
    found = normalization.statistics()
    assert {name: list(values) for name, values in found.items()} == {STATE: ["q01", "q99"], FRAMES: ["mean", "std"]}
    assert found[STATE]["q99"].tolist() == STATISTICS[STATE]["q99"]
    assert len(normalization.state_dict()) == 6  # and what each is divided by
    again = of("QUANTILES", statistics=found)
    assert torch.equal(again(STATE, torch.tensor([VALUES])), normalization(STATE, torch.tensor([VALUES])))


@pytest.mark.parametrize("name", ["a.b.c", "values", "type", "forward"])
def test_a_feature_may_have_any_name(name):
    feature = {name: Feature(FeatureType.STATE, (1,))}
    normalization = Normalization(feature, {name: NormalizationMode.MIN_MAX}, {name: {"min": [0.0], "max": [2.0]}})
    assert normalization(name, torch.tensor([[2.0]])).tolist() == [[1.0]]


def test_modes_are_read_in_either_case():
    assert NormalizationMode("quantile10") is NormalizationMode.QUANTILE10
    with pytest.raises(ValueError, match="minmax"):
        NormalizationMode("minmax")


@pytest.mark.parametrize("mode", [mode for mode in NormalizationMode if NEEDED[mode]])
def test_missing_statistics_are_named(mode):
    statistics = {**STATISTICS, STATE: {"count": [7], NEEDED[mode][0]: [0.0]}}
    with pytest.raises(ConfigError, match=f"'{STATE}' .*{mode}.* needs {' and '.join(NEEDED[mode])}") as error:
        of(mode, statistics=statistics)
    assert f"have no {NEEDED[mode][1]} (count, {NEEDED[mode][0]})" in str(error.value)
    with pytest.raises(ConfigError, match="none of it"):
        of(mode, statistics={FRAMES: STATISTICS[FRAMES]})


@pytest.mark.parametrize(
    ("mean", "reason"),
    [([0.0, 1.0], r"has shape \[2\]"), ([[0.0] * 3] * 2, r"has shape \[2, 3\]"), ([float("nan")] * 3, "not finite")],
)
def test_statistics_that_do_not_fit_the_feature_are_refused(mean, reason):
    statistics = {**STATISTICS, STATE: {"mean": mean, "std": [1.0] * 3}}
    with pytest.raises(ConfigError, match=f"mean of '{STATE}'.*{reason}"):
        of("MEAN_STD", statistics=statistics)


def test_constant_values_are_reported_in_one_line():
    (line,) = of("MIN_MAX").constants(STATISTICS)
    assert STATE in line
    assert "index 2" in line
    assert "MIN_MAX" in line
    assert list(of("IDENTITY").constants({STATE: {"min": [0.0] * 3, "max": [0.0, 1.0, 1e9]}})) == []
    (line,) = of("MEAN_STD").constants(STATISTICS)
    assert "index 2" in line
    only = {name: {key: values[key] for key in ("mean", "std")} for name, values in STATISTICS.items()}
    (line,) = of("MEAN_STD").constants(only)
    assert "index 2" in line


def test_constant_values_are_reported_where_lerobot_rounds_their_spread():
    """Its std of a constant is up to 1e-3 of it, and its quantiles lie 1e-10 beside it."""
    low, high = [512.3, 0.0, 0.0], [512.3, 0.0, 1.0]  # the last is 0 in nearly all frames
    statistics = {"min": low, "max": high, "mean": [512.3, 0.0, 0.001], "std": [0.05, 0.0, 0.03]}
    statistics |= {"q01": [512.3, -1e-10, -1e-10], "q99": [512.3, 9.6e-11, 9.6e-11]}
    (line,) = of("MEAN_STD", statistics={**STATISTICS, STATE: statistics}).constants({STATE: statistics})
    assert f"{STATE}: constant in the data at index 0, 1." in line
    (line,) = of("QUANTILES", statistics={**STATISTICS, STATE: statistics}).constants({STATE: statistics})
    assert f"{STATE}: constant from q01 to q99 at index 0, 1, 2." in line
