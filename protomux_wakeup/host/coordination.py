"""A client's connection to the coordinator. Knows how to get and to keep one, not what is said."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

from protomux.errors import ProtomuxError, StreamClosed
from protomux_wakeup.host.jitpc import Client, connect
from protomux_wakeup.host.limits import Limits
from protomux_wakeup.host.locks import FileLock, released
from protomux_wakeup.host.messages import (
    CLAIM,
    HELLO,
    LEAVE,
    NEW_LEADER,
    PATIENCE,
    PING,
    PROVIDE_PORT,
    REQUEST_PORT,
    STATUS,
    Fields,
    Hello,
    Known,
    fields_of,
    read,
    tell,
    trace,
)
from protomux_wakeup.host.places import lock_path, private_directory, socket_path
from protomux_wakeup.host.processes import Handle, start
from protomux_wakeup.host.pulse import Pulse
from protomux_wakeup.host.remains import COORDINATOR, SPINUP_LOCK

__all__ = ["Coordination"]

AFTER_START: Final = 1.5
"""Seconds in which there must be a connection after a coordinator was started."""

AFTER_KILL: Final = 1.0
"""Seconds for a coordinator that was killed to be gone, so that what it left can be cleared away;
another one may have the lock, and keeps it."""

_log = logging.getLogger("protomux_wakeup.host")

_HEARD: Final = (CLAIM, NEW_LEADER, REQUEST_PORT, PATIENCE, PROVIDE_PORT, LEAVE)


class Coordination:
    """Keeps a connection while `run()` runs; a coordinator is started where there is none.

    One that does not answer is killed: it is a process of the host, and of nobody else.
    """

    def __init__(
        self,
        directory: str,
        hello: Hello,
        limits: Limits,
        *,
        on_connect: Callable[[], object],
        on_message: Callable[[str, Any], object],
    ) -> None:
        """Call `on_connect()` for every connection, `on_message(name, params)` for what comes."""
        self._directory = directory
        self._hello = hello
        self._limits = limits
        self._on_connect = on_connect
        self._on_message = on_message
        self._client: Client | None = None
        self._pulse: Pulse | None = None
        self._connecting: Client | None = None
        self._spinning_up = asyncio.Lock()

    @property
    def is_answering(self) -> bool:
        """There is a coordinator, and it has answered since the heartbeat before the last."""
        return self._client is not None and self._pulse is not None and self._pulse.missed <= 1

    def tell(self, name: str, message: Fields) -> None:
        """Send a message, or drop it where there is no connection."""
        if self._client is not None:
            tell(self._client.notify, self._hello.client_id, COORDINATOR, name, message)

    async def ask(self) -> Known:
        """Return what the coordinator knows; raises ProtomuxError where it does not answer."""
        if self._client is None:
            raise StreamClosed("there is no connection to the coordinator")
        return read(Known, await self._client.request(STATUS))

    async def run(self) -> None:
        """Connect, and connect again, until cancelled."""
        while True:
            try:
                private_directory(self._directory)  # its last client may have taken it away
                client = connect(COORDINATOR, spinup=self._spin_up, directory=self._directory)
            except OSError as error:
                _log.warning("there is no place for a coordinator: %s", error)
                await asyncio.sleep(self._limits.repeat)
                continue
            for name in _HEARD:
                client.respond(name, partial(self._heard, name))
            try:
                self._connecting = client
                try:
                    await client.wait_connected()
                finally:
                    self._connecting = None
                await self._keep(client)
            except (OSError, ProtomuxError) as error:
                level = logging.INFO if isinstance(error, ProtomuxError) else logging.WARNING
                _log.log(level, "there is no coordinator: %s", error)
                await asyncio.sleep(self._limits.repeat)
            finally:
                self._client = None
                client.destroy()
                async with self._spinning_up:
                    pass  # what was cancelled with the client has ended

    def _heard(self, name: str, params: Any) -> None:
        trace(self._hello.client_id, "<-", COORDINATOR, name, params)
        self._on_message(name, params)

    async def _keep(self, client: Client) -> None:
        """Return when the connection is lost; see to it that it is, when nothing comes.

        Raises StreamClosed where it is lost at once.
        """
        path = socket_path(self._directory, COORDINATOR)
        inode = _inode(path)

        def ask() -> asyncio.Future[Any] | None:
            if _inode(path) != inode:
                client.destroy()  # it is another one that clients come to, or will
                return None
            return client.request(PING, timeout=None)

        def kill() -> None:
            _log.info("the coordinator does not answer: killed")
            process.kill()
            client.destroy()

        process = Handle(client.peer_pid or 0)  # now, while it is the one that we have reached
        pulse = self._pulse = Pulse(
            self._limits.heartbeat, self._limits.missed, beat=ask, lost=kill
        )
        try:
            await client.request(HELLO, fields_of(self._hello), timeout=None)
            self._client = client
            self._on_connect()
            await client.wait_closed()
        finally:
            pulse.stop()
            process.close()

    async def _spin_up(self) -> None:
        async with self._spinning_up:
            await self._start()
        asyncio.get_running_loop().call_later(AFTER_START, self._give_up, self._connecting)

    def _give_up(self, client: Client | None) -> None:
        """It was started, and is not there: better start another than wait for that one."""
        if client is not None and client is self._connecting:
            client.destroy()

    async def _start(self) -> None:
        """Start a coordinator, unless another client is about to: all miss it at once."""
        path = lock_path(self._directory, SPINUP_LOCK)
        lock = FileLock.try_acquire(path)
        if lock is None:
            with suppress(TimeoutError):  # or start one all the same
                async with asyncio.timeout(self._limits.heartbeat * self._limits.missed):
                    return await released(path)
        try:
            process = await start(
                "coordinator",
                self._directory,
                str(self._limits.spindown),
                output=asyncio.subprocess.DEVNULL,
                errors=asyncio.subprocess.DEVNULL,
            )
            try:  # it ends when the coordinator listens
                async with asyncio.timeout(self._limits.start_time):
                    await process.wait()
            finally:
                if process.returncode is None:
                    os.killpg(process.pid, signal.SIGKILL)  # and what it has started,
                    await process.wait()
                    with suppress(TimeoutError):  # which ends a moment later, and then its lock
                        async with asyncio.timeout(AFTER_KILL):
                            await released(lock_path(self._directory, COORDINATOR))
        finally:
            if lock is not None:
                lock.release(remove=True)


def _inode(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
