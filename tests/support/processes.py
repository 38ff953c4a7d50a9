"""Tests of several processes: workers joined by gloo that run functions together, and launches by torchrun.

The workers are forked from a server that has imported torch and the trainer, and live until the tests end: a call takes
milliseconds. The fixtures `two_workers` and `four_workers` give them to tests in `tests/distributed`.
"""

import ctypes
import faulthandler
import functools
import multiprocessing
import os
import pickle
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import connection as pipes
from pathlib import Path
from typing import Any

SUPPORT, ROOT = Path(__file__).parent, Path(__file__).parents[2]
START_SECONDS = 120.0
GROUP_SECONDS = 30
"""How long a collective waits for the other ranks."""
GRACE_SECONDS = 2.0
"""How long the other ranks may take to report their failure after the first one."""
STACK_SIGNAL = signal.SIGPROF
"""Asks a rank for its stack; a run takes signals such as SIGUSR1 for itself."""
STACK_SECONDS = 10.0
"""How long a rank that has not answered may take to write its stack."""
MARK = "INNERSTEP_TEST_LAUNCH"
"""The environment variable that all processes of a launch inherit."""
HOST = "127.0.0.1"


class WorkerError(Exception):
    """Ranks failed or did not answer. The message has the traceback of each, the first to fail before the others.

    failures: these texts by rank.
    """

    def __init__(self, size: int, failures: dict[int, str]) -> None:
        super().__init__("\n".join(f"rank {rank} of {size}: {text}" for rank, text in failures.items()))
        self.failures = failures


@functools.cache
def fork_server() -> Any:
    """Return the multiprocessing context whose processes are forked from a server with the imports in preloaded.py."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{SUPPORT}{os.pathsep}{ROOT}"  # the server imports by it
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["preloaded"])
    warm = context.Process(target=time.sleep, args=(0,))
    warm.start()
    warm.join()
    os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)
    return context


@dataclass(frozen=True)
class _Worker:
    process: Any
    pipe: pipes.Connection
    log: Path
    """Its output, and its stack when it is asked for it."""


class Workers:
    """Processes joined by gloo, with one thread each, that run functions together. They start with the first call."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._workers: list[_Worker] = []
        self._store: Any = None  # keeps the server of the group's addresses alive
        self._logs: Any = None

    def call(self, function: Callable[..., Any], *arguments: Any, timeout: float = 60.0) -> list[Any]:
        """Run `function(*arguments)` on all ranks at once, with the generator of torch seeded with 0.

        After a failure new workers take the place of these: the next call is not affected.

        Args:
            function: of a module that a worker can import, as of a test file or of tests/support. What it imports is
                imported in each worker, so it should not import `conftest`, which takes seconds.
            *arguments: plain values or tensors; they are pickled, as is the result.
            timeout: in seconds, without the time in which a worker imports the function.

        Returns:
            The results by rank.

        Raises:
            WorkerError: A rank raised, ended, or did not answer in time.
        """
        message = pickle.dumps((function, arguments))
        if not all(worker.process.is_alive() for worker in self._workers):
            self.close()
        try:
            if not self._workers:
                self._start()
            for worker in self._workers:
                worker.pipe.send_bytes(message)
            self._answers(START_SECONDS)  # that the function is imported
            return self._answers(timeout)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.pipe.close()
        if self._logs is not None:
            self._logs.cleanup()
        self._workers, self._store, self._logs = [], None, None

    def _start(self) -> None:
        from torch.distributed import TCPStore

        self._store = TCPStore(HOST, 0, is_master=True, wait_for_workers=False)
        self._logs = tempfile.TemporaryDirectory(prefix="innerstep-workers-")
        for rank in range(self.size):
            own, other = multiprocessing.Pipe()
            log = Path(self._logs.name) / f"{rank}.txt"
            process = fork_server().Process(
                target=_serve, args=(other, rank, self.size, self._store.port, log), daemon=True
            )
            process.start()
            other.close()
            self._workers.append(_Worker(process, own, log))
        self._answers(START_SECONDS)

    def _answers(self, timeout: float) -> list[Any]:
        answers: dict[int, Any] = {}
        failures: dict[int, str] = {}
        waiting = {worker.pipe: rank for rank, worker in enumerate(self._workers)}
        deadline = time.monotonic() + timeout
        while waiting and (left := deadline - time.monotonic()) > 0:
            for pipe in pipes.wait(list(waiting), left):
                rank = waiting.pop(pipe)  # type: ignore[call-overload]
                is_right, answer = self._received(rank)
                (answers if is_right else failures)[rank] = answer
            if failures:
                deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
        failures |= {rank: self._stack(rank, timeout) for rank in waiting.values()}
        if failures:
            raise WorkerError(self.size, failures)
        return [answers[rank] for rank in range(self.size)]

    def _received(self, rank: int) -> tuple[bool, Any]:
        worker = self._workers[rank]
        try:
            return pickle.loads(worker.pipe.recv_bytes())
        except (EOFError, ConnectionError):
            worker.process.join(5)
            return False, f"the process ended with {worker.process.exitcode}\n{worker.log.read_text()[-2000:]}"

    def _stack(self, rank: int, timeout: float) -> str:
        """Return where a rank is that has not answered."""
        worker = self._workers[rank]
        printed = len(worker.log.read_bytes())
        os.kill(worker.process.pid, STACK_SIGNAL)
        deadline, stack, longer = time.monotonic() + STACK_SECONDS, b"", b""
        while time.monotonic() < deadline and not (stack and stack == longer):
            stack = longer
            time.sleep(0.2)
            longer = worker.log.read_bytes()[printed:]
        return f"no answer in {timeout:g} s\n{longer.decode(errors='replace')[:4000]}"


def _serve(pipe: pipes.Connection, rank: int, size: int, port: int, log: Path) -> None:
    """Answer calls until the pipe closes: the life of a worker."""
    import torch
    from torch import distributed

    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: the server of forks ends with the tests
    torch.set_num_threads(1)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    faulthandler.register(STACK_SIGNAL, file=output)
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()}, MASTER_ADDR=HOST)
    store = distributed.TCPStore(HOST, port, is_master=False)
    seconds = timedelta(seconds=GROUP_SECONDS)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=seconds)
    pipe.send_bytes(pickle.dumps((True, None)))
    while True:
        try:
            message = pipe.recv_bytes()
        except EOFError:
            os._exit(0)  # gloo's threads abort an ordinary exit now and then
        try:
            function, arguments = pickle.loads(message)
            pipe.send_bytes(pickle.dumps((True, None)))
            torch.manual_seed(0)
            answer = pickle.dumps((True, function(*arguments)))
        except BaseException:  # skipping and failing tests too
            answer = pickle.dumps((False, traceback.format_exc()))
        pipe.send_bytes(answer)


@dataclass(frozen=True)
class Launch:
    """A command that torchrun runs in several processes."""

    torchrun: subprocess.Popen[bytes]
    log: Path
    mark: str

    def output(self) -> str:
        """Return the output of all processes."""
        return self.log.read_text(errors="replace")

    def finish(self, timeout: float = 120.0) -> int:
        """Wait for torchrun's end, for `timeout` seconds at most, and return its exit code."""
        try:
            return self.torchrun.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"torchrun has not ended in {timeout:g} s:\n{self.output()[-8000:]}") from error

    def pids(self, rank: int | None = None) -> list[int]:
        """Return the living processes of the launch, also those whose parent is gone; or only those of a rank."""
        wanted = [f"{MARK}={self.mark}", *([] if rank is None else [f"RANK={rank}"])]
        return [pid for pid in _all_pids() if set(wanted) <= _environment(pid) and _is_alive(pid)]


@contextmanager
def launched(size: int, *arguments: object, options: tuple[str, ...] = (), **environment: str) -> Iterator[Launch]:
    """Start `torchrun -m trainer ARGUMENTS` on this host, and kill all its processes in the end (Linux only).

    Args:
        size: the number of processes.
        *arguments: of the command, as "train", CONFIG.
        options: further options of torchrun, as "--max-restarts=3".
        **environment: further variables.
    """
    mark = secrets.token_hex(8)
    paths = f"{SUPPORT}{os.pathsep}{ROOT}"
    command = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}", *options, "-m", "trainer"]
    with tempfile.TemporaryDirectory(prefix="innerstep-launch-") as folder:
        log = Path(folder) / "output.txt"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, *command, *map(str, arguments)],
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment, MARK: mark},
                cwd=ROOT,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell ignores it in the background
            )
        launch = Launch(process, log, mark)
        try:
            yield launch
        finally:
            process.kill()
            process.wait()
            while pids := launch.pids():  # a killed process lives on for a moment, and one may have begun another
                for pid in pids:
                    _kill(pid)
                time.sleep(0.01)


def torchrun(size: int, *arguments: object, timeout: float = 120.0, **options: Any) -> tuple[int, str]:
    """Run `torchrun -m trainer ARGUMENTS` on this host to its end; return its exit code and output.

    The arguments are those of `launched`. An AssertionError ends it after `timeout` seconds.
    """
    with launched(size, *arguments, **options) as launch:
        return launch.finish(timeout), launch.output()


def _all_pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def _environment(pid: int) -> set[str]:
    try:
        return set(Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0"))
    except OSError:  # it has ended, or belongs to another user
        return set()


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
