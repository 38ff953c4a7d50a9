"""Repositories on the Hugging Face Hub: references to them, and their files in the cache of huggingface_hub."""

import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Literal, TypeGuard

from optimizer.config import no_plugins, shown, shown_value

from ..errors import ConfigError, missing_extra
from ..run_layout import BEST, CHECKPOINTS, CONFIG, LATEST, WEIGHTS

_PREFIX = "hf://"
_NAME = r"[\w.-]+/[\w.-]+"
_REFERENCE = re.compile(rf"{_PREFIX}(?P<name>{_NAME})(?:@(?P<revision>[\w./-]+))?", re.ASCII)
FORM = "hf://ORG/NAME or hf://ORG/NAME@REVISION"
FILES = (
    CONFIG,
    *(f"{CHECKPOINTS}/{name}" for name in (LATEST, BEST, "step_*.json", "step_*.safetensors")),
    WEIGHTS,
    "config.json",
    "train_config.json",
    *(f"policy_{side}processor*.{ending}" for side in ("pre", "post") for ending in ("json", "safetensors")),
)
"""The files that innerstep and LeRobot write into a repository, with `*`. None of them can hold code or a pickle."""


def is_reference(source: object) -> TypeGuard[str]:
    """Return whether `source` is text that names a repository on the hub: hf://ORG/NAME or hf://ORG/NAME@REVISION."""
    return isinstance(source, str) and source.startswith(_PREFIX)


def is_repository_name(text: str) -> bool:
    """Return whether `text` has the form ORG/NAME."""
    return re.fullmatch(_NAME, text, re.ASCII) is not None


def parse_reference(reference: str) -> tuple[str, str | None]:
    """Return the name of the repository, and the revision if there is one.

    Raises:
        ValueError: `reference` is malformed.
    """
    found = _REFERENCE.fullmatch(reference)
    if found is None:
        raise ValueError(f"must be {FORM}; got {shown(reference)}")
    return found["name"], found["revision"]


def at_commit(reference: str, folder: Path) -> str:
    """Return the reference to the commit whose snapshot is in `folder`, which no later push changes."""
    return f"{_PREFIX}{parse_reference(reference)[0]}@{folder.name}"


def without_code(source: object, allow_plugins: bool = False) -> AbstractContextManager[None]:
    """Return a context in which a config from the hub imports no module; that of a local file may do so.

    Args:
        source: Where the config is: a reference, or anything else.
        allow_plugins: Whether the user allows the imports.
    """
    if allow_plugins or not is_reference(source):
        return nullcontext()
    return no_plugins(
        "a config from the hub imports modules only with --allow-plugins, or allow_plugins=True in Python"
    )


def local_folder(reference: str, path: str, patterns: Sequence[str] | None = None) -> Path:
    """Return the folder of a repository's snapshot in the hub's cache.

    Args:
        reference: hf://ORG/NAME or hf://ORG/NAME@REVISION.
        path: The place of `reference` in the config, for messages.
        patterns: The files to download; None: all that innerstep and LeRobot write, without pickles.

    Raises:
        ConfigError: huggingface_hub is not installed, or the repository can be neither loaded nor found in the cache.
    """
    try:
        name, revision = parse_reference(reference)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    folder = download(name, revision, patterns or FILES, path)
    if not folder.is_dir():
        raise ConfigError(f"{path}: {shown_value(name)} holds no files of a run, a config or a policy")
    return folder


def download(
    name: str,
    revision: str | None,
    patterns: Sequence[str],
    path: str,
    *,
    kind: Literal["model", "dataset"] = "model",
    copy: str = "the folder of a copy",
) -> Path:
    """Return the folder of a repository's snapshot in the hub's cache, with files that match `patterns` in it.

    Without a connection, it is the snapshot that the cache has, whatever files it has.

    Args:
        name: ORG/NAME of the repository.
        revision: Branch, tag or commit; None: its main branch.
        patterns: Names of files, with `*`.
        path: The place in the config, for messages.
        kind: The kind of repository.
        copy: The thing to give in place of the name when there is no connection, for messages.

    Raises:
        ConfigError: huggingface_hub is not installed, or the repository can be neither loaded nor found in the cache.
    """
    library = _library(path)
    # Where it is offline, version 1.33 would still ask the hub for the files of a commit.
    load = partial(library.snapshot_download, repo_type=kind, local_files_only=library.constants.HF_HUB_OFFLINE)
    with quietly():
        try:
            return Path(load(name, revision=revision, allow_patterns=list(patterns)))
        except library.errors.LocalEntryNotFoundError as error:
            raise ConfigError(
                f"{path}: {shown_value(name)} is not in the cache of huggingface_hub, or not all of it, and the hub"
                f" cannot be reached ({reason_of(error.__cause__)}). Check the name, the revision and the connection,"
                f" or give {copy}."
            ) from error
        except Exception as error:  # of the library, its HTTP client, its storage, and the system
            raise ConfigError(f"{path}: {shown_value(name)} cannot be loaded: {reason_of(error)}") from error


def _library(path: str) -> ModuleType:
    """Return huggingface_hub. Raises ConfigError, about the place `path` in the config, if it is not installed."""
    try:
        import huggingface_hub.errors
    except ImportError as error:
        raise missing_extra(path, "huggingface_hub", "hub") from error
    return huggingface_hub


def reason_of(error: BaseException | None) -> str:
    """Return the reason of an error of huggingface_hub in words, and the remedy if there is one."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, RuntimeError) and error.__cause__ is not None:  # the library's, around an upload's
        return reason_of(error.__cause__)
    if error is None or isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    if isinstance(error, GatedRepoError):
        return "its owner admits users one by one. Ask for access on its page, and log in with `hf auth login`"
    if isinstance(error, RepositoryNotFoundError):
        return "there is no such repository, or this account may not see it. Check the name; `hf auth login` logs in"
    if isinstance(error, RevisionNotFoundError):
        return "it has no such revision. Give a branch, a tag or a commit"
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        return _reason_of_answer(error.response.status_code, error.server_message or "")
    cause: BaseException | None = error
    while cause is not None and not (isinstance(cause, OSError) and cause.strerror):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, OSError) and cause.strerror:  # the system's own, below those of the libraries
        return f"{cause.strerror}: {shown(cause.filename)}" if cause.filename else cause.strerror
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {shown(text)}" if text else type(error).__name__


def _reason_of_answer(status: int, message: str) -> str:
    if status == 401:
        return "nobody is logged in, or the token is not valid. Log in with `hf auth login`, or set HF_TOKEN"
    if status == 403:
        return f"this account, or its token, has no permission{_in_brackets(message)}. Use a token that may write there"
    if status >= 500:
        return f"the server fails with {status}{_in_brackets(message)}. Try again later"
    return f"the server answers with {status}{_in_brackets(message)}"


def _in_brackets(message: str) -> str:
    return f" ({shown(message)})" if message else ""


@contextmanager
def quietly() -> Iterator[None]:
    """Run the body without the warnings that huggingface_hub logs, which the errors repeat.

    Its progress bars are for a terminal only.
    """
    from huggingface_hub.utils import logging as hub_logging
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    before = hub_logging.get_verbosity()
    hides_bars = not (are_progress_bars_disabled() or (sys.stderr is not None and sys.stderr.isatty()))
    hub_logging.set_verbosity(logging.ERROR)
    try:
        if hides_bars:
            _switch(disable_progress_bars)
        yield
    finally:
        hub_logging.set_verbosity(before)
        if hides_bars:
            _switch(enable_progress_bars)


def _switch(bars: Callable[[], object]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # HF_HUB_DISABLE_PROGRESS_BARS=0 keeps the bars, with a warning
        bars()
