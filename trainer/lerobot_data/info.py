"""`meta/info.json`: the fields that a reader needs."""

from pathlib import Path
from typing import Any

from pydantic import Field

from optimizer.config import shown

from ..errors import ConfigError
from .files import Record


class FeatureInfo(Record):
    """A feature in info.json."""

    dtype: str
    shape: tuple[int, ...]
    names: Any = None


class Info(Record):
    """The content of info.json."""

    codebase_version: str
    fps: float = Field(gt=0)
    features: dict[str, FeatureInfo]
    total_episodes: int
    total_frames: int
    total_tasks: int = 1
    data_path: str = ""
    """A template of the paths of parquet files."""
    video_path: str | None = None
    chunks_size: int = Field(1000, ge=1)

    @property
    def video_keys(self) -> list[str]:
        """The cameras whose frames are in videos."""
        return [key for key, feature in self.features.items() if feature.dtype == "video"]


def file_of(root: Path, template: str | None, **numbers: object) -> Path:
    """Return the path of a file of the data set.

    Args:
        root: The folder of the data set.
        template: `data_path` or `video_path`.
        numbers: The values for its braces.

    Raises:
        ConfigError: The template is missing or has other names in its braces.
    """
    place = root / "meta" / "info.json"
    try:
        path = Path((template or "").format(**numbers))
    except (LookupError, ValueError, AttributeError) as error:
        known = ", ".join(numbers)
        raise ConfigError(f"{place}: {shown(template)!r} must be a path with {known} in braces.") from error
    if path.is_absolute() or ".." in path.parts:
        raise ConfigError(f"{place}: {shown(template)!r} must be a path in the folder of the data set.")
    return root / path
