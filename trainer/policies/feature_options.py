"""The options that every policy of components has, and the features and modes that follow from them and the data."""

from collections.abc import Mapping, Sequence
from typing import TypedDict

from optimizer.config import Config, PositiveCount, nearest

from ..errors import ConfigError
from ..interfaces.dataset import Batch
from ..interfaces.features import Feature, FeatureType
from .normalization import NormalizationMode

PATH = "train.objective.params"

DEFAULT_MODES = {FeatureType.LANGUAGE: NormalizationMode.IDENTITY}
"""The modes of features that no option names. All other types have MEAN_STD, as in LeRobot's ACT."""

ELSEWHERE = {
    "n_obs_steps": "is a parameter of the data: data.params.n_obs_steps.",
    **dict.fromkeys(("chunk_size", "horizon"), "is a parameter of the data: data.params.chunk."),
    "drop_n_last_frames": "is a parameter of the data: data.params.drop_n_last_frames.",
    "device": "is decided by train.device.",
    "use_amp": "is decided by train.precision.",
    **dict.fromkeys(
        ("optimizer_lr", "optimizer_weight_decay", "optimizer_betas", "optimizer_eps", "optimizer_lr_backbone"),
        "belongs to the optimizer of a component: model.component_optims.NAME.params.",
    ),
}
"""Options of LeRobot's policies that have another place here, with that place."""

READABLE = (FeatureType.STATE, FeatureType.VISUAL, FeatureType.ENV, FeatureType.LANGUAGE)
"""Types of features that a policy may read. It does not have the others when it acts."""

Shape = Sequence[PositiveCount]


class FeatureConfig(Config):
    """A feature as a config names it."""

    type: FeatureType
    """STATE, VISUAL, ENV or LANGUAGE for an input; ACTION for the action."""
    shape: tuple[PositiveCount, ...]
    """The shape of one frame. VISUAL: [channels, height, width]."""


class PolicyOptions(TypedDict, total=False):
    """Options of a policy. None is required here."""

    wiring: Sequence[str]
    """Lines like `tokens = backbone(observation.image)`. An argument is a feature or the result of an earlier line."""
    action: str
    """Name of the feature that is predicted; left out: `action`."""
    normalization_mapping: Mapping[str, NormalizationMode]
    """Modes by type of feature or by name: `{VISUAL: MEAN_STD, STATE: MIN_MAX, observation.effort: IDENTITY}`. A name
    goes before a type. Features that no option names have MEAN_STD."""
    input_normalization_modes: Mapping[str, NormalizationMode]
    """Modes of inputs by name: `{observation.image: mean_std}`. They go before `normalization_mapping`'s types."""
    output_normalization_modes: Mapping[str, NormalizationMode]
    """The mode of the action by its name: `{action: min_max}`."""
    input_features: Mapping[str, FeatureConfig]
    """The inputs by name, with type and shape: `{observation.state: {type: ENV, shape: [3]}}`. The type may differ from
    the data set's."""
    output_features: Mapping[str, FeatureConfig]
    """The action by name, with type and shape."""
    input_shapes: Mapping[str, Shape]
    """The shapes of the inputs by name, which the data must have."""
    output_shapes: Mapping[str, Shape]
    """The shape of the action by name, which the data must have."""
    n_action_steps: PositiveCount | None
    """Actions of a prediction, from now on, that are carried out before the next one; null: all."""
    temporal_ensemble_coeff: float | None
    """If given, a prediction is made at each time step, and the action is the average of all that are for it, with
    weights exp(-coefficient * i), i = 0 for the oldest; null: no average."""


_OF_INPUTS = ("input_features", "input_shapes", "input_normalization_modes")
_OF_ACTION = ("output_features", "output_shapes", "output_normalization_modes")
_SPELLINGS = (
    ("input_features", "input_shapes"),
    ("output_features", "output_shapes"),
)


def check_options(options: PolicyOptions) -> None:
    """Check what can be checked without data.

    Raises:
        ConfigError: Two options give one thing, an option for the action names another feature, or a feature has a type
            that it cannot have.
    """
    for one, other in _SPELLINGS:
        if one in options and other in options:
            raise ConfigError(f"{PATH}.{one} and {PATH}.{other}: two spellings of one thing. Leave one of them out.")
    for option in ("input_normalization_modes", "output_normalization_modes"):
        if twice := _names(options, option) & _names(options, "normalization_mapping"):
            name = sorted(twice)[0]
            raise ConfigError(f"{PATH}.{option}.{name} and {PATH}.normalization_mapping.{name}: leave one of them out.")
    action = action_name(options)
    for option in _OF_ACTION:
        if other_names := sorted(_names(options, option) - {action}):
            raise ConfigError(
                f"{PATH}.{option}.{other_names[0]}: the policy predicts {action!r}. `action` names another one."
            )
    for option in _OF_INPUTS:
        if action in _names(options, option):
            raise ConfigError(f"{PATH}.{option}.{action}: it is predicted, and cannot be an input.")
    _check_types("input_features", options.get("input_features", {}), READABLE)
    _check_types("output_features", options.get("output_features", {}), (FeatureType.ACTION,))
    if options.get("temporal_ensemble_coeff") is not None and options.get("n_action_steps") not in (None, 1):
        raise ConfigError(
            f"{PATH}.n_action_steps: must be 1 with temporal_ensemble_coeff, which predicts at each time step;"
            f" got {options['n_action_steps']}"
        )


def action_name(options: PolicyOptions) -> str:
    """Return the name of the feature that is predicted."""
    return options.get("action", "action")


def known_features(options: PolicyOptions, of_data: Mapping[str, Feature], batch: Batch) -> dict[str, Feature]:
    """Return the features of the data set, with those of the options in their place.

    Args:
        options: The policy's.
        of_data: The data set's features.
        batch: A batch of the data set.

    Raises:
        ConfigError: An option names a feature that the data do not have, or another shape than theirs.
    """
    known = dict(of_data)
    for option in ("input_features", "output_features"):
        for name, given in _mapping(options, option).items():
            _require_known(f"{PATH}.{option}.{name}", name, [*of_data, *batch])
            assert isinstance(given, FeatureConfig)
            known[name] = Feature(given.type, given.shape)
            if name in of_data:
                _require_shape(f"{PATH}.{option}.{name}.shape", given.shape, of_data[name])
    for option in ("input_shapes", "output_shapes"):
        for name, shape in _mapping(options, option).items():
            _require_known(f"{PATH}.{option}.{name}", name, list(of_data))
            assert isinstance(shape, Sequence)
            _require_shape(f"{PATH}.{option}.{name}", shape, of_data[name])
    return known


def check_inputs(options: PolicyOptions, inputs: Sequence[str]) -> None:
    """Check the options for inputs against the inputs that the wiring reads.

    Raises:
        ConfigError: They name an input that the wiring does not read, or leave one out.
    """
    for option in _OF_INPUTS:
        for name in _mapping(options, option):
            if name not in inputs:
                raise ConfigError(f"{PATH}.{option}.{name}: the wiring does not read it{nearest(name, inputs)}")
    for option in ("input_features", "input_shapes"):
        if option in options and (left_out := [name for name in inputs if name not in _names(options, option)]):
            raise ConfigError(f"{PATH}.{option}: the wiring reads {left_out[0]!r} too. Add it, or leave out {option}.")


def normalization_modes(options: PolicyOptions, features: Mapping[str, Feature]) -> dict[str, NormalizationMode]:
    """Return the mode of each of a policy's features.

    Raises:
        ConfigError: The mapping names neither a type nor one of the features.
    """
    mapping = options.get("normalization_mapping", {})
    types = [kind.value for kind in FeatureType]
    for name in mapping:
        if name not in types and name not in features:
            known = [*types, *features]
            raise ConfigError(
                f"{PATH}.normalization_mapping.{name}: neither a type of feature nor a feature of the policy"
                f"{nearest(name, known)} Known: {', '.join(known)}"
            )
    named = {
        **mapping,
        **options.get("input_normalization_modes", {}),
        **options.get("output_normalization_modes", {}),
    }
    defaults = {kind: DEFAULT_MODES.get(kind, NormalizationMode.MEAN_STD) for kind in FeatureType}
    return {
        name: named.get(name, named.get(feature.type, defaults[feature.type])) for name, feature in features.items()
    }


def _check_types(option: str, given: Mapping[str, FeatureConfig], allowed: Sequence[FeatureType]) -> None:
    for name, feature in given.items():
        if feature.type not in allowed:
            raise ConfigError(f"{PATH}.{option}.{name}.type: must be {' or '.join(allowed)}; got {feature.type}")


def _mapping(options: PolicyOptions, option: str) -> Mapping[str, object]:
    value = options.get(option, {})
    assert isinstance(value, Mapping)
    return value


def _names(options: PolicyOptions, option: str) -> set[str]:
    return set(_mapping(options, option))


def _require_known(path: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise ConfigError(f"{path}: the data set has no such feature{nearest(name, known)} It has {', '.join(known)}")


def _require_shape(path: str, shape: Sequence[int], feature: Feature) -> None:
    if tuple(shape) != feature.shape:
        raise ConfigError(f"{path}: must be the data set's, {list(feature.shape)}; got {list(shape)}")
