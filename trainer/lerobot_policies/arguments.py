"""The parameters of LeRobot's policies: the fields of their config classes, with names, types and defaults."""

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Annotated, Any, get_type_hints

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from optimizer.config import check_arguments, refuse_under_no_plugins

from ..policies.feature_options import FeatureConfig

_OF_THE_HUB = "is not part of a run. `innerstep export` writes the folder that LeRobot loads and pushes."
_FEATURES = ("input_features", "output_features")

REFUSED: Mapping[str, str] = {
    "device": "is decided by train.device. Leave it out.",
    "use_amp": "is decided by train.precision. Leave it out.",
    "use_peft": "is not supported: adapters cannot be trained or loaded. Leave it out.",
    "pretrained_path": "is model.policy.path: a folder, or hf://ORG/NAME.",
    "pretrained_revision": "belongs in model.policy.path: hf://ORG/NAME@REVISION.",
    **dict.fromkeys(("push_to_hub", "repo_id", "private", "tags", "license"), _OF_THE_HUB),
}
"""Fields of LeRobot's configs that are decided elsewhere, with the reasons."""


def signature_of(config_class: type) -> inspect.Signature:
    """Return the signature of a policy's constructor: one named parameter for each field of its config class."""
    hints = get_type_hints(config_class)
    parameters = []
    for field in dataclasses.fields(config_class):
        annotation: Any = hints[field.name]
        if field.name in REFUSED:
            annotation = Annotated[Any, BeforeValidator(_refuse(REFUSED[field.name]))]
        elif field.name in _FEATURES:
            annotation = dict[str, FeatureConfig] | None
        else:
            annotation = Annotated[annotation, BeforeValidator(_without_code(_default(field)))]
        kind = inspect.Parameter.KEYWORD_ONLY
        parameters.append(inspect.Parameter(field.name, kind, default=_default(field), annotation=annotation))
    return inspect.Signature(parameters)


def validated(cls: type, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return `params`, given as plain values, as the constructor of `cls` takes them.

    Raises:
        ValidationError: They do not fit.
    """
    checked = check_arguments(cls, params)
    fields = type(checked).model_fields
    return {str(fields[name].alias): getattr(checked, name) for name in checked.model_fields_set}


def config_of(config_class: type, params: Mapping[str, Any]) -> Any:
    """Return LeRobot's config object of validated `params`.

    Its device is the CPU, where every policy is built; the objective sets it to that of the run.

    Raises:
        ValueError: LeRobot refuses the values, or a package is missing.
    """
    values = {name: _lerobot_features(value) if name in _FEATURES else value for name, value in params.items()}
    try:
        return config_class(**values, device="cpu", push_to_hub=False)
    except ImportError as error:
        raise ValueError(f"LeRobot's {config_class.__name__} needs a package that is missing: {error}") from error
    except Exception as error:  # each config class has checks that raise their own
        message = " ".join(str(error).split())
        raise ValueError(f"LeRobot's {config_class.__name__} refuses them: {message}") from error


def _lerobot_features(features: Mapping[str, Any] | None) -> dict[str, Any] | None:
    from lerobot.configs.types import FeatureType, PolicyFeature

    if features is None:
        return None
    given = {name: FeatureConfig.model_validate(feature) for name, feature in features.items()}
    return {name: PolicyFeature(FeatureType(feature.type.value), feature.shape) for name, feature in given.items()}


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default is not dataclasses.MISSING:
        return plain(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return plain(field.default_factory())
    return inspect.Parameter.empty


def plain(value: Any) -> Any:
    """Return a value of a config of LeRobot's as YAML has it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, Mapping):
        return {plain(name): plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def _without_code(default: Any) -> Callable[[object], object]:
    """Return a check of a field that refuses repositories and folders which LeRobot does not itself name.

    It holds where a config may run no code: for some of them LeRobot sets `trust_remote_code`.
    """

    def check(value: object) -> object:
        if value != default:
            refuse_under_no_plugins(*(f"code of {place}" for place in _places(value)))
        return value

    return check


def _places(value: object) -> Iterator[str]:
    """Yield the texts in a value that can name a repository or a folder."""
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple):
        for item in value:
            yield from _places(item)
    elif isinstance(value, str) and (set(value) & {"/", "\\"} or value in (".", "..")):
        yield value


def _refuse(reason: str) -> Callable[[object], object]:
    def refuse(value: object) -> object:
        raise PydanticCustomError("rule", "{reason}", {"reason": reason})

    return refuse
