"""The section in which a field belongs that stands in another one."""

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from optimizer.config import UNKNOWN_NAME, path_of, reworded, synonyms

from ..run_layout import ANCHORS
from .composition import EXTENDS

_PARAMS = "model.component_optims.NAME.params"
_COMPONENT = "model.components.NAME"
_FIXED = {
    **{name: f"{_PARAMS}.{name}" for name in ("lr", "weight_decay", "betas", "eps", "momentum", "schedule")},
    **{name: f"{_COMPONENT}.{name}" for name in ("freeze", "init_from", "ema_of", "placement")},
    "on_change": "resume.on_change",
    "every": "model.component_optims.NAME.every",
}
"""The place of fields inside entries that have names, by the field."""
_ENTRY = ("type", "params")


def naming_homes(error: ValidationError, model: type[BaseModel]) -> ValidationError:
    """Return `error`, with the place of each unknown name that belongs elsewhere in the config.

    Args:
        error: Of a config of `model`.
        model: The class of the config.
    """
    homes = _homes(model)

    def message_of(detail: ErrorDetails) -> str | None:
        path = [str(part) for part in path_of(detail)]
        if detail["type"] == UNKNOWN_NAME and len(path) > 1 and (path[-1].startswith(ANCHORS) or path[-1] == EXTENDS):
            return "has no place here; it stands at the top level of a file"
        if detail["type"] != UNKNOWN_NAME or "params" in path or "is a parameter" in detail["msg"]:
            return None
        home = _home(path, homes)
        means_a_sibling = "did you mean" in detail["msg"] and path[-1] not in homes
        return None if home is None or means_a_sibling else f"has no place here; write {home}"

    return reworded(error, message_of)


def home_of(name: str, paths: Sequence[str]) -> str | None:
    """Return the one of the fields' `paths` in a config that has or means this name; None: there is none."""
    return _home([name], _homes_of(paths))


def _home(path: list[str], homes: Mapping[str, str]) -> str | None:
    for name in (path[-1], *synonyms(path[-1])):
        home = homes.get(name)
        if home is not None and home.rpartition(".")[0] != ".".join(path[:-1]):
            return home
    return None


def _homes(model: type[BaseModel]) -> dict[str, str]:
    """Return the path of each field in the sections of a config, by the field's name."""
    paths = [*model.model_fields]
    for section, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            paths += [f"{section}.{name}" for name in kind.model_fields]
    return _homes_of(paths)


def _homes_of(paths: Sequence[str]) -> dict[str, str]:
    """Return those of `paths` that are of fields and of sections, by the field's name. The first of a name is taken."""
    homes: dict[str, str] = {}
    for path in paths:
        _, _, name = path.partition(".")
        if name and "." not in name and name not in _ENTRY:
            homes.setdefault(name, path)
    return {**_FIXED, **homes, **{path: path for path in paths if "." not in path}}
