"""The description of a data set in LeRobot's format: features, episodes, tasks and statistics."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from optimizer.types import JsonObject


@dataclass(frozen=True)
class VideoSpan:
    """The place of an episode's frames in a video file."""

    path: Path
    start_seconds: float
    """The timestamp of the episode's first frame in the file."""


@dataclass(frozen=True)
class EpisodeSpan:
    """The place of an episode's frames in the data set."""

    index: int
    start: int
    """The first frame, counted through the data set; the `index` column of the data."""
    end: int
    """One past the last frame."""
    videos: Mapping[str, VideoSpan]
    """By camera whose frames are in videos."""
    data_file: Path = Path()
    """The parquet file that holds the episode's rows, one of `Meta.data_files`."""


@dataclass(frozen=True)
class Meta:
    """The content of the folder `meta` of a data set."""

    root: Path
    version: str
    """`v3.0` or `v2.1`."""
    fps: float
    features: Mapping[str, JsonObject]
    """As in info.json: `dtype`, `shape`, `names` and so on, by name."""
    episodes: tuple[EpisodeSpan, ...]
    """In the order of their frames."""
    data_files: tuple[Path, ...]
    """The parquet files, in the order of their frames."""
    tasks: tuple[str, ...]
    """By number."""
    statistics: Mapping[str, Mapping[str, object]]
    """`mean`, `std`, `min`, `max`, `count`, `q01` and so on by feature, as nested lists of numbers."""

    @property
    def total_frames(self) -> int:
        """The number of frames of all episodes."""
        return self.episodes[-1].end if self.episodes else 0
