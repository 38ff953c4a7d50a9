"""`model.policy.path`: the class, the parameters and the weights of a trained policy."""

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

from optimizer import no_plugins
from optimizer.config import refusal, shown_value

from ..errors import ConfigError
from ..run_layout import CHECKPOINTS, CONFIG
from ..runtime.hub import at_commit, is_reference, local_folder
from .paths import as_text, expand
from .yaml_file import read_config_file

LEROBOT_CONFIG = "config.json"
_PATH = "model.policy.path"


def without_code_of(path: object) -> AbstractContextManager[None]:
    """Return a context in which the policy that `path` names imports no module, unless it is of a run here."""
    if is_reference(path):
        place = "on the hub"
    elif isinstance(path, str | os.PathLike) and _is_lerobots(path):
        place = "in LeRobot's folder"
    else:
        return nullcontext()
    return no_plugins(f"a policy {place} imports no module: if you trust it, give its type, params and init_from here")


def _is_lerobots(path: str | os.PathLike[str]) -> bool:
    with suppress(OSError, ValueError):  # it is reported where the policy is read
        place = Path(expand(os.fspath(path)))
        return (place / LEROBOT_CONFIG).is_file() and not (place / CONFIG).is_file()
    return False


def with_source(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry of `model.policy` with the type, params and init_from that its `path` leads to.

    `params` and `normalization` of the entry win over those of the trained policy.

    Raises:
        ValidationError: There is no policy, or the entry has a `type` or an `init_from` too.
    """
    given = raw["path"]
    for other in ("type", "init_from"):
        if raw.get(other) is not None:
            rule = (
                f"model.policy.path is {shown_value(given)}, and model.policy.{other} is {shown_value(raw[other])}:"
                f" the path brings its own {other}. Leave one of the two lines out"
            )
            raise refusal(rule, ("path",), given)
    if not isinstance(given, str | os.PathLike):
        raise refusal(f"must be text; got {shown_value(given)}", ("path",), given)
    try:
        text = os.fspath(given)
        place = local_folder(text, _PATH) if is_reference(text) else Path(expand(text))
        weights = at_commit(text, place) if is_reference(text) else as_text(place.absolute())
        found = _policy_at(place)
    except ValueError as error:
        raise refusal(str(error).removeprefix(f"{_PATH}: "), ("path",), given) from error
    params = raw.get("params")
    merged = {**found.get("params", {}), **params} if isinstance(params, Mapping) else params or found.get("params", {})
    own = {"normalization": found.get("normalization"), **{key: value for key, value in raw.items() if key != "path"}}
    return {**own, "type": found["type"], "params": merged, "init_from": {"path": weights}}


def _policy_at(place: Path) -> Mapping[str, Any]:
    """Return the type and params of the policy of a run, of a checkpoint in one, or of LeRobot's folder.

    Raises:
        ValueError: There is none.
    """
    in_checkpoints = place.absolute().parent.name == CHECKPOINTS
    run = place.absolute().parent.parent if in_checkpoints else place
    if (run / CONFIG).is_file():
        return _policy_of_run(run)
    if not (place / LEROBOT_CONFIG).is_file():
        found = "there is nothing" if not place.exists() else "there is no policy"
        raise ConfigError(f"{found} at {place}: neither a run's {CONFIG} nor {LEROBOT_CONFIG} of LeRobot")
    from ..lerobot_policies.pretrained import policy_of_folder  # what it imports is needed for such a folder only

    kind, params = policy_of_folder(place)
    return {"type": kind, "params": params}


def _policy_of_run(folder: Path) -> Mapping[str, Any]:
    model = read_config_file(folder / CONFIG).get("model")
    policy = model.get("policy") if isinstance(model, Mapping) else None
    if not isinstance(policy, Mapping) or not isinstance(policy.get("type"), str):
        names = ", ".join(model.get("components") or {}) if isinstance(model, Mapping) else ""
        raise ConfigError(
            f"the run in {folder} has no model.policy; its components are {names}. To start from one of them, give"
            " model.policy.type, and model.policy.init_from with path and component"
        )
    return policy
