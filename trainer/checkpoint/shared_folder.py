"""Whether all processes of a run see one run directory."""

import tempfile
from contextlib import suppress
from pathlib import Path

from optimizer.config import listed
from optimizer.state import ASIDE

from ..distributed.outcomes import by_main
from ..distributed.world import World
from ..errors import ConfigError


def check_shared(run_dir: Path, world: World) -> None:
    """Check that all processes see what the main one writes into the run directory. All call it together.

    Args:
        run_dir: The run's directory, which the main process has made.
        world: The place of this process.

    Raises:
        ConfigError: A process does not see it. The message names each one.
        OSError: The main process cannot write into the directory.
    """
    if world.is_alone:
        return
    name = by_main(world, lambda: Path(tempfile.mkdtemp(prefix=ASIDE, dir=run_dir)).name)
    try:
        seen = world.gather([world.name, (run_dir / name).is_dir()])
    finally:
        if world.is_main:
            with suppress(OSError):  # the next run removes it
                (run_dir / name).rmdir()
    if blind := [process for process, sees in seen if not sees]:
        raise ConfigError(
            f"train.run_dir: must be on a file system that all processes share; {listed(blind)} cannot see what"
            f" {seen[0][0]} writes into {run_dir}"
        )
