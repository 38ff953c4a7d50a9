"""Reads the config in a checkpoint of another version as this version would have written it."""

from collections.abc import Container, Iterator, Mapping
from dataclasses import replace

from pydantic import BaseModel, ValidationError

from optimizer import Horizon
from optimizer.config import arguments_model, check_arguments, explain, nearest, nest
from optimizer.types import JsonObject

from ..config.class_choice import ClassChoice
from ..config.entries import OptimConfig
from ..config.marks import default_values, fixed_fields, fixed_sections, may_change
from ..config.schema import ExperimentConfig
from ..runtime.version import newer


def upgrade_values(values: JsonObject, config: ExperimentConfig) -> JsonObject:
    """Return the trainer's values of a checkpoint with every fixed field of this version in their `config`.

    A field that the checkpoint lacks, because it is older than the field, has its default. A field that may change in
    this version is left out. The parameters of another class than the run's, and of an optimizer whose entry would
    import a module that the run does not name, stay as they are.

    Args:
        values: The trainer's values in the checkpoint.
        config: The run's.
    """
    filled = _fill_defaults(type(config), values["config"])
    named = set(strings(config.model_dump(mode="json")))
    for path, _, fields, now in _sections(type(config), filled, config):
        if isinstance(now, OptimConfig):
            if _has_class_of(fields, now) and _names_only(fields, named):
                name = path.removeprefix("model.component_optims.")
                horizon = Horizon(values["horizon"]["total_steps"], values["horizon"]["steps_per_epoch"])
                turns = replace(config.model.turns(name, horizon), every=fields["every"])
                fields["params"] = _resolve_params(fields, now, turns.horizon(horizon))
        elif isinstance(now, ClassChoice) and _has_class_of(fields, now):
            fields["params"] = _align_params(fields["params"], now)
    return {**values, "config": filled}


def unknown_fields(values: JsonObject, config: ExperimentConfig) -> list[str]:
    """Return a line for each unknown field in the `config` of a checkpoint, and a remedy if a newer version wrote it.

    Args:
        values: The trainer's values in the checkpoint.
        config: The run's.
    """
    lines = []
    named = set(strings(config.model_dump(mode="json")))
    for path, model, fields, now in _sections(type(config), values["config"], config):
        lines += _unknown_names(path, model, fields)
        if isinstance(now, ClassChoice) and _has_class_of(fields, now) and _names_only(fields, named):
            lines += _unknown_params(path, fields.get("params", {}), now)
    advice = newer(values.get("provenance", {}).get("innerstep"))
    return [*lines, advice] if lines and advice else lines


def strings(value: object) -> Iterator[str]:
    """Yield every text in plain values."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from strings(item)
        if isinstance(value, Mapping):
            yield from value


def _names_only(saved: object, named: Container[str]) -> bool:
    """Return whether every dotted path in `saved` is among `named` too: a checkpoint brings no code."""
    return all(text in named for text in strings(saved) if "." in text)


def _has_class_of(fields: JsonObject, known: ClassChoice) -> bool:
    return fields.get("type") == known.type


def _fill_defaults(model: type[BaseModel], saved: JsonObject) -> JsonObject:
    """Return a section of a saved config with the default of each fixed field that is absent, without those that may
    change.
    """
    kept = {name: value for name, value in saved.items() if not may_change(model, name)}
    fields = {**default_values(model), **kept}
    for name, inner, several in fixed_sections(model):
        if (value := fields[name]) is not None:
            fields[name] = (
                {key: _fill_defaults(inner, one) for key, one in value.items()}
                if several
                else _fill_defaults(inner, value)
            )
    return fields


_Section = tuple[str, type[BaseModel], JsonObject, BaseModel | None]
"""A section's path, its class, its saved fields, and the section in the run's config, if it is there."""


def _sections(
    model: type[BaseModel], saved: JsonObject, now: BaseModel | None, path: tuple[str, ...] = ()
) -> Iterator[_Section]:
    """Yield a section of a saved config and those inside."""
    yield ".".join(path), model, saved, now
    for name, inner, several in fixed_sections(model):
        value, known = saved.get(name) or {}, getattr(now, name, None)
        if several:
            for key, one in value.items():
                yield from _sections(inner, one, (known or {}).get(key), (*path, name, key))
        else:
            yield from _sections(inner, value, known, (*path, name))


def _align_params(saved: JsonObject, now: ClassChoice) -> JsonObject:
    """Return saved params without differences that only an argument with its default makes.

    The class has gained or lost that argument since: only one of the two sides names it.
    """
    params, defaults = dict(saved), _defaults(now.chosen)
    for name in {*params, *now.params} & defaults.keys():
        if name not in params and now.params[name] == defaults[name]:
            params[name] = now.params[name]
        elif name not in now.params and params.get(name) == defaults[name]:
            del params[name]
    return params


def _defaults(cls: type[object]) -> JsonObject:
    """Return the defaults of the parameters of a class, by name."""
    return {
        field.alias or name: field.get_default(call_default_factory=True)
        for name, field in arguments_model(cls).model_fields.items()
        if not field.is_required()
    }


def _resolve_params(fields: JsonObject, now: OptimConfig, horizon: Horizon) -> JsonObject:
    """Return an optimizer's saved params, read through its factory and resolved as those of the run are."""
    params: JsonObject = fields["params"]
    if not isinstance(now.factory, BaseModel):
        return _align_params(params, now)
    try:
        optim = OptimConfig(type=now.type, params=params, every=fields["every"])
        return optim.resolved_params(horizon)
    except ValidationError:  # of another version: the params that do not fit show as a difference
        return params


def _unknown_names(path: str, model: type[BaseModel], fields: JsonObject) -> list[str]:
    known = fixed_fields(model)
    return [
        f"{path}.{name}: unknown here{nearest(name, known)}".removeprefix(".")
        for name in fields
        if name not in model.model_fields
    ]


def _unknown_params(path: str, params: JsonObject, known: ClassChoice) -> list[str]:
    try:
        check_arguments(known.chosen, params)
    except ValidationError as error:
        names = {tuple(detail["loc"]) for detail in error.errors() if detail["type"] == "unknown_name"}
        lines = explain(nest(error, (*path.split("."), "params")))
        return [
            line for line in lines if any(line.startswith(f"{path}.params.{_dotted_path(name)}:") for name in names)
        ]
    return []


def _dotted_path(path: tuple[str | int, ...]) -> str:
    return ".".join(str(part) for part in path)
