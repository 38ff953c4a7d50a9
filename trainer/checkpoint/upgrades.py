"""Checkpoints of other versions: what they say of the config, as this version would have written it."""

from collections.abc import Container, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from optimizer import Horizon
from optimizer.config import check_arguments, explain, nearest, nest, signature_model

from ..config.class_choice import Choice
from ..config.schema import ComponentConfig, DataConfig, ExperimentConfig, OptimConfig, TrainConfig
from ..runtime.version import newer
from ..setup.optimizers import resolved_fields

LASTING: dict[type[BaseModel], tuple[str, ...]] = {
    DataConfig: ("type", "params", "batch_size", "drop_last"),
    ComponentConfig: ("type", "params", "freeze"),
    OptimConfig: tuple(OptimConfig.model_fields),
    TrainConfig: ("objective", "grad_clip_norm", "precision", "accumulate", "compile"),
}
"""The fields that make the training what it is: a checkpoint holds them, and a resume compares them.

One that a checkpoint lacks, because it is older than the field, has the field's default.
"""


def brought_up(values: Mapping[str, Any], config: ExperimentConfig) -> dict[str, Any]:
    """Return the trainer's values of a checkpoint with every field in their `config` that this version knows.

    config: the run's. What is of another class than there, or would import what the run does not name, stays as it is.
    """
    saved = values["config"]
    named = set(strings(config.model_dump(mode="json")))
    model = {name: dict(fields) for name, fields in saved["model"].items()}
    for name, fields in model["components"].items():
        known = config.model.components.get(name)
        model["components"][name] = _with_params(_filled(ComponentConfig, fields), known)
    horizon = values["horizon"]
    for name, fields in model["component_optims"].items():
        known_optim = config.model.component_optims.get(name)
        filled = _filled(OptimConfig, fields)
        if known_optim is not None and _is_alike(filled, known_optim) and _names_nothing_else(filled, named):
            filled = _optimizer(filled, known_optim, horizon)
        model["component_optims"][name] = filled
    train = _filled(TrainConfig, saved["train"])
    train["objective"] = _with_params(_filled_choice(train["objective"]), config.train.objective)
    data = _with_params(_filled(DataConfig, saved["data"]), config.data)
    seed = ExperimentConfig.model_fields["seed"].default
    return {**values, "config": {"seed": seed, **saved, "data": data, "model": model, "train": train}}


def unknown_fields(values: Mapping[str, Any], config: ExperimentConfig) -> list[str]:
    """Return a line for each field in the `config` of a checkpoint that this version does not know, and one on what to
    do if a newer version wrote it.
    """
    saved = values["config"]
    lines = [*_unknown("data", DataConfig, saved["data"]), *_unknown("train", TrainConfig, saved["train"])]
    sections: list[tuple[str, Any, Choice | None]] = [("data", saved["data"], config.data)]
    sections.append(("train.objective", saved["train"]["objective"], config.train.objective))
    for name, fields in saved["model"]["components"].items():
        lines += _unknown(f"model.components.{name}", ComponentConfig, fields)
        sections.append((f"model.components.{name}", fields, config.model.components.get(name)))
    for name, fields in saved["model"]["component_optims"].items():
        lines += _unknown(f"model.component_optims.{name}", OptimConfig, fields)
        sections.append((f"model.component_optims.{name}", fields, config.model.component_optims.get(name)))
    named = set(strings(config.model_dump(mode="json")))
    for path, fields, known in sections:
        if known is not None and _is_alike(fields, known) and _names_nothing_else(fields, named):
            lines += _unknown_params(path, fields["params"], known)
    advice = newer(values.get("provenance", {}).get("innerstep"))
    return [*lines, advice] if lines and advice else lines


def strings(value: Any) -> Iterator[str]:
    """Yield every text in plain values."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from strings(item)
        if isinstance(value, Mapping):
            yield from value


def _names_nothing_else(saved: Any, named: Container[str]) -> bool:
    """Return whether every dotted path in `saved` is among `named` too: a checkpoint brings no code."""
    return all(text in named for text in strings(saved) if "." in text)


def _is_alike(fields: Mapping[str, Any], known: Choice) -> bool:
    return fields.get("type") == known.type


def _filled(model: type[BaseModel], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return `fields` with the default of each lasting one that is absent, if it has a default."""
    missing = [name for name in LASTING[model] if name not in fields and not model.model_fields[name].is_required()]
    return {**fields, **{name: model.model_fields[name].get_default(call_default_factory=True) for name in missing}}


def _filled_choice(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"params": {}, **fields}


def _with_params(fields: Mapping[str, Any], known: Choice | None) -> dict[str, Any]:
    """Return `fields` with its params as `known` has them where one of the two leaves out what the other gives by its
    default: an argument that the class has got since, or has lost.
    """
    result = dict(fields)
    if known is None or not _is_alike(fields, known):
        return result
    params, defaults = dict(fields["params"]), _defaults(known.chosen)
    for name in {*params, *known.params} & defaults.keys():
        if name not in params and known.params[name] == defaults[name]:
            params[name] = known.params[name]
        elif name not in known.params and params.get(name) == defaults[name]:
            del params[name]
    return result | {"params": params}


def _defaults(cls: type[Any]) -> dict[str, Any]:
    """Return the defaults of the parameters of a class, by name."""
    model = cls if issubclass(cls, BaseModel) else signature_model(cls)
    return {
        field.alias or name: field.get_default(call_default_factory=True)
        for name, field in model.model_fields.items()
        if not field.is_required()
    }


def _optimizer(fields: dict[str, Any], known: OptimConfig, horizon: Mapping[str, Any]) -> dict[str, Any]:
    """Return an optimizer's fields, read through its factory and resolved as those of the run are."""
    if not isinstance(known.factory, BaseModel):
        return _with_params(fields, known)
    try:
        optim = OptimConfig(type=known.type, params=fields["params"])
        resolved = resolved_fields(optim, Horizon(horizon["total_steps"], horizon["steps_per_epoch"]))
    except ValidationError:  # of another version: what does not fit shows as a difference
        return fields
    return fields | {"params": {name: value for name, value in resolved.items() if name != "type"}}


def _unknown(path: str, model: type[BaseModel], fields: Mapping[str, Any]) -> list[str]:
    known = LASTING[model]
    return [f"{path}.{name}: unknown here{nearest(name, known)}" for name in fields if name not in known]


def _unknown_params(path: str, params: dict[str, Any], known: Choice) -> list[str]:
    try:
        check_arguments(known.chosen, params)
    except ValidationError as error:
        names = {tuple(detail["loc"]) for detail in error.errors() if detail["type"] == "unknown_name"}
        told = explain(nest(error, (path, "params")))
        return [line for line in told if any(line.startswith(f"{path}.params.{_dotted(name)}:") for name in names)]
    return []


def _dotted(path: tuple[str | int, ...]) -> str:
    return ".".join(str(part) for part in path)
