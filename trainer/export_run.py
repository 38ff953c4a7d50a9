"""`innerstep export`: a trained run as files for other programs."""

from collections.abc import Callable, Mapping
from pathlib import Path

from optimizer.config import log_imports, nearest

from .errors import ConfigError
from .exporting import lerobot_format, torch_format
from .exporting.output_folder import check_output, new_folder
from .exporting.source import Source
from .loaded_run import config_of_run, load_checkpoint
from .run_layout import CONFIG
from .runtime.devices import device_named

FORMATS = {
    "torch": (torch_format.FILES, torch_format.write_torch_format),
    "lerobot": (lerobot_format.FILES, lerobot_format.write_lerobot_format),
}
"""By name: the files that a folder of the format may hold, and the function that fills one."""


def export_run(
    run: str | Path,
    to: str,
    out: Path,
    checkpoint: str | Path,
    overwrite: bool,
    overrides: Mapping[str, object],
    report: Callable[[str], None],
    allow_plugins: bool = False,
) -> None:
    """Write a run as files for other programs into the new folder `out`. The run may be training.

    Args:
        run: The run's directory, or hf://ORG/NAME of a repository with a run.
        to: The format, one of `FORMATS`.
        out: The folder.
        checkpoint: `latest`, `best`, or the folder of a checkpoint.
        overwrite: Whether to replace a folder that holds an export.
        overrides: Values of the config to change, by dotted key.
        report: Prints lines.
        allow_plugins: Whether a run on the hub may import the modules that its config names.

    Raises:
        ConfigError: There is no run or no checkpoint, `out` cannot be used, or the run cannot be written in this
            format. Nothing is written.
        OutputError: The system refuses to write a file.
    """
    if to not in FORMATS:
        raise ConfigError(f"--to: must be {' or '.join(FORMATS)}; got {to!r}{nearest(to, list(FORMATS))}")
    files, write = FORMATS[to]
    with log_imports(lambda module: report(f"{run}/{CONFIG} imports {module}")):
        config = config_of_run(run, overrides, allow_plugins)
    check_output(out, config.train.run_dir, files, overwrite)
    loaded = load_checkpoint(config, checkpoint, device_named("cpu", "device"))
    source = Source(config, loaded.step, loaded.components, loaded.objective)
    with new_folder(out) as folder:
        lines = write(source, folder)
    report(f"{loaded.checkpoint}:")
    for line in lines:
        report(f"{out}/{line}")
