"""`load_config`: from a file, a mapping or a repository, with overrides, to the validated config."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .sources import ConfigSource, read_sources

if TYPE_CHECKING:
    from .completion import Completed
    from .schema import ExperimentConfig


def load_config(
    source: ConfigSource,
    overrides: Mapping[str, object] | None = None,
    *,
    allow_plugins: bool = False,
) -> "ExperimentConfig":
    """Return the validated config of a mapping, a YAML or JSON file, or a repository, with dotted overrides set.

    A relative path in a file starts at the folder of that file. In a mapping, in the overrides, and in a config from
    the hub, it starts at the working directory. If a `type` changes, a `ConfigNote` names the fields that are dropped.
    The modules that the config names are imported: with a file, also from its folder and from the working directory.
    Within `with no_plugins():` no module is imported, and naming one is an error. The same holds for a config from the
    hub, unless `allow_plugins` is true.

    Args:
        source: The config, the path of its file, or hf://ORG/NAME[@REVISION] of a repository with a config.yaml. Values
            may be numpy's and torch's scalars, paths and tuples too. Of a list of them, each wins over those before it.
        overrides: Values by dotted key.
        allow_plugins: Whether a config from the hub may import the modules that it names.

    Raises:
        ConfigError: Something is wrong in the file or the config. The message has one line an error.
    """
    return load_completed(source, overrides or {}, allow_plugins)[0]


def load_completed(
    source: ConfigSource, overrides: Mapping[str, object], allow_plugins: bool = False
) -> "tuple[ExperimentConfig, Completed]":
    """Return the config as `load_config` does, and its values with the places that they come from."""
    sources = read_sources(source)
    from .reading import complete_config  # these import torch, which takes a second: the files are read before
    from .schema import ExperimentConfig

    return complete_config(ExperimentConfig, sources, overrides, allow_plugins)
