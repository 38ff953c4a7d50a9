"""`lerobot`: data sets in LeRobot's format."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from optimizer.config import Count, PositiveCount, PositiveNumber

from ..errors import ConfigError
from ..interfaces.dataset import DATASET_REGISTRY, DataSet, Split
from .aggregation import as_tensors
from .features import is_camera
from .frames import FrameOptions
from .mixture import check_alike, check_apart, merged_statistics, merged_tasks, mixed
from .part import PARAMS, Part, PartOptions, open_part
from .sources import Source, expanded


def _check_share(value: float | list[int]) -> float | list[int]:
    if isinstance(value, float) and not 0 <= value < 1:
        raise PydanticCustomError("share", "must be at least 0 and less than 1, or a list of numbers of episodes")
    return value


HeldOut = Annotated[float | list[Count], AfterValidator(_check_share)]
Distances = Annotated[list[int], Field(min_length=1)]
Times = Annotated[list[float], Field(min_length=1)]


@DATASET_REGISTRY.register("lerobot")
class LeRobotData(DataSet):
    """Episodes of robots in LeRobot's format (v3.0 or v2.1): a folder, a repository on the hub, or several of them.

    A sample is a frame of an episode, with the values that LeRobotDataset returns. Observations and actions, and
    whatever `deltas` names, have a dimension for time: (N, T, …), also for one time step, and also if a frame has a
    single number. Beyond the ends of an episode stands its nearest frame; the mask KEY_is_pad, bool (N, T), is true
    there. Frames of cameras are uint8 (N, T, 3, H, W). `task_index` is the number of a task, whose text is in
    `statistics["tasks"]`. The statistics are those of the whole data set, whatever episodes are loaded, as LeRobot's
    are.

    Args:
        root: Folder of the data set. `~` and `$NAME` are filled in.
        repo_id: Its name on the Hugging Face Hub, in place of `root`. Files are loaded into the cache of
            huggingface_hub, and taken from it when there is no connection.
        revision: Branch, tag or commit of `repo_id`; null: its main branch.
        datasets: Several data sets in place of one: each with `root` or `repo_id`, `revision`, `weight`, `episodes` and
            `exclude_episodes`. Their features and frame rates must be the same. An epoch is the shortest one that has
            every sample of each and the shares that the weights give; without weights, it has each sample once. What is
            held out is not weighted. Batches have `dataset_index` too.
        episodes: Numbers of the episodes to load; null: all.
        exclude_episodes: Numbers of episodes to leave out.
        held_out: Share of the loaded episodes that is held out, which are the last ones (at least one, if the share is
            not 0), or the numbers of these episodes.
        n_obs_steps: Time steps of each observation; the last one is the sample's.
        chunk: Time steps of actions; the first one is the sample's.
        deltas: Distances from the sample's frame by feature, in frames, instead of those by `n_obs_steps` and `chunk`.
        delta_timestamps: The same in seconds, as in LeRobot. They must be multiples of the time of a frame.
        features: Names of the features to load; null: all that consist of numbers or frames.
        drop_n_last_frames: Frames at the end of each episode that are left out as samples.
        use_imagenet_stats: Whether `mean` and `std` of cameras are those of ImageNet, as in LeRobot.
        frames: `cache`: decode all frames once, into a file that is mapped into memory; `lazy`: decode those of each
            batch. This and what follows is refused where no camera is loaded.
        cache_dir: Folder of the caches; null: `innerstep/frames` in `$XDG_CACHE_HOME`, or in `~/.cache`.
        cache_limit_gb: The largest cache of one camera that is made, in 10^9 bytes. Like `cache_dir`, it is refused
            with `frames: lazy`.
        resize: Height and width to which frames are resized when they are decoded.
        video_backend: The decoder of videos; `auto`: torchcodec where it loads, else PyAV.
        image_transforms: Random changes of the frames to train on, one after another: each has `type`, the dotted path
            of a class or a function, and its `params`. Frames are float32 in 0..1 then.

    Raises:
        ConfigError: A file or a feature is missing or invalid, or a parameter does not fit the data.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        repo_id: str | None = None,
        revision: str | None = None,
        datasets: Annotated[list[Source], Field(min_length=1)] | None = None,
        episodes: list[Count] | None = None,
        exclude_episodes: list[Count] | None = None,
        held_out: HeldOut = 0.0,
        n_obs_steps: PositiveCount = 1,
        chunk: PositiveCount = 1,
        deltas: dict[str, Distances] | None = None,
        delta_timestamps: dict[str, Times] | None = None,
        features: Annotated[list[str], Field(min_length=1)] | None = None,
        drop_n_last_frames: Count = 0,
        use_imagenet_stats: bool = True,
        frames: Literal["cache", "lazy"] = "cache",
        cache_dir: str | Path | None = None,
        cache_limit_gb: PositiveNumber = 20.0,
        resize: tuple[PositiveCount, PositiveCount] | None = None,
        video_backend: Literal["auto", "pyav", "torchcodec"] = "auto",
        image_transforms: list[dict[str, Any]] | None = None,
    ) -> None:
        options = PartOptions(
            held_out, n_obs_steps, chunk, deltas, delta_timestamps, features, drop_n_last_frames, image_transforms
        )
        decoding = FrameOptions(frames, expanded(cache_dir), cache_limit_gb, resize, video_backend)
        if frames == "lazy":
            _refuse_cache_options(decoding)
        one = Source(
            root=root, repo_id=repo_id, revision=revision, episodes=episodes, exclude_episodes=exclude_episodes
        )
        parts = _open_all(one, datasets, options, decoding)
        self.drop_n_last_frames = drop_n_last_frames
        self._fingerprint = " ".join(part.fingerprint for part in parts)
        self.train, self.held_out = _splits(parts, datasets)
        self._describe(parts, use_imagenet_stats)

    def fingerprint(self) -> str:
        """Return checksums of the episodes that are loaded, one for each data set.

        They depend on all values in memory, the tasks, the statistics, and the sizes of the files that hold frames.
        """
        return self._fingerprint

    def _describe(self, parts: list[Part], use_imagenet_stats: bool) -> None:
        self.features, self.deltas, infos = parts[0].features, parts[0].deltas, parts[0].infos
        statistics = parts[0].meta.statistics if len(parts) == 1 else merged_statistics(parts)
        loaded = {name: values for name, values in statistics.items() if name in infos}
        cameras = [name for name, info in infos.items() if is_camera(info) and use_imagenet_stats]
        self.statistics = {**as_tensors(loaded, cameras, parts[0].meta.root / "meta"), "tasks": merged_tasks(parts)[0]}


def _refuse_cache_options(decoding: FrameOptions) -> None:
    for name in ("cache_dir", "cache_limit_gb"):
        if getattr(decoding, name) != getattr(FrameOptions, name):
            raise ConfigError(f"{PARAMS}.{name}: is for frames: cache; with frames: lazy there is none. Leave it out.")


def _open_all(one: Source, datasets: list[Source] | None, options: PartOptions, decoding: FrameOptions) -> list[Part]:
    if datasets is None:
        return [open_part(one, options, decoding, PARAMS)]
    for name in ("root", "repo_id", "revision", "episodes", "exclude_episodes"):
        if getattr(one, name) is not None:
            raise ConfigError(
                f"{PARAMS}.{name}: belongs to one data set; with datasets, give it in each entry of them."
            )
    if isinstance(options.held_out, list):
        raise ConfigError(f"{PARAMS}.held_out: must be a share with datasets; got the numbers of episodes.")
    parts = [
        open_part(source, options, decoding, f"{PARAMS}.datasets.{number}") for number, source in enumerate(datasets)
    ]
    check_alike(parts, decoding.resize is not None)
    if options.held_out:
        check_apart(parts)
    return parts


def _splits(parts: list[Part], datasets: list[Source] | None) -> tuple[Split, Split | None]:
    if datasets is None:
        return parts[0].train, parts[0].held_out
    return mixed(parts, [source.weight for source in datasets])
