"""The sources of a config, read and merged, without torch.

A file that is missing, malformed or extends itself is therefore refused at once. Names and values are checked later, by
classes that need torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from ..errors import ConfigError
from ..run_layout import CONFIG
from ..runtime.hub import is_reference, local_folder
from .composition import Composition, compose
from .plugins import search_folders, working_directory

ConfigSource: TypeAlias = Mapping[str, object] | str | Path | Sequence[Mapping[str, object] | str | Path]


@dataclass(frozen=True)
class ReadSources:
    """The values of a config as they are written, merged."""

    composition: Composition
    folders: Sequence[Path]
    """Where the modules that it names are looked for."""
    reference: str | None
    """The repository on the hub that it is from, the first one; None: it is local."""


def read_sources(source: ConfigSource) -> ReadSources:
    """Read a config from a mapping, a file or a repository on the hub, or several of them, of which the later ones win.

    Raises:
        ConfigError: A file cannot be read, or is not well-formed.
    """
    sources = [source] if isinstance(source, Mapping | str | Path) else list(source)
    references = [one for one in sources if is_reference(one)]
    from_hub = {reference: _file_of(reference) for reference in references}
    files = [one if isinstance(one, Mapping) else from_hub.get(str(one), Path(one)) for one in sources]
    composition = compose(files, from_hub.values())
    folders = dict.fromkeys(folder for file in composition.files for folder in _folders_of(file, from_hub))
    return ReadSources(composition, list(folders), next(iter(references), None))


def _folders_of(file: Path, from_hub: Mapping[str, Path]) -> list[Path]:
    """Return the folders in which the modules of a file of a config are looked for."""
    return working_directory() if file in from_hub.values() else search_folders(file)


def _file_of(source: str) -> Path:
    """Return the downloaded file of a config on the hub. Raises ConfigError."""
    file = local_folder(source, "config", [CONFIG]) / CONFIG
    if not file.is_file():
        raise ConfigError(f"config: {source} has no {CONFIG}, which `innerstep push` writes")
    return file
