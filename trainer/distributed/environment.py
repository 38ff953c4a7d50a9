"""The variables by which torchrun, or another launcher, gives a process its place; they are checked here."""

import os
import socket
from dataclasses import dataclass
from typing import Self

from ..errors import ConfigError

UNSHARED_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
"""The variable with which torchrun makes a new store for each attempt."""


@dataclass(frozen=True)
class Environment:
    """The place of this process among those that its launcher started. The default is a process started alone."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    attempt: int = 0
    """How often torchrun has restarted the processes."""
    has_torchrun: bool = False
    """Whether torchrun started this process."""
    shares_store: bool = False
    """Whether torchrun keeps the store of the processes, also between attempts; otherwise rank 0 does."""

    @classmethod
    def read(cls) -> Self:
        """Read the environment variables.

        Raises:
            ConfigError: One of them is missing or wrong.
        """
        given = [name for name in ("RANK", "WORLD_SIZE") if name in os.environ]
        if not given:
            return cls()
        rank, size = _number("RANK"), _number("WORLD_SIZE")
        if size < 1 or rank >= size:
            raise ConfigError(f"RANK: must be < WORLD_SIZE, which is {size}; got {rank}. {_HINT}")
        local_rank = _number("LOCAL_RANK") if "LOCAL_RANK" in os.environ else rank
        if size == 1:
            return cls(rank, size, local_rank)
        if not os.environ.get("MASTER_ADDR"):
            raise ConfigError(f"MASTER_ADDR: is not set, and WORLD_SIZE is {size}. {_HINT}")
        if (port := _number("MASTER_PORT")) > _LARGEST_PORT:
            raise ConfigError(f"MASTER_PORT: must be <= {_LARGEST_PORT}; got {port}. {_HINT}")
        _refuse_shared_store()
        return cls(
            rank,
            size,
            local_rank,
            int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")),
            "TORCHELASTIC_RUN_ID" in os.environ,
            os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        )


_PROBE_SECONDS = 5.0
_LARGEST_PORT = 65535
_HINT = "torchrun sets it; without several processes, unset RANK and WORLD_SIZE."


def torchrun_is_gone() -> bool:
    """Return whether torchrun, which keeps the store of this process, listens no more. It began before this process."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return False
    try:
        socket.create_connection((os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])), _PROBE_SECONDS).close()
    except ConnectionRefusedError:
        return True
    except (OSError, KeyError, ValueError, OverflowError):  # joining has the message
        return False
    return False


def _number(name: str) -> int:
    text = os.environ.get(name, "")
    if not text:
        raise ConfigError(f"{name}: is not set, and other variables of a launcher are. {_HINT}")
    if not (text.isascii() and text.isdigit()):
        raise ConfigError(f"{name}: must be a number >= 0; got {text!r}. {_HINT}")
    return int(text)


def _refuse_shared_store() -> None:
    """Refuse restarts on several hosts with one store: each host counts its own, so that attempts can share a prefix.

    A process would read the addresses of those that are dead, and wait for them.
    """
    hosts, restarts = (os.environ.get(name, "0") for name in ("GROUP_WORLD_SIZE", "TORCHELASTIC_MAX_RESTARTS"))
    if hosts in ("0", "1") or restarts == "0" or os.environ.get(UNSHARED_STORE) == "1":
        return
    raise ConfigError(
        f"{UNSHARED_STORE}: must be 1 for torchrun with --max-restarts {restarts} on {hosts} hosts, as restarted"
        f" processes may not find each other otherwise. Run `export {UNSHARED_STORE}=1` before torchrun on each host."
    )
