"""The sink `wandb`: a run of Weights & Biases, by the package wandb.

W&B takes no line back. Each line has a step of W&B's that follows from its place, and a resume hands over the lines
only that come after the last one that W&B has.
"""

import errno
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import xxhash

from ..config.yaml_file import read_config_file
from ..errors import missing_extra, raised
from ..interfaces.metrics_sink import SINK_REGISTRY, MetricsLine
from ..run_layout import CONFIG, WANDB, WANDB_RUN
from ..runtime.files import write_atomically
from .dashboard_lines import Place, end_of, grouped_values, lines_after, place_of
from .wandb_files import NOTHING, WandbRun, last_step, written_run

_NAME = "Weights & Biases"
_PATIENCE_SECONDS = 30.0
"""How long the end of a run waits for wandb's process to write the last lines."""
_DEFAULTS = {"WANDB_PROJECT": "innerstep", "WANDB_ERROR_REPORTING": "false", "WANDB_FINISH_TIMEOUT": "600"}
"""Environment variables of wandb's that are set unless the user has: wandb reports its own errors to nobody, and a run
does not wait for the network forever when it is done."""

_WITHOUT_EFFECT = (
    *("run_dir", "device", "log", "log_every", "pictures", "on_save_error"),
    *("save_every", "save_every_minutes", "save_async", "keep_last", "keep_best"),
)
"""Fields of `train` that change no value of a line."""


@SINK_REGISTRY.register("wandb")
class WandbSink:
    """Hands each line to wandb. Where they go is decided by wandb's environment variables and login.

    Raises:
        OSError: wandb cannot begin a run.
    """

    def __init__(self, run_dir: Path, step: int) -> None:
        self._has_failed, self._folder = False, run_dir / WANDB
        with _reporting_errors():
            config = read_config_file(run_dir / CONFIG)
            known = written_run(run_dir)
            chosen, sent = _choose(run_dir, known, config, step)
            self._run = _begin(run_dir, chosen.id, config, known is not None)
            self._sent = sent if self._run.offline else _received(self._run)
        for line in lines_after(run_dir, _place(self._sent)):
            self.write(line)

    @staticmethod
    def check_package(path: str) -> None:
        """Check that the extra `wandb` is installed.

        Raises:
            ConfigError: It is not.
        """
        for name, value in _DEFAULTS.items():
            os.environ.setdefault(name, value)
        try:
            import wandb  # noqa: F401 is it there?
        except ImportError as error:
            raise missing_extra(path, "wandb", "wandb") from error

    def write(self, line: MetricsLine) -> None:
        """Hand a line over, unless W&B has it.

        Raises:
            OSError: wandb fails. It is not called again: the next resume hands over the lines that W&B lacks.
        """
        step = _step(place_of(line["split"], line["step"]))
        if step <= self._sent or self._has_failed:
            return
        self._has_failed = True
        with _reporting_errors():
            self._run.log({**grouped_values(line), "step": line["step"]}, step=step, commit=True)
        self._has_failed = False
        self._sent = step

    def close(self) -> None:
        """Wait until wandb has written or sent all lines.

        Raises:
            OSError: wandb fails, and has not failed before.
        """
        with suppress(OSError) if self._has_failed else nullcontext(), _reporting_errors():
            self._run.finish()
            if self._run.offline and not self._has_failed:
                self._wait_for_file()

    def _wait_for_file(self) -> None:
        """Wait until the last line is in a file: wandb's own process writes it, and a resume reads it."""
        until = time.monotonic() + _PATIENCE_SECONDS
        while last_step(self._folder, self._run.id) < self._sent:
            if time.monotonic() > until:
                raise OSError(errno.EIO, f"its last lines are not in {self._folder}", _NAME)
            time.sleep(0.02)


def _choose(run_dir: Path, known: WandbRun | None, config: dict[str, Any], step: int) -> tuple[WandbRun, int]:
    """Return the run of W&B to continue or to begin, and the last step in its files.

    The run goes back to before a line that W&B has, if it was killed, or if the user resumes an earlier checkpoint. By
    the same config it makes the same lines again. By another one it may not: a run of W&B begins then.
    """
    checksum = _checksum(config)
    sent = NOTHING if known is None else last_step(run_dir / WANDB, known.id)
    if known is None:
        chosen = WandbRun(os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4), checksum)
    elif sent > _step(end_of(step)) and checksum != known.config:
        chosen, sent = WandbRun(secrets.token_hex(4), checksum, (*known.earlier, known.id)), NOTHING
    else:
        chosen = WandbRun(known.id, checksum, known.earlier)
    if chosen != known:
        write_atomically(run_dir / WANDB_RUN, json.dumps(asdict(chosen)) + "\n")
    return chosen, sent


def _checksum(config: Mapping[str, Any]) -> str:
    """Return a checksum of the fields that decide the lines of a run."""
    deciding = {name: values for name, values in config.items() if name not in ("resume", "distributed")}
    deciding["train"] = {name: value for name, value in config["train"].items() if name not in _WITHOUT_EFFECT}
    return xxhash.xxh3_64_hexdigest(json.dumps(deciding, sort_keys=True, default=str).encode())


def _begin(run_dir: Path, run_id: str, config: dict[str, Any], is_known: bool) -> Any:
    """Return the open run of wandb's. It leaves the output of the terminal, and other runs of the process, alone."""
    import wandb

    run = wandb.init(
        id=run_id,
        name=os.environ.get("WANDB_NAME") or run_dir.name,
        dir=str(run_dir),
        config=config,
        resume="allow" if is_known and os.environ.get("WANDB_MODE") != "offline" else None,  # it would warn
        reinit="create_new",
        settings=wandb.Settings(console="off"),
    )
    run.define_metric("step")
    run.define_metric("*", step_metric="step")
    return run


def _received(run: Any) -> int:
    """Return the last step that the server has."""
    return run.starting_step - 1 if run.resumed else NOTHING


def _step(place: Place) -> int:
    """Return W&B's step of a line, which must grow from line to line: twice the updates done, and 1 if it evaluates."""
    return 2 * place[0] + place[1]


def _place(step: int) -> Place:
    return step // 2, step % 2


@contextmanager
def _reporting_errors() -> Iterator[None]:
    """Run the body, code of wandb. Each of its errors becomes an OSError, a failure to write."""
    try:
        yield
    except OSError:
        raise
    except (Exception, SystemExit) as error:
        raise OSError(errno.EIO, raised(error), _NAME) from error
