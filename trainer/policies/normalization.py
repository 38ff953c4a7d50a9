"""Normalization of features by statistics of the data set, and back."""

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum

import torch
from torch import Tensor, nn

from optimizer.config import listed

from ..errors import ConfigError
from ..interfaces.dataset import Batch
from ..interfaces.features import Feature, FeatureType

EPS = 1e-8
"""Added to a standard deviation, and in place of a range of 0. LeRobot's value."""
_ROUNDING = 1e-6
"""A spread that is a smaller part of the range from min to max is an error of rounding."""


class NormalizationMode(StrEnum):
    """A formula that a feature is normalized by. The names are LeRobot's; lower case is the same."""

    MEAN_STD = "MEAN_STD"
    """(x - mean) / (std + 1e-8)."""
    MIN_MAX = "MIN_MAX"
    """From [min, max] to [-1, 1]."""
    QUANTILES = "QUANTILES"
    """From [q01, q99], the quantiles of 1 % and 99 %, to [-1, 1]."""
    QUANTILE10 = "QUANTILE10"
    """From [q10, q90] to [-1, 1]."""
    IDENTITY = "IDENTITY"
    """As it is, in its own type; frames of type uint8 in 0..1."""

    @classmethod
    def _missing_(cls, value: object) -> "NormalizationMode | None":
        return cls.__members__.get(value.upper()) if isinstance(value, str) else None


NEEDED: Mapping[NormalizationMode, Sequence[str]] = {
    NormalizationMode.MEAN_STD: ("mean", "std"),
    NormalizationMode.MIN_MAX: ("min", "max"),
    NormalizationMode.QUANTILES: ("q01", "q99"),
    NormalizationMode.QUANTILE10: ("q10", "q90"),
    NormalizationMode.IDENTITY: (),
}
"""The two statistics that each mode reads."""


class Normalization(nn.Module):
    """Normalizes features by their statistics, which are its buffers.

    The formulas are those of `NormalizerProcessorStep` in LeRobot 0.6.1, bit for bit. Frames of type uint8 are divided
    by 255 first; those of another type are in 0..1 already.

    Args:
        features: The features by name.
        modes: The mode of each feature.
        statistics: The statistics of each feature by name: `mean`, `std`, `min` and so on, tensors that broadcast to
            the feature's shape, or one value a channel for frames.

    Raises:
        ConfigError: A statistic that a mode needs is missing, is not finite or has another shape.
    """

    def __init__(
        self,
        features: Mapping[str, Feature],
        modes: Mapping[str, NormalizationMode],
        statistics: Mapping[str, object],
    ) -> None:
        super().__init__()
        self._by_name = {
            name: _Formula(feature, modes[name], _needed(name, feature, modes[name], statistics.get(name)))
            for name, feature in features.items()
        }
        self._formulas = nn.ModuleList(self._by_name.values())  # names may contain dots, which modules' may not

    def normalize(self, batch: Batch) -> Batch:
        """Return the features in `batch` normalized, and all other entries as they are.

        Args:
            batch: Tensors (…, *shape) by feature, with any number of dimensions before the feature's shape.
        """
        return {name: self(name, tensor) if name in self._by_name else tensor for name, tensor in batch.items()}

    def forward(self, name: str, tensor: Tensor) -> Tensor:
        """Return one feature (…, *shape) normalized, in float32; with IDENTITY in its own type."""
        normalized: Tensor = self._formula(name, tensor.device)(tensor)
        return normalized

    def unnormalize(self, name: str, tensor: Tensor) -> Tensor:
        """Return a normalized feature (…, *shape) in the units of the data, float32."""
        return self._formula(name, tensor.device).inverse(tensor.float())

    def statistics(self) -> dict[str, dict[str, Tensor]]:
        """Return the statistics by feature, from which the same object can be made again."""
        return {name: formula.statistics() for name, formula in self._by_name.items()}

    def constants(self, statistics: Mapping[str, object]) -> Iterator[str]:
        """Yield one line for each feature with values that never change in the data.

        Args:
            statistics: Of the data set, as the constructor takes them.
        """
        for name, formula in self._by_name.items():
            if formula.mode is NormalizationMode.IDENTITY:
                continue
            if places := torch.nonzero(formula.is_constant(statistics.get(name)).flatten()).flatten().tolist():
                low, high = NEEDED[formula.mode]
                where = "in the data" if high in ("std", "max") else f"from {low} to {high}"
                yield (
                    f"{name}: constant {where} at index {listed(places)}. {formula.mode} divides by almost 0 there: any"
                    " other value becomes very large."
                )

    def _formula(self, name: str, device: torch.device) -> "_Formula":
        """Return the formula of a feature, with its statistics on `device`."""
        formula = self._by_name[name]
        return formula if formula.low.device == device else formula.to(device)


class _Formula(nn.Module):
    """The formula of one feature. `low` and `high` are its statistics in the order of `NEEDED`."""

    low: Tensor
    high: Tensor
    divisor: Tensor

    def __init__(self, feature: Feature, mode: NormalizationMode, statistics: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.mode = mode
        self._is_visual = feature.type is FeatureType.VISUAL
        low, high = statistics.values() if statistics else (torch.zeros(()), torch.ones(()))
        self.register_buffer("low", low)
        self.register_buffer("high", high)
        spread = self.spread()
        divisor = high + EPS if mode is NormalizationMode.MEAN_STD else torch.where(spread == 0, EPS, spread)
        self.register_buffer("divisor", divisor)

    def forward(self, tensor: Tensor) -> Tensor:
        is_bytes = self._is_visual and tensor.dtype == torch.uint8
        if self.mode is NormalizationMode.IDENTITY and not is_bytes:
            return tensor
        value = tensor.to(torch.float32, copy=True)  # so that each step below needs no new memory
        if is_bytes:
            value.div_(255)
        if self.mode is NormalizationMode.IDENTITY:
            return value
        if self.mode is NormalizationMode.MEAN_STD:
            return value.sub_(self.low).div_(self.divisor)
        return value.sub_(self.low).mul_(2).div_(self.divisor).sub_(1)

    def inverse(self, value: Tensor) -> Tensor:
        match self.mode:
            case NormalizationMode.IDENTITY:
                return value
            case NormalizationMode.MEAN_STD:
                return value * self.high + self.low
            case NormalizationMode.MIN_MAX:
                return (value + 1) / 2 * self.divisor + self.low
        return (value + 1) * self.divisor / 2 + self.low  # LeRobot rounds quantiles in another order

    def statistics(self) -> dict[str, Tensor]:
        return dict(zip(NEEDED[self.mode], (self.low, self.high), strict=False))

    def is_constant(self, given: object) -> Tensor:
        """Return where the spread is 0, or an error of rounding beside the range of the data.

        LeRobot computes std and quantiles of numbers that are all the same as up to 1e-3 of them, or 1e-10.

        Args:
            given: All statistics of the feature.
        """
        spread = self.spread()
        if self._is_visual or not isinstance(given, Mapping) or not {"min", "max"} <= given.keys():
            return spread == 0
        extent = torch.as_tensor(given["max"]) - torch.as_tensor(given["min"])
        return (extent == 0) | (spread <= _ROUNDING * extent)

    def spread(self) -> Tensor:
        """Return the standard deviation, or the range; 0 where the data are constant."""
        has_range = self.mode not in (NormalizationMode.MEAN_STD, NormalizationMode.IDENTITY)
        return self.high - self.low if has_range else self.high


def _needed(name: str, feature: Feature, mode: NormalizationMode, given: object) -> dict[str, Tensor]:
    """Return the statistics of one feature that its mode reads, as float32 tensors.

    Raises:
        ConfigError: One is missing or does not fit.
    """
    there = given if isinstance(given, Mapping) else {}
    if missing := [key for key in NEEDED[mode] if key not in there]:
        raise ConfigError(
            f"train.objective.params: {name!r} is normalized by {mode}, which needs {' and '.join(NEEDED[mode])} of it;"
            f" the data set's statistics have no {' and no '.join(missing)} ({listed(list(there)) or 'none of it'})."
            " Name another mode in normalization_mapping: IDENTITY needs none."
        )
    return {key: _fitting(f"the statistic {key} of {name!r}", feature, there[key]) for key in NEEDED[mode]}


def _fitting(what: str, feature: Feature, given: object) -> Tensor:
    value = torch.as_tensor(given, dtype=torch.float32).detach().clone()
    if feature.type is FeatureType.VISUAL and value.dim() == 1:
        value = value.reshape(-1, 1, 1)
    fits = value.dim() <= len(feature.shape) and all(
        size in (1, length) for size, length in zip(reversed(value.shape), reversed(feature.shape), strict=False)
    )
    if not fits or not value.isfinite().all():
        reason = f"has shape {list(value.shape)}" if not fits else "is not finite"
        raise ConfigError(f"data: {what}, whose shape is {list(feature.shape)}, {reason}")
    return value
