"""The engine whose backends are processes of this machine. Knows how one is started and found.

Its files are in a directory that is closed to others, with a short name for the sockets in it:

    term-N            there was a manager of term N; the last one counts
    ID.sock, ID.lock  the monitor of a backend
    ID.note           where the backend says that it is ready
    ID.result         how it has ended, until a manager knows
    key-HASH.lock     held while anything of a backend of that key runs
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Collection
from typing import Final
from weakref import WeakSet

import msgspec

from protomux.errors import ProtomuxError
from protomux_wakeup.host.backends.backend import Backend, news_in_parts
from protomux_wakeup.host.backends.bounds import check, limits_of
from protomux_wakeup.host.backends.engine import EngineError, Launch, Listener, Running
from protomux_wakeup.host.backends.leavings import clear, drop_results
from protomux_wakeup.host.backends.orders import (
    DELIVER,
    ORDER,
    Order,
    claim_term,
    is_backend_id,
    leave_term,
)
from protomux_wakeup.host.backends.output import drop_log, read_log
from protomux_wakeup.host.backends.spares import Spares
from protomux_wakeup.host.backends.types import BackendStatus
from protomux_wakeup.host.errors import RemoteError
from protomux_wakeup.host.messages import fields_of
from protomux_wakeup.host.places import private_directory, socket_path

__all__ = ["LEASE", "ProcessEngine"]

LEASE: Final = 60.0
"""Seconds that a backend goes on without a manager, unless the engine is told otherwise."""

KEY_WAIT: Final = 10.0
"""Seconds that a backend waits for the one before it: as long as a command has to end by itself."""

_START_TIME: Final = 30.0
"""Seconds that a monitor has from its start until it reads an order."""


class ProcessEngine:
    """Runs backends as processes of this machine, each with a monitor. An `Engine`; Linux only."""

    def __init__(
        self,
        directory: str | os.PathLike[str],
        logs: str | os.PathLike[str],
        *,
        lease: float = LEASE,
        key_wait: float = KEY_WAIT,
    ) -> None:
        """Meet the monitors in `directory`, keep what backends write in `logs`.

        Without a manager for `lease` seconds, a backend ends itself. It waits `key_wait` seconds
        for the end of the one before it that has its key. Raises ValueError for a directory with a
        name that is too long for sockets in it.
        """
        self._directory: Final = os.path.abspath(directory)
        self._logs: Final = os.path.abspath(logs)
        self._lease: Final = lease
        self._key_wait: Final = key_wait
        self._term = 0
        self._spares: Spares | None = None
        self._backends: Final[WeakSet[Backend]] = WeakSet()
        socket_path(self._directory, "f" * 32)

    async def open(self, term: int) -> None:
        """Be for the manager of that `term`: from here on, nothing starts for an earlier one.

        Raises EngineError where there was one of a later term, ForeignPeer where a directory is
        another user's.
        """
        if sys.platform != "linux":  # pragma: no cover - for nobody who tests
            raise EngineError(f"expected Linux, got {sys.platform}: see prctl(2)")
        private_directory(self._directory)
        private_directory(self._logs)
        newest = claim_term(self._directory, term)
        if newest > term:
            raise EngineError(f"expected a term of {newest} or later, got {term}")
        self._term = term
        self._spares = Spares()
        self._spares.prepare()

    async def start(self, launch: Launch, listener: Listener) -> Running:
        """Begin to start a backend; see `Engine`."""
        if self._spares is None:
            raise EngineError("expected an engine that is open")
        if launch.term != self._term:
            raise EngineError(f"expected a start for term {self._term}, got one for {launch.term}")
        if not is_backend_id(launch.backend_id):
            raise EngineError(f"expected an id of 32 hex digits, got {launch.backend_id!r}")
        if launch.command is None or not launch.command.argv:
            raise EngineError("expected a command to run")
        check(limits_of(launch))
        order = Order(
            launch=msgspec.structs.replace(launch, news=()),
            directory=self._directory,
            logs=self._logs,
            lease=self._lease,
            key_wait=self._key_wait,
        )
        spares = self._spares
        spare = spares.take()
        try:
            for part in news_in_parts(launch.news):
                spare.connection.rpc.notify(DELIVER, part)
            params = fields_of(order)
            await spare.connection.rpc.request(ORDER, params, timeout=_START_TIME + self._key_wait)
            backend = self._backend(launch, listener, BackendStatus.SCHEDULED)
            if not await backend.reach_at_last():  # it runs, whatever we lack
                raise EngineError("cannot start: its monitor has gone")
        except RemoteError as error:
            raise EngineError(f"cannot start: {error.message}") from error
        except EngineError:
            raise
        except (ProtomuxError, TypeError, asyncio.CancelledError) as error:
            await spare.end()
            await asyncio.to_thread(clear, self._directory, launch)
            if isinstance(error, asyncio.CancelledError):
                raise
            raise EngineError(f"cannot start: {error}") from error
        finally:
            spare.connection.abort()
        if not spares.is_closed:  # meanwhile
            spares.prepare_later()
        return backend

    async def adopt(
        self, launch: Launch, listener: Listener, seen: BackendStatus
    ) -> Running | None:
        """Take over a backend that an earlier manager has started; see `Engine`.

        Raises EngineError where a later manager has it.
        """
        if self._spares is None:
            raise EngineError("expected an engine that is open")
        if not is_backend_id(launch.backend_id):
            return None
        backend = self._backend(launch, listener, seen)
        return backend if await backend.reach() else None

    async def settle(self, backend_ids: Collection[str]) -> None:
        """Remove what monitors of backends have left that have ended, and are known to have."""
        drop_results(self._directory, backend_ids)

    async def log(self, backend_id: str) -> bytes:
        """Return what is kept of its stdout and stderr. Empty where nothing is."""
        return read_log(self._logs, backend_id) if is_backend_id(backend_id) else b""

    async def forget(self, backend_id: str) -> None:
        """Drop the log of a backend that has ended, and how it has."""
        if is_backend_id(backend_id):
            drop_results(self._directory, [backend_id])
            drop_log(self._logs, backend_id)

    async def close(self) -> None:
        """Let go of all backends, and leave them running; where there are none, leave no file."""
        for backend in list(self._backends):
            await backend.let_go()
        spares, self._spares = self._spares, None
        if spares is not None:
            await spares.close()
            leave_term(self._directory, self._term)

    def _backend(self, launch: Launch, listener: Listener, seen: BackendStatus) -> Backend:
        backend = Backend(self._directory, launch, listener, self._term, seen)
        self._backends.add(backend)
        return backend
