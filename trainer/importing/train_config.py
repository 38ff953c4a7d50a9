"""`innerstep import-lerobot`: LeRobot's TrainPipelineConfig as innerstep's YAML."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from optimizer.config import counted

from ..config.lerobot_names import LEROBOT_NAMES
from ..config.load import load_config
from ..config.plain_values import Plain
from ..errors import ConfigError
from ..runtime.files import replacing_output
from ..runtime.hub import is_reference
from .conversion import Conversion, Left
from .data import convert_data
from .evaluation import convert_evaluation
from .optimizers import convert_optimizers
from .policy import convert_policy, policy_type
from .source import TrainConfigFile, read_train_config
from .time_steps import time_steps
from .training import convert_seed, convert_training
from .unmapped import KNOWN, leave_the_rest
from .yaml_text import comment, yaml_text

_HEADER = "Made by `innerstep import-lerobot` of {path}. What has no place here stands at the end."
_FOOTER = "Not mapped: fields of LeRobot's config that have no place here."
_AT_DEFAULT = "Not mapped, and nothing is lost by it:"
_ORDER = ("seed", "data", "model", "train")


def import_train_config(source: str, out: Path, overwrite: bool) -> list[str]:
    """Write LeRobot's config of a training run as a config of innerstep.

    Args:
        source: A file, a folder with train_config.json, or hf://ORG/NAME[@REVISION].
        out: The YAML file to write.
        overwrite: Whether a file there is replaced.

    Returns:
        Lines about what was written, and what has no place in it.

    Raises:
        ConfigError: `source` is not such a config, or `out` is there already.
    """
    if out.exists() and not overwrite:
        raise ConfigError(f"{out}: is there already. Name another file, or add --overwrite.")
    if not out.parent.is_dir():
        raise ConfigError(f"{out}: there is no directory {out.parent}")
    file = read_train_config(source)
    conversion = convert(file.values)
    text = _text(file, conversion)
    problem = None if is_reference(source) else _problem(conversion.config)
    with replacing_output(out) as aside:
        aside.write_text(text, encoding="utf-8")
    return _report(out, conversion, problem)


def convert(values: dict[str, Plain]) -> Conversion:
    """Return the conversion of LeRobot's values, with every field of theirs mapped or left with a reason.

    Raises:
        ConfigError: A value has a wrong type, or the policy or the optimizer cannot be trained here.
    """
    conversion = Conversion(values)
    key = policy_type(conversion)
    steps = time_steps(key, conversion)
    seed = convert_seed(conversion)
    convert_data(conversion, steps)
    convert_policy(conversion, key)
    convert_optimizers(conversion)
    convert_training(conversion, key)
    convert_evaluation(conversion, seed)
    leave_the_rest(conversion)
    for unknown in conversion.unknown([*conversion.mapped, *conversion.left, *KNOWN, *LEROBOT_NAMES]):
        conversion.left[unknown.path] = unknown
    conversion.config = {name: conversion.config[name] for name in _ORDER}
    return conversion


def _text(file: TrainConfigFile, conversion: Conversion) -> str:
    header = comment(_HEADER.format(path=file.path))
    if file.weights is not None:
        header += comment(
            f"The policy starts with new weights. To start from those beside that file, write `path: {file.weights}` in"
            " place of model.policy.type."
        )
    matter, others = _split(conversion)
    lines = [*header, "", yaml_text(conversion.config, conversion.comments)]
    for title, left in ((_FOOTER, matter), (_AT_DEFAULT, others)):
        if left:
            lines += comment(title)
            lines += [line for text in _by_reason(left) for line in comment(text, hanging="    ", first="  ")]
    return "\n".join(lines) + "\n"


def _split(conversion: Conversion) -> tuple[list[Left], list[Left]]:
    """Return the fields whose values are lost, and those by which nothing is."""
    left = list(conversion.left.values())
    return [one for one in left if one.matters], [one for one in left if not one.matters]


def _by_reason(left: Sequence[Left]) -> list[str]:
    """Return one line a reason, with the fields that it is the reason of."""
    by_reason: dict[str, list[str]] = {}
    for one in left:
        by_reason.setdefault(one.reason, []).append(one.text)
    return [
        f"{', '.join(texts)}. Reason: {reason if reason.endswith(('.', '?')) else f'{reason}.'}"
        for reason, texts in by_reason.items()
    ]


def _problem(config: dict[str, Plain]) -> str | None:
    """Return why `config` is refused; None if it is not, or if LeRobot is not installed to check it."""
    if find_spec("lerobot") is None:
        return None
    try:
        load_config(config)
    except ConfigError as error:
        return str(error)
    return None


def _report(out: Path, conversion: Conversion, problem: str | None) -> list[str]:
    matter, others = _split(conversion)
    lines = [f"wrote {out}: {counted(len(conversion.mapped), 'field')} of LeRobot's mapped"]
    if matter:
        lines.append("not mapped:")
        lines += [f"  {text}" for text in _by_reason(matter)]
    if others:
        lines.append(f"{counted(len(others), 'field')} by which nothing is lost: at the end of {out}")
    if find_spec("lerobot") is None:
        lines.append("LeRobot is not installed here: the config is not checked. The policy needs innerstep[lerobot].")
    if problem is not None:
        lines += ["the config needs a change:", *(f"  {line}" for line in problem.splitlines())]
    lines.append(f"next: innerstep plan {out}")
    return lines
