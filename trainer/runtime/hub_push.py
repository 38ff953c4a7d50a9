"""Files to a repository on the Hugging Face Hub, in one commit."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from optimizer.config import shown, shown_value

from ..errors import ConfigError, OutputError, missing_extra
from .hub import is_repository_name, quietly, reason_of

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD = "README.md"
CARD_MARK = "<!-- Written by innerstep. A push replaces this page as long as this line is in it. -->"
"""A line in each card of ours: a page without it is the user's, and stays."""


def check_repository(name: str) -> None:
    """Check the name of a repository to write to, and that huggingface_hub is there.

    Raises:
        ConfigError: The name is malformed, or huggingface_hub is not installed.
    """
    try:
        import huggingface_hub  # noqa: F401 it is used later
    except ImportError as error:
        raise missing_extra("push", "huggingface_hub", "hub") from error
    if not is_repository_name(name):
        raise ConfigError(f"repository: must be ORG/NAME, such as someone/pusht; got {shown_value(name)}")


def push_files(
    name: str,
    files: Mapping[str, bytes | Path],
    *,
    message: str,
    private: bool | None = None,
    branch: str | None = None,
    replaces: str | None = None,
) -> tuple[str, list[str]]:
    """Write files into a repository in one commit: all of them are there afterwards, or none.

    The repository and the branch are created if they are not there. A README.md that is not ours stays as it is.

    Args:
        name: ORG/NAME of the repository.
        files: The content of each file, or the place of it, by its path in the repository.
        message: The commit's.
        private: Whether a new repository is private; None: as its owner has set.
        branch: The branch; None: the main one.
        replaces: Files in the repository whose paths begin with it and that are not in `files` are removed; None: none.

    Returns:
        The commit, and lines for the user.

    Raises:
        ConfigError: The name is malformed.
        OutputError: The hub refuses it, or cannot be reached, or a file cannot be read.
    """
    with _writing_to(name):
        return _push_files(name, files, message, private, branch, replaces)


def _push_files(
    name: str,
    files: Mapping[str, bytes | Path],
    message: str,
    private: bool | None,
    branch: str | None,
    replaces: str | None,
) -> tuple[str, list[str]]:
    from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi

    api = HfApi(library_name="innerstep")
    api.create_repo(name, private=private, exist_ok=True)
    if branch is not None:
        api.create_branch(name, branch=branch, exist_ok=True)
    there = api.list_repo_files(name, revision=branch)
    chosen, lines = dict(files), []
    if CARD in there and CARD in files and not _is_ours(api, name, branch):
        del chosen[CARD]
        lines = [f"{CARD}: left as it is in {name}, as innerstep did not write it"]
    removed = [path for path in there if replaces is not None and path.startswith(replaces) and path not in files]
    operations: list[CommitOperationAdd | CommitOperationCopy | CommitOperationDelete] = []
    operations += [CommitOperationAdd(path, content) for path, content in chosen.items()]
    operations += [CommitOperationDelete(path) for path in removed]
    commit = api.create_commit(name, operations, commit_message=message, revision=branch)
    return str(commit.oid), lines


@contextmanager
def _writing_to(name: str) -> Iterator[None]:
    """Run the body. Raises ConfigError if `name` is malformed, OutputError if anything else goes wrong."""
    from huggingface_hub.errors import HFValidationError

    try:
        with quietly():
            yield
    except HFValidationError as error:
        raise ConfigError(f"repository: {shown(error)}") from error
    except Exception as error:  # of the library, its HTTP client, its storage, and the system
        raise OutputError(f"push: nothing was written to {shown_value(name)}: {reason_of(error)}") from error


def _is_ours(api: "HfApi", name: str, branch: str | None) -> bool:
    """Return whether the README.md of a repository was written by a push."""
    page = Path(api.hf_hub_download(name, CARD, revision=branch))
    return CARD_MARK in page.read_text(encoding="utf-8", errors="replace")
