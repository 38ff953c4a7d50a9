"""`from_pretrained` and `push_to_hub` of a config."""

import os
from pathlib import Path
from typing import Any, Self

from optimizer.config import shown_value

from ..errors import ConfigError
from ..run_layout import CONFIG
from ..runtime.hub import is_reference, is_repository_name
from ..runtime.hub_push import CARD, check_repository, push_files
from .placed import PlacedConfig
from .publishing import model_card, published
from .reading import read_config


class SharedConfig(PlacedConfig):
    """A config that can be read from a folder or a repository, and pushed to one."""

    def resolved(self) -> dict[str, Any]:
        """Return the plain values with every default filled in, so that they mean the same under later versions."""
        return self.model_dump(mode="json")

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, *, revision: str | None = None, allow_plugins: bool = False
    ) -> Self:
        """Return the config in a repository on the Hugging Face Hub, in a run or another folder, or in a file.

        Args:
            name_or_path: ORG/NAME of a repository, also as hf://ORG/NAME[@REVISION]; a folder with a config.yaml, such
                as a run; or a file. What is on this machine comes before a repository of the same name.
            revision: Branch, tag or commit of the repository; None: its main branch.
            allow_plugins: Whether a config from the hub may import the modules that it names.

        Raises:
            ConfigError: There is no such config, or something is wrong in it.
        """
        return read_config(cls, _source(name_or_path, revision), {}, allow_plugins)

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, revision: str | None = None) -> str:
        """Write the config into a repository as config.yaml, with a README.md; return its reference with the commit.

        Paths on this machine are replaced by their last name. The repository is created if it is not there.

        Args:
            repo_id: ORG/NAME.
            private: Whether a new repository is private; None: as its owner has set.
            revision: The branch; None: the main one.

        Raises:
            ConfigError: The name is malformed, or huggingface_hub is not installed.
            OutputError: The hub refuses it, or cannot be reached.
        """
        return push_config(self, repo_id, private=private, revision=revision)[0]


def push_config(
    config: SharedConfig, repo_id: str, *, private: bool | None, revision: str | None
) -> tuple[str, list[str]]:
    """Write a config into a repository, as its `push_to_hub` does; return the reference and lines for the user."""
    check_repository(repo_id)
    shared = published(config.resolved(), repo_id)
    files: dict[str, bytes | Path] = {
        CONFIG: shared.text.encode(),
        CARD: model_card(repo_id, shared.values).encode(),
    }
    commit, lines = push_files(repo_id, files, message="Config", private=private, branch=revision)
    return f"hf://{repo_id}@{commit}", [*shared.lines, *lines]


def _source(name_or_path: str | Path, revision: str | None) -> str | Path:
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or (os.path.exists(text) and not is_reference(text)):
        if revision is not None:
            raise ConfigError(f"revision: belongs to a repository; {text} is on this machine. Leave it out.")
        path = Path(name_or_path)
        return path / CONFIG if path.is_dir() else path
    reference = text if is_reference(text) else f"hf://{text}"
    if not is_reference(text) and not is_repository_name(text.partition("@")[0]):
        raise ConfigError(f"config: must be ORG/NAME of a repository, or a path that exists; got {shown_value(text)}")
    return reference if revision is None else f"{reference.partition('@')[0]}@{revision}"
