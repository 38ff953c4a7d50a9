"""Which process of a run failed first, and why; and a thread that ends the others if they do not end themselves."""

import json
import math
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NoReturn

import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

from ..errors import STOPPED_AND_SAVED, PeerError, calls_of, exit_code, user_place
from ..runtime.terminal import complain
from .error_file import write_error_file

POLL_SECONDS = 0.25
"""How often the thread asks whether a process failed."""
ANSWER_SECONDS = 2.0
"""How long a process waits for a sign of life of the others, after a collective has failed."""
ALIKE_SECONDS = 2.0
"""How long a process that is still being built may take to meet the error of another one itself."""
RECEIVED_SECONDS = 5.0
"""How long a process that failed waits until the main one knows why, before torchrun ends them all."""
END_SECONDS = 3.0
"""How long a process may live that hangs, or whose torchrun is gone."""
PRINT_SECONDS = 0.5
"""How long the main process may take to print why the run stopped."""

_FIRST, _ASKED, _RECEIVED, _SPEAKER = "first", "asked", "received", "speaker"
"""Keys in the store: the first failure; that a process asks who is there; that the main one knows; who prints."""


@dataclass(frozen=True)
class Failure:
    """Why a run of several processes ends."""

    rank: int
    """The process that failed first."""
    text: str
    """The event in words: `rank 1 (host) failed: reason`."""
    kind: Literal["failed", "gone", "hangs"]
    code: int
    """The exit code of the run."""
    seconds: float
    """When it was noticed, since 1970."""
    calls: str = ""
    """The lines of the user's code in the traceback."""


class Failures:
    """The failures of the processes of a run, in the store that they share.

    A thread watches the store: it answers the others while this process computes, and ends this process, at once or
    after a while, if another one failed and this one does not end itself.

    Args:
        store: The store; it is cloned, so that no other waits for it.
        rank: Of this process.
        size: How many processes there are.
        timeout_seconds: How long a process waits for the others.
        keeper: The process that keeps the store; None: torchrun does.
    """

    def __init__(self, store: Store, rank: int, size: int, timeout_seconds: float, keeper: int | None = None) -> None:
        self.rank, self._size, self._timeout, self._keeper = rank, size, timeout_seconds, keeper
        self._store, self._watched = (store.clone() for _ in range(2))  # type: ignore[attr-defined]  # missing in the stubs
        self._parent = os.getppid()
        self._host = socket.gethostname()
        self._ended = threading.Event()
        self._main_thread = threading.get_ident()
        self._waited_at: list[traceback.FrameSummary] | None = None
        """Where the collective was called that has failed."""
        self.is_training = False
        """Whether this process reports the failure of another one itself, when its next collective fails."""
        self._store.set(_host_key(rank), self._host)
        self._thread = threading.Thread(target=self._watch, name="innerstep-failures", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop watching: this process ends, or is done."""
        self._ended.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(2 * POLL_SECONDS)

    def report(self, error: BaseException) -> None:
        """Report to the others that this process fails by `error`, and wait until the main one knows."""
        with suppress(RuntimeError):  # the store is gone
            post(self._store, failure_of(error, self.rank))

    def wait_for_main(self) -> None:
        """Wait until the main process has come here too, and a moment more, in which it prints why the run stopped.

        torchrun ends all processes as soon as one has ended.
        """
        with suppress(RuntimeError):
            if self.rank == 0:
                self._store.set(_RECEIVED, "1")
            elif _wait_for(self._store, _RECEIVED, RECEIVED_SECONDS):
                time.sleep(PRINT_SECONDS)

    def behind(self, error: BaseException) -> Failure | None:
        """Return the failure of another process that made `error`; None if this process failed itself."""
        failed = _of_a_collective(error)
        if failed is None:
            return None
        self._waited_at = [*traceback.extract_tb(failed.__traceback__)]
        try:
            return self._first() or self._found_out(_has_timed_out(error))
        except RuntimeError:
            return self._of_lost_store()

    def error(self, failure: Failure, more: str = "") -> PeerError:
        """Return the error that ends this process after the failure of another one; more: further lines."""
        message = "\n".join(filter(None, [f"stopped, as {failure.text}", more]))
        return PeerError(message, failure.code, failure.calls, self.speaks(failure), _seconds_after(failure))

    def speaks(self, failure: Failure) -> bool:
        """Return whether this process prints the message about `failure`: the main one, or another if that is gone."""
        if failure.kind == "failed" or failure.rank != 0:
            return self.rank == 0
        try:
            speaker: bytes = self._store.compare_set(_SPEAKER, "", str(self.rank))
            return speaker.decode() == str(self.rank)
        except RuntimeError:
            return True

    def _first(self) -> Failure | None:
        return _decoded(self._store.get(_FIRST)) if self._store.check([_FIRST]) else None

    def _found_out(self, timed_out: bool) -> Failure | None:
        """Ask the others for a sign of life; return which of them is gone or hangs. Another one may find it first."""
        self._store.set(_ASKED, "1")
        others = [rank for rank in range(self._size) if rank != self.rank]
        deadline = time.monotonic() + ANSWER_SECONDS
        while time.monotonic() < deadline:
            if first := self._first():
                return first
            if all(self._store.check([f"here/{rank}"]) for rank in others) and timed_out:
                break
            time.sleep(POLL_SECONDS / 5)
        answers = {rank: self._answer(rank) for rank in others}
        if missing := [rank for rank, answer in answers.items() if answer is None]:
            return _posted(self._store, self._missing(missing, timed_out))
        return _posted(self._store, self._hanging(answers)) if timed_out else None

    def _answer(self, rank: int) -> dict[str, str] | None:
        key = f"here/{rank}"
        return json.loads(self._store.get(key)) if self._store.check([key]) else None

    def _missing(self, ranks: list[int], timed_out: bool) -> Failure:
        others = f" (and {len(ranks) - 1} more)" if len(ranks) > 1 else ""
        if not self._store.check([_host_key(ranks[0])]):
            text = f"rank {ranks[0]} did not join the others{others}"
        else:
            text = f"{self._named(ranks[0])} {self._timed_out() if timed_out else 'is gone'}{others}"
        return Failure(ranks[0], text, "gone", STOPPED_AND_SAVED, time.time())

    def _hanging(self, answers: dict[int, dict[str, str] | None]) -> Failure:
        places = {rank: answer for rank, answer in answers.items() if answer is not None}
        hanging = [rank for rank, place in places.items() if not place["waits"]]
        if hanging:
            rank = hanging[0]
            text = f"{self._named(rank)} {self._timed_out()}; it is in {places[rank]['place']}"
            return Failure(rank, text, "hangs", STOPPED_AND_SAVED, time.time())
        places[self.rank] = self._place()
        here = ", ".join(f"rank {rank} in {place['place']}" for rank, place in sorted(places.items()))
        text = (
            f"the processes waited for each other {self._for_seconds()}: {here}. All of them must make the"
            " same calls in the same order, whatever is in their part of a batch: of sharded components, of BatchNorm,"
            " of learner.step and learner.mean."
        )
        return Failure(self.rank, text, "hangs", STOPPED_AND_SAVED, time.time())

    def _timed_out(self) -> str:
        return f"did not come {self._for_seconds()}"

    def _for_seconds(self) -> str:
        return f"for {self._timeout:g} seconds (distributed.timeout_seconds)"

    def _named(self, rank: int) -> str:
        return f"rank {rank} ({self._store.get(_host_key(rank)).decode()})"

    def _of_lost_store(self) -> Failure:
        """Return the failure when the store is gone too: with the process that keeps it, or with torchrun."""
        text = "torchrun is gone" if self._keeper is None else f"rank {self._keeper} is gone"
        return Failure(self._keeper or 0, text, "gone", STOPPED_AND_SAVED, time.time())

    def _watch(self) -> None:
        """Run in a thread until this process ends: answer the others, and end it if it does not end itself in time."""
        store: Store | None = self._watched
        has_answered, first, end, orphaned = False, None, math.inf, math.inf
        while not self._ended.wait(POLL_SECONDS):
            if os.getppid() != self._parent:
                orphaned = min(orphaned, time.monotonic() + END_SECONDS)
            if time.monotonic() > min(end, orphaned):
                self._end(first)
            try:
                if store is not None and not has_answered and store.check([_ASKED]):
                    store.set(f"here/{self.rank}", json.dumps(self._place()))
                    has_answered = True
                if store is not None and first is None and store.check([_FIRST]):
                    first = _decoded(store.get(_FIRST))
                    end = time.monotonic() + self._seconds_left(first)
                    if self.is_training:
                        self._let_know()
            except RuntimeError:
                store = None

    def _seconds_left(self, first: Failure) -> float:
        """Return how long this process may take to end itself after the first failure of the run."""
        if first.kind == "hangs" and first.rank == self.rank:
            return END_SECONDS
        return self._timeout if self.is_training else ALIKE_SECONDS

    def _end(self, first: Failure | None) -> NoReturn:
        """End this process with a message about the first failure of the run; None: torchrun is gone."""
        if first is None:
            os._exit(STOPPED_AND_SAVED)
        message = f"stopped, as {first.text}"
        with suppress(Exception):
            if self.speaks(first):
                complain(f"error: {message}", "red")
            self._let_know()
        write_error_file(message, _seconds_after(first))
        os._exit(first.code)

    def _let_know(self) -> None:
        """Let the process that failed end: torchrun will then end this one, which has the message by now."""
        if self.rank == 0:
            self._watched.set(_RECEIVED, "1")

    def _place(self) -> dict[str, str]:
        """Return where the main thread is, and whether it waits for other processes there."""
        frames = self._waited_at or [*traceback.extract_stack(sys._current_frames().get(self._main_thread))]
        caller = _caller_of_collective(frames)
        return {"place": user_place(caller or frames), "waits": "" if caller is None else "1"}


def _seconds_after(failure: Failure) -> float:
    """Return when the others end, since 1970, for torchrun, which takes the earliest for the cause."""
    return failure.seconds + 1


def failure_of(error: BaseException, rank: int) -> Failure:
    """Return the failure of process `rank` by `error`, which it raised itself."""
    what = "was interrupted" if isinstance(error, KeyboardInterrupt) else f"failed: {error or type(error).__name__}"
    text = f"rank {rank} ({socket.gethostname()}) {what}"
    return Failure(rank, text, "failed", exit_code(error), time.time(), calls_of(error))


def post(store: Store, failure: Failure) -> None:
    """Report a failure to the others and to torchrun; wait until main knows it, as torchrun then ends them all."""
    write_error_file(failure.text, failure.seconds)
    _posted(store, failure)
    if failure.rank == 0:
        store.set(_RECEIVED, "1")
    _wait_for(store, _RECEIVED, RECEIVED_SECONDS)


def _wait_for(store: Store, key: str, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not store.check([key]):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS / 5)
    return True


def _posted(store: Store, failure: Failure) -> Failure:
    return _decoded(store.compare_set(_FIRST, "", json.dumps(asdict(failure))))


def _host_key(rank: int) -> str:
    """Return the key of the host of a process that has joined the others."""
    return f"host/{rank}"


def _of_a_collective(error: BaseException | None) -> BaseException | None:
    """Return the error of a collective that failed: `error`, or one that led to it; None if there is none."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        text = str(error) if isinstance(error, RuntimeError) else ""
        if isinstance(error, dist.DistError) or "gloo" in text or "NCCL" in text:
            return error
        error = error.__cause__ or error.__context__
    return None


def _caller_of_collective(frames: Sequence[traceback.FrameSummary]) -> Sequence[traceback.FrameSummary] | None:
    """Return the frames around a call that waits for other processes; None if the innermost one is another one.

    The user's code may run inside torch.distributed: then it does not wait.
    """
    ours, theirs, torch = Path(__file__).parent, Path(dist.__file__).parent, Path(dist.__file__).parents[1]
    waits = False
    for end in range(len(frames), 0, -1):
        path = Path(frames[end - 1].filename)
        if not (path.is_relative_to(torch) or path.is_relative_to(ours)):
            return frames[:end] if waits else None
        waits = waits or path.is_relative_to(theirs) or path.is_relative_to(ours)  # the latter calls a method in C++
    return None


def _has_timed_out(error: BaseException) -> bool:
    """Return whether `error` is of a wait that took too long, and not of a process that does not answer any more."""
    return "imed out" in str(error) and "refused" not in str(error)


def _decoded(data: bytes) -> Failure:
    return Failure(**json.loads(data))
