"""What a manager asks of an engine, and what it is told. Knows no process, no cluster, no file."""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol

import msgspec

from protomux.errors import ProtomuxError
from protomux_wakeup.host.backends.types import (
    BackendState,
    BackendStatus,
    ConnectRequest,
    ConnectResponse,
    TerminationReason,
)

__all__ = ["Command", "Engine", "EngineError", "Launch", "Listener", "News", "Readiness", "Running"]


class EngineError(ProtomuxError):
    """An engine cannot do what it was asked for."""


class Readiness(enum.StrEnum):
    """By what a process is known to be ready.

    `started`: it runs. `port`: it listens at the TCP port that $PORT names. `notify`: it has sent
    READY=1 to the socket that $NOTIFY_SOCKET names (sd_notify(3)).
    """

    STARTED = "started"
    PORT = "port"
    NOTIFY = "notify"


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """What a backend runs.

    Attributes:
        argv: the program, looked up in PATH, and its arguments; at least one.
        directory: to run it in, absolute.
        env: all variables of its environment, without those that it gets as a backend.
        readiness: see there.
        startup_timeout: seconds in which it has to be ready.
        grace: seconds between SIGTERM and SIGKILL. Plane's is 10.
        log_size: bytes of its stdout and stderr that are kept: of the last that it has written.
        processes: that it may have at once, itself included.
        open_files: descriptors that each of its processes may have, where that is less than the
            hard limit; as many as the manager without it.
    """

    argv: tuple[str, ...]
    directory: str
    env: dict[str, str]
    readiness: Readiness = Readiness.PORT
    startup_timeout: float = 60.0
    grace: float = 10.0
    log_size: int = 1024 * 1024
    processes: int = 512
    open_files: int | None = None


class News(NamedTuple):
    """That a log has grown, for a backend: 32 bytes topic, 32 bytes key, its length."""

    topic: bytes
    key: bytes
    length: int


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """A backend that is to be.

    Attributes:
        backend_id: 32 hex digits.
        key: that it is for; made up where the request has none.
        fencing_token: higher than that of any backend of this key before.
        term: of the manager: higher than that of any manager before.
        request: what was asked.
        command: what it runs; None for a cluster, which knows.
        news: what it is to hear of at its start.
        token: by which it is reached through us, for itself to tell. No file holds it.
    """

    backend_id: str
    key: str
    fencing_token: int
    term: int
    request: ConnectRequest
    command: Command | None = None
    news: tuple[News, ...] = ()
    token: str = ""


class Listener(Protocol):
    """What an engine tells of one backend. Nothing comes after `Terminated`."""

    def moved(self, state: BackendState) -> bool | None:
        """It is in a later state. Each is told once, in order, whatever manager was there.

        False where that could not be written down yet: the next manager is to be told as well, if
        it comes before.
        """
        ...

    def acknowledged(self, news: Sequence[News]) -> None:
        """It has done what was to be done for these, and all smaller lengths of those logs.

        May come again after a manager was replaced.
        """
        ...


class Running(Protocol):
    """One backend, for the manager that has it.

    Attributes:
        address: the loopback address and the port that it is told to listen at; None where it is
            not reached through us.
        response: what a cluster has answered; None for a backend of this machine.
    """

    @property
    def address(self) -> tuple[str, int] | None:
        """Where it is told to listen; see above."""
        ...

    @property
    def response(self) -> ConnectResponse | None:
        """What a cluster has answered; see above."""
        ...

    def terminate(self, reason: TerminationReason, *, hard: bool) -> None:
        """Ask it to end, or make it. Does nothing where that is under way, or it has ended."""
        ...

    def deliver(self, news: Sequence[News]) -> None:
        """Tell it that logs have grown; does nothing where it has ended."""
        ...

    def finish(self) -> None:
        """Tell it that no news will come: the end of its stdin."""
        ...


class Engine(Protocol):
    """Where backends run. Made by whoever makes the manager; used by one manager at a time."""

    async def open(self, term: int) -> None:
        """Be for the manager of that `term`: from here on, nothing starts for an earlier one."""
        ...

    async def start(self, launch: Launch, listener: Listener) -> Running:
        """Begin to start a backend; states come to `listener` from `starting` on.

        Raises EngineError where it cannot be started, before any state.
        """
        ...

    async def adopt(
        self, launch: Launch, listener: Listener, seen: BackendStatus
    ) -> Running | None:
        """Take over a backend that an earlier manager has started.

        States come to `listener` that are later than `seen`; where it has ended meanwhile, they may
        all have come when this returns. None where nothing is known of it: it was never started, or
        what ran it is gone; nothing of it runs then.
        """
        ...

    async def settle(self, backend_ids: Collection[str]) -> None:
        """Keep nothing of the end of these for a manager: it is written down."""
        ...

    async def log(self, backend_id: str) -> bytes:
        """Return what is kept of its stdout and stderr. Empty where nothing is."""
        ...

    async def forget(self, backend_id: str) -> None:
        """Drop the log of a backend that has ended."""
        ...

    async def close(self) -> None:
        """Let go of all backends, and leave them running."""
        ...
