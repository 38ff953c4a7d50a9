"""`push_to_hub`: a run, a component of one, a config or LeRobot's folder to a repository on the Hugging Face Hub."""

import json
import os
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path

from optimizer.config import counted, nearest
from optimizer.types import JsonObject

from .checkpoint.directory import existing_checkpoint, verify
from .checkpoint.names import folder_name, is_file, read_pointer
from .config.load import load_config
from .config.pretrained import push_config
from .config.publishing import Trained, model_card, published
from .config.yaml_file import read_config_file
from .errors import ConfigError
from .loaded_run import checkpoint_path
from .reporting.metrics_file import HELD_OUT, TIMED, read_metrics
from .run_layout import BEST, CHECKPOINTS, CONFIG, LATEST, MANIFEST, METRICS, WEIGHTS
from .runtime.files import DamagedCheckpointError, checksum_of
from .runtime.hub import FILES
from .runtime.hub_push import CARD, CARD_MARK, check_repository, push_files

Content = dict[str, bytes | Path]
"""The files of a repository by path: their bytes, or their place here."""

_FOREIGN_CONFIG = "config.json"
"""The config in LeRobot's folder of a policy."""
_NOT_IN_CARD = ("split", "step", "epoch", "nonfinite", *TIMED)


def push_to_hub(
    source: str | Path,
    repo_id: str,
    *,
    checkpoint: str | Path = LATEST,
    component: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
) -> str:
    """Write a run with one checkpoint into a repository on the Hugging Face Hub, in one commit.

    `load_run`, `init_from` and `innerstep train` take the repository as hf://ORG/NAME. It gets a README.md, and is
    created if it is not there; checkpoints that an earlier push wrote are removed. No module that a run's config names
    is imported. Paths on this machine are replaced by their last name in config.yaml.

    Args:
        source: A run's directory; the file of a config, which is written alone; or LeRobot's folder of a policy.
        repo_id: ORG/NAME.
        checkpoint: Of a run: `latest`, `best`, or the folder of a checkpoint.
        component: Of a run: the only component to write; None: all of them.
        private: Whether a new repository is private; None: as its owner has set.
        revision: The branch; None: the main one.

    Returns:
        The reference to the commit: hf://ORG/NAME@COMMIT.

    Raises:
        ConfigError: There is nothing to push, it is damaged, the name is malformed, or huggingface_hub is missing.
        OutputError: The hub refuses it, or cannot be reached. Nothing was written then.
        UnreadableError: The system refuses to read a file.
    """
    return push(Path(source), repo_id, checkpoint, component, private, revision)[0]


def push(
    source: Path,
    repo_id: str,
    checkpoint: str | Path,
    component: str | None,
    private: bool | None,
    branch: str | None,
) -> tuple[str, list[str]]:
    """Do as `push_to_hub` does; return the reference, and lines for the user."""
    check_repository(repo_id)
    of_run = is_file(source / CONFIG)
    if not of_run and (checkpoint != LATEST or component is not None):
        option = "--component" if checkpoint == LATEST else "--checkpoint"
        raise ConfigError(f"{option}: belongs to a run, and {source} is not one (no {CONFIG}). Leave it out.")
    if is_file(source):
        return push_config(load_config(source), repo_id, private=private, revision=branch)
    if of_run:
        files, lines, what = _files_of_run(source, repo_id, checkpoint, component)
    elif is_file(source / _FOREIGN_CONFIG) and is_file(source / WEIGHTS):
        files, lines, what = _files_of_policy(source, repo_id), [], "Policy in LeRobot's format"
    else:
        raise ConfigError(
            f"{source}: there is nothing to push here. Give a run's directory, the file of a config, or a folder that"
            " `innerstep export --to lerobot` wrote."
        )
    replaced = f"{CHECKPOINTS}/" if of_run else None
    commit, more = push_files(repo_id, files, message=what, private=private, branch=branch, replaces=replaced)
    return f"hf://{repo_id}@{commit}", [*lines, *more]


def _files_of_run(
    run: Path, repo_id: str, checkpoint: str | Path, component: str | None
) -> tuple[Content, list[str], str]:
    """Return the files of a run with one checkpoint, lines for the user, and what it is."""
    values = read_config_file(run / CONFIG)
    keeps_best = values.get("train", {}).get("keep_best") is not None
    try:
        folder = existing_checkpoint(checkpoint_path(checkpoint, run, keeps_best))
        manifest = verify(folder)
    except DamagedCheckpointError as error:
        raise ConfigError(f"damaged checkpoint: {error}") from error
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error
    step = int(manifest["step"])
    inside = f"{CHECKPOINTS}/{folder_name(step)}"
    files: Content = {f"{inside}/{name}": folder / name for name in [MANIFEST, *manifest["files"]]}
    if component is not None:
        files = _only(component, folder, inside, manifest)
    files[f"{CHECKPOINTS}/{LATEST}"] = f"{folder_name(step)}\n".encode()
    if read_pointer(folder.parent, BEST) == folder:
        files[f"{CHECKPOINTS}/{BEST}"] = f"{folder_name(step)}\n".encode()
    shared = published(values, repo_id)
    trained = Trained(step, _last_metrics(run / METRICS, step), component)
    files |= {CONFIG: shared.text.encode(), CARD: model_card(repo_id, shared.values, trained).encode()}
    what = f"{component or 'Run'} after {counted(step, 'update')}"
    return files, [f"{folder}: {counted(len(files), 'file')}", *shared.lines], what


def _only(component: str, folder: Path, inside: str, manifest: Mapping[str, JsonObject]) -> Content:
    """Return the files of one component of a checkpoint, and a manifest of these."""
    listed = manifest["files"]
    known = sorted({name.partition("/")[0] for name in listed if name.endswith(f"/{WEIGHTS}")})
    if component not in known:
        raise ConfigError(
            f"--component: {folder} has no component {component!r}{nearest(component, known)}"
            f" It has {', '.join(known)}."
        )
    chosen = {name: entry for name, entry in listed.items() if name.startswith(f"{component}/")}
    reduced = {**manifest, "files": chosen}
    text = json.dumps(reduced | {"checksum": checksum_of(reduced)}, indent=1)
    return {f"{inside}/{MANIFEST}": text.encode(), **{f"{inside}/{name}": folder / name for name in chosen}}


def _last_metrics(path: Path, step: int) -> dict[str, object]:
    """Return the metrics of the evaluation after `step` updates; without one, the losses of the last update before."""
    before: dict[str, object] = {}
    for line in read_metrics(path):
        kept = {name: value for name, value in line.items() if name not in _NOT_IN_CARD}
        if line["split"] == HELD_OUT and line["step"] == step:
            return kept
        if line["split"] != HELD_OUT and int(str(line["step"])) < step:
            before = {name: value for name, value in kept.items() if name.partition("/")[0] == "loss"}
    return before


def _files_of_policy(folder: Path, repo_id: str) -> Content:
    """Return the files in LeRobot's folder of a policy, with a README.md if it has none."""
    names = [name for name in sorted(os.listdir(folder)) if any(fnmatch(name, pattern) for pattern in FILES)]
    files: Content = {name: folder / name for name in names}
    policy = read_config_file(folder / _FOREIGN_CONFIG).get("type")
    tags = "".join(f"- {tag}\n" for tag in ("innerstep", "robotics", policy) if isinstance(tag, str) and tag.isalnum())
    card = f"---\nlibrary_name: lerobot\npipeline_tag: robotics\ntags:\n{tags}---\n{CARD_MARK}\n\n# {repo_id}\n\n"
    card += f"A policy in LeRobot's format, written by innerstep.\n\n```\nlerobot-eval --policy.path={repo_id} …\n```\n"
    return {**files, CARD: folder / CARD if is_file(folder / CARD) else card.encode()}
