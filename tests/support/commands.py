"""Commands of innerstep in several processes that the tests start themselves, in the place of torchrun.

The processes are forked from a server that has imported torch and the trainer: they start in a moment. The test keeps
the store, as torchrun does; but it does not end the others when one has ended.
"""

import json
import os
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from processes import HOST, SUPPORT, fork_server


@dataclass(frozen=True)
class Ended:
    """How the processes of a command ended, by rank."""

    codes: list[int]
    """Exit codes; a negative one is that of a signal."""
    outputs: list[str]
    seconds: list[float | None]
    """When each failed, as it reports to torchrun, since 1970."""

    @property
    def output(self) -> str:
        """The output of all processes."""
        return "".join(self.outputs)

    def messages(self) -> list[str]:
        """Return the lines that name an error, of all processes."""
        return [line for line in self.output.splitlines() if line.startswith("error: ")]


def run_together(size: int, *arguments: object, timeout: float = 60.0) -> Ended:
    """Run `innerstep ARGUMENTS` in `size` processes to the end, for `timeout` seconds at most."""
    from torch.distributed import TCPStore

    store = TCPStore(HOST, 0, is_master=True, wait_for_workers=False)
    with tempfile.TemporaryDirectory(prefix="innerstep-commands-") as folder:
        logs = [Path(folder) / f"{rank}.txt" for rank in range(size)]
        given = [(rank, size, store.port, log, tuple(map(str, arguments))) for rank, log in enumerate(logs)]
        processes = [fork_server().Process(target=_run, args=each, daemon=True) for each in given]
        try:
            for process in processes:
                process.start()
            deadline = time.monotonic() + timeout
            for process in processes:
                process.join(max(0.0, deadline - time.monotonic()))
            outputs = [log.read_text() if log.exists() else "" for log in logs]
            assert all(process.exitcode is not None for process in processes), outputs
            return Ended([process.exitcode for process in processes], outputs, [*map(_failed_at, logs)])
        finally:
            for process in processes:
                with suppress(ValueError):
                    process.kill()


def _failed_at(log: Path) -> float | None:
    file = log.with_suffix(".json")
    return float(json.loads(file.read_text())["message"]["extraInfo"]["timestamp"]) if file.exists() else None


def write_experiment(
    folder: Path, what: str = "", timeout: float = 600, workers: int = 0, placement: str = "replicate", **params: object
) -> Path:
    """Write the config of a run in `folder` whose objective does `what` on a rank; return its file.

    Args:
        folder: For the config and the run.
        what: As `FailsOnARank` takes it.
        timeout: For `distributed.timeout_seconds`.
        workers: For `data.workers`.
        placement: Of the first component.
        **params: Of the objective; `total_steps` is that of the run.
    """
    from sample_runs import ADAMW, MLPS, config

    steps = {"total_steps": params.pop("total_steps", 12), "save_every": 4}
    made = config(folder / "run", MLPS, {"first": ADAMW, "second": ADAMW}, data={"workers": workers}, **steps)
    made["train"]["objective"] = {"type": "sample_rank_parts.FailsOnARank", "params": {"what": what, **params}}
    made["model"]["components"]["first"]["placement"] = placement
    made["distributed"] = {"timeout_seconds": timeout}
    path = folder / "config.json"
    path.write_text(json.dumps(made))
    return path


def _run(rank: int, size: int, port: int, log: Path, arguments: tuple[str, ...]) -> None:
    """Run the command as one of the processes."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": HOST, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()}, TORCHELASTIC_USE_AGENT_STORE="True")
    os.environ.update(PYTHONPATH=str(SUPPORT), TORCHELASTIC_ERROR_FILE=str(log.with_suffix(".json")))
    from trainer.cli.main import main

    sys.argv = ["innerstep", *arguments]
    main()
