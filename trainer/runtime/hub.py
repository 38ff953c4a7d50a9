"""Repositories on the Hugging Face Hub, through the cache of huggingface_hub."""

import re
from collections.abc import Sequence
from pathlib import Path

from optimizer.config import shown

from ..errors import ConfigError, missing_extra

_REFERENCE = re.compile(r"hf://(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
"""hf://ORG/NAME, or hf://ORG/NAME@REVISION."""


def is_reference(text: str) -> bool:
    """Return whether `text` names a repository on the hub: hf://ORG/NAME or hf://ORG/NAME@REVISION."""
    return text.startswith("hf://")


def local_folder(reference: str, path: str, patterns: Sequence[str] | None = None) -> Path:
    """Return the folder of a repository's snapshot in the hub's cache.

    Args:
        reference: hf://ORG/NAME or hf://ORG/NAME@REVISION.
        path: The place of `reference` in the config, for messages.
        patterns: The files to download; None: all that innerstep and LeRobot write, without pickles.

    Raises:
        ConfigError: huggingface_hub is not installed, or the repository can be neither loaded nor found in the cache.
    """
    found = _REFERENCE.fullmatch(reference)
    if found is None:
        raise ConfigError(f"{path}: must be hf://ORG/NAME or hf://ORG/NAME@REVISION; got {shown(reference)}")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise missing_extra(path, "huggingface_hub", "hub") from error
    allowed = list(patterns or ("*.safetensors", "*.json", "*.yaml", "*.md"))
    try:
        return Path(snapshot_download(found["name"], revision=found["revision"], allow_patterns=allowed))
    except LocalEntryNotFoundError as error:
        raise ConfigError(f"{path}: {reference} is not in the cache, and the hub cannot be reached") from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ConfigError(f"{path}: {reference} cannot be loaded: {shown(error)}") from error
