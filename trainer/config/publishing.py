"""A config as a push writes it, without places on this machine, and the page of its repository."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from optimizer.config import counted, shown
from optimizer.types import JsonObject

from ..runtime.hub_push import CARD_MARK
from ..runtime.version import heading, innerstep_version
from .yaml_values import write_yaml


@dataclass(frozen=True)
class Published:
    """A config as a repository holds it."""

    values: JsonObject
    lines: list[str]
    """A line for each value that was changed."""

    @property
    def text(self) -> str:
        """The content of config.yaml."""
        return heading() + write_yaml(self.values)


@dataclass(frozen=True)
class Trained:
    """A checkpoint, as a card describes it."""

    step: int
    """Updates done."""
    metrics: Mapping[str, object] = field(default_factory=dict)
    """The last metrics by name."""
    component: str | None = None
    """The only component that is there; None: all of them."""


def published(values: Mapping[str, object], repository: str) -> Published:
    """Return a config whose paths on this machine are replaced: they mean nothing elsewhere, and name its user.

    An absolute path of something that is here, or in the home directory, becomes its last name. An absolute
    `train.run_dir` becomes `runs/NAME`, a new directory wherever the config is trained. The folders of modules, which
    are in the heading of a run's config.yaml, are left out.

    Args:
        values: The plain values of a config.
        repository: ORG/NAME, which gives NAME.
    """
    lines: list[str] = []

    def replaced(value: object, place: str) -> object:
        if isinstance(value, Mapping):
            return {name: replaced(inner, f"{place}.{name}" if place else str(name)) for name, inner in value.items()}
        if isinstance(value, list):
            return [replaced(inner, f"{place}.{index}") for index, inner in enumerate(value)]
        if not isinstance(value, str):
            return value
        if place == "train.run_dir":
            new = f"runs/{repository.rpartition('/')[2]}" if os.path.isabs(value) else value
        else:
            new = Path(value).name if _is_here(value) else value
        if new != value:
            lines.append(f"config.yaml: {place} is {shown(new)} there, and not {shown(value)}")
        return new

    changed = replaced(values, "")
    assert isinstance(changed, dict)
    return Published(changed, lines)


def model_card(repository: str, values: Mapping[str, object], trained: Trained | None = None) -> str:
    """Return the page of a repository in Markdown.

    Args:
        repository: ORG/NAME.
        values: The plain values of the config.
        trained: The checkpoint that is there; None: the config is alone.
    """
    model, data, train = (_mapping(values.get(name)) for name in ("model", "data", "train"))
    metadata: JsonObject = {"library_name": "innerstep", "tags": ["innerstep"]}
    if model.get("policy") or data.get("type") == "lerobot":
        metadata["pipeline_tag"] = "robotics"
    objective = _mapping(train.get("objective")).get("type")
    parts = [
        f"---\n{write_yaml(metadata)}---\n{CARD_MARK}",
        f"# {repository.rpartition('/')[2]}",
        f"{_subject(trained)} Written by innerstep {innerstep_version()}.",
        f"Data: {_code(data.get('type'))}. Objective: {_code(objective)}.",
        _table(("component", "class", "optimizer"), _components(model)),
    ]
    if trained is not None and trained.metrics:
        rows = [(_code(name), _number(value)) for name, value in trained.metrics.items()]
        parts += ["## Metrics", _table(("metric", "value"), rows)]
    return "\n\n".join([*parts, "## Use", _usage(repository, trained)]) + "\n"


def _is_here(text: str) -> bool:
    """Return whether `text` is an absolute path of something on this machine, or in the home directory."""
    if not os.path.isabs(text) or "\0" in text:
        return False
    return os.path.lexists(text) or Path(text).is_relative_to(os.path.expanduser("~"))


def _subject(trained: Trained | None) -> str:
    if trained is None:
        return "The config of an experiment."
    what = "A trained model" if trained.component is None else f"The component {_code(trained.component)} of a model"
    return f"{what}, after {counted(trained.step, 'update')}."


def _components(model: Mapping[str, object]) -> list[tuple[str, str, str]]:
    policy = _mapping(model.get("policy"))
    parts = _mapping(policy.get("parts"))
    entries: JsonObject = {"policy": policy} if policy else {}
    entries |= {name: {"type": policy.get("type"), **_mapping(parts[name])} for name in parts}
    entries |= _mapping(model.get("components"))
    optims = _mapping(model.get("component_optims"))
    rows = []
    for name, entry in entries.items():
        fields = _mapping(entry)
        chosen = "frozen" if fields.get("freeze") is True else _code(_mapping(optims.get(name)).get("type"))
        rows.append((_code(name), _code(fields.get("type")), chosen))
    return rows


def _usage(repository: str, trained: Trained | None) -> str:
    reference = f"hf://{repository}"
    if trained is None:
        return f"```\ninnerstep train {reference}\n```"
    if trained.component is not None:
        return f"```yaml\ninit_from: {reference}:{trained.component}\n```"
    return f'```python\nfrom trainer import load_run\n\nrun = load_run("{reference}")\n```'


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _code(text: object) -> str:
    return "-" if text is None else "`" + shown(text).replace("|", "/").replace("`", "'") + "`"


def _number(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, int | float) else "not finite"


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}
