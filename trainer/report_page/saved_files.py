"""The checkpoints of a run, and the picture and videos of its episodes."""

import base64
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from optimizer.state import read_limited
from optimizer.types import JsonObject

from ..checkpoint.directory import complete_checkpoints, read_manifest
from ..checkpoint.names import read_pointer, step_of
from ..checkpoint.writing import DAMAGED
from ..errors import NewerFormatError, UnreadableError
from ..run_layout import BEST, CHECKPOINTS, LATEST, ROLLOUTS, VIDEOS
from ..runtime.files import DamagedCheckpointError, stat_of

_MOST_CHECKPOINTS = 500
_MOST_VIDEOS = 24
_EMBEDDED_BYTES = 600_000
"""Bytes of a picture or video at most to be in the page itself. A larger one is a link."""
_KINDS = {".png": (b"\x89PNG\r\n\x1a\n", "image/png"), ".mp4": (b"ftyp", "video/mp4")}
"""The bytes in the beginning of a file by its ending, and its type."""


class Budget:
    """The bytes of pictures and videos that a page may still take in."""

    def __init__(self, size_bytes: int = 1_200_000) -> None:
        self._left = size_bytes

    def take(self, size_bytes: int) -> bool:
        """Return whether so many bytes may be taken in, and take them if so."""
        if size_bytes > min(self._left, _EMBEDDED_BYTES):
            return False
        self._left -= size_bytes
        return True


def checkpoints_of(run_dir: Path) -> tuple[list[JsonObject], list[str]]:
    """Return the checkpoints of a run, the oldest first, and a line for each that cannot be read.

    Raises:
        UnreadableError: The system refuses to list them.
    """
    folder = run_dir / CHECKPOINTS
    latest, best = read_pointer(folder, LATEST), read_pointer(folder, BEST)
    found, problems = [], []
    for checkpoint in sorted(complete_checkpoints(folder), key=step_of)[-_MOST_CHECKPOINTS:]:
        try:
            manifest = read_manifest(checkpoint)
            sizes = [description["size_bytes"] for description in manifest["files"].values()]
            found.append(
                {
                    "name": checkpoint.name,
                    "step": manifest["step"],
                    "bytes": sum(sizes),
                    "files": len(sizes),
                    "finite": manifest.get("finite") is not False,
                    "latest": checkpoint == latest,
                    "best": checkpoint == best,
                }
            )
        except (DamagedCheckpointError, NewerFormatError, UnreadableError, KeyError, TypeError) as error:
            problems.append(str(error) if str(error) else f"{checkpoint}: its manifest is damaged")
    with suppress(OSError):
        problems += [
            f"{folder / name}: set aside as damaged by a resume"
            for name in sorted(os.listdir(folder))
            if name.startswith(DAMAGED)
        ]
    return found, problems


def pictures_of(run_dir: Path, page_dir: Path, budget: Budget) -> list[JsonObject]:
    """Return the picture of episodes and their videos: name, link from the page, and content if it is small."""
    return [_shown_file(path, run_dir, page_dir, budget) for path in _files(run_dir)]


def _files(run_dir: Path) -> Iterator[Path]:
    paths = [run_dir / ROLLOUTS]
    videos = run_dir / VIDEOS
    if videos.is_dir() and not videos.is_symlink():
        with suppress(OSError):
            paths += [videos / name for name in sorted(os.listdir(videos)) if name.endswith(".mp4")][:_MOST_VIDEOS]
    for path in paths:
        if path.is_file() and not path.is_symlink():
            yield path


def _shown_file(path: Path, run_dir: Path, page_dir: Path, budget: Budget) -> JsonObject:
    start, kind = _KINDS[path.suffix]
    found: JsonObject = {
        "name": path.relative_to(run_dir).as_posix(),
        "kind": kind,
        "link": quote(Path(os.path.relpath(path, page_dir)).as_posix()),
        "content": None,
    }
    size = stat_of(path)
    if size is not None and budget.take(size.st_size):
        with suppress(OSError):
            content = read_limited(path, _EMBEDDED_BYTES)
            if start in content[:16]:
                found["content"] = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    return found
