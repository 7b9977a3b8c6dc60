"""The one process that listens for an id: who is connected, and when it spins down."""

from __future__ import annotations

import asyncio
import logging
import os
import socket as sockets
from collections.abc import Callable, Collection
from contextlib import suppress
from types import TracebackType
from typing import Final, Literal, Self, TypeAlias

from protomux.hooks import settle
from protomux_wakeup.host.client import Client, Spin
from protomux_wakeup.host.locks import FileLock
from protomux_wakeup.host.loop_end import close_at_loop_end, forget
from protomux_wakeup.host.rpc import Limits
from protomux_wakeup.host.unix import check_peer

__all__ = ["OnClient", "Server"]

_log = logging.getLogger("protomux_wakeup")

OnClient: TypeAlias = Callable[[Client], object]
"""on_client(client), plain or async: the place to set up responders."""

_ACCEPTED_AT_ONCE: Final = 64
_ACCEPT_AGAIN: Final = 1.0
"""Seconds until the next try where the process has no descriptor left."""


class Server:
    """The one process that listens for an id. Made by `listen`.

    As a context manager it closes on the way out.

    Attributes:
        id: what clients connect to.
        path: of its socket.
        error: what the last `spindown` raised; None without one.
        is_closed: it does not listen any more.
    """

    def __init__(
        self,
        id: str,
        listener: sockets.socket,
        lock: FileLock,
        *,
        on_client: OnClient | None,
        spindown: Spin | Literal[False] | None,
        spindown_timeout: float,
        allow_uids: Collection[int],
        limits: Limits,
        keep_lock: bool,
    ) -> None:
        self.id: Final = id
        self.path: Final[str] = listener.getsockname()
        self.error: Exception | None = None
        self.is_closed = False
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._lock = lock
        self._on_client = on_client
        self._spindown = spindown
        self._spindown_timeout = spindown_timeout
        self._allow_uids = allow_uids
        self._limits = limits
        self._keep_lock = keep_lock
        self._clients: list[Client | None] = []
        self._free_ids: list[int] = []
        self._timer: asyncio.TimerHandle | None = None
        self._is_spinning_down = False
        self._news = asyncio.Event()
        self._loop.add_reader(listener.fileno(), self._accept)
        self._spin_down_later()
        close_at_loop_end(self)

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else f"with {len(self.clients)} clients"
        return f"<Server {self.id} {state}>"

    @property
    def clients(self) -> tuple[Client, ...]:
        """Those that are connected, by id."""
        return tuple(filter(None, self._clients))

    def client_by_id(self, id: int) -> Client | None:
        """Return the client of that number, which may have been another's before."""
        return self._clients[id] if 0 <= id < len(self._clients) else None

    def stands(self) -> bool:
        """Tell whether its lock is still what who looks for it finds; see `FileLock.stands`."""
        return self._lock.stands()

    def close(self) -> None:
        """Listen no more, and destroy all clients. The lock is free when this returns.

        Its file stays, unless `keep_lock` is False.
        """
        if self.is_closed:
            return
        self.is_closed = True
        self._stop_timer()
        self._loop.remove_reader(self._listener.fileno())
        # While the lock is held, the path is ours; unless all was taken away, and begun anew.
        if self._lock.stands():
            with suppress(FileNotFoundError):
                os.unlink(self.path)
        self._listener.close()
        self._lock.release(remove=not self._keep_lock)
        for client in self.clients:
            client.destroy()
        self._note()

    abort = close

    async def wait_closed(self) -> None:
        """Wait until it has closed and its clients are gone.

        Raises what `spindown` raised as soon as that happens, though the server goes on.
        """
        while not self.is_closed or self.clients:
            if self.error is not None and not self.is_closed:
                raise self.error
            self._news.clear()
            await self._news.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
        await self.wait_closed()

    def _note(self) -> None:
        if self.is_closed and not self.clients:
            forget(self)
        self._news.set()

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            if self.is_closed:
                return
            try:
                socket, _ = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                return
            except OSError as error:
                _log.error("%r cannot accept a connection: %s", self, error)
                self._loop.remove_reader(self._listener.fileno())
                self._loop.call_later(_ACCEPT_AGAIN, self._accept_again)
                return
            try:
                check_peer(socket, self._allow_uids)
            except OSError as error:
                _log.warning("%r refuses a client: %s", self, error)
                socket.close()
                continue
            self._admit(socket)

    def _accept_again(self) -> None:
        if not self.is_closed:
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def _admit(self, socket: sockets.socket) -> None:
        self._stop_timer()
        if self._free_ids:
            id = self._free_ids.pop()
        else:
            id = len(self._clients)
            self._clients.append(None)
        client = self._clients[id] = Client(id, self._limits)
        client.add_close_callback(lambda _: self._left(client))
        if self._on_client is not None:

            def settled(_: object, error: BaseException | None) -> None:
                if isinstance(error, Exception):
                    _log.error("on_client failed for %r", client, exc_info=error)
                    client.destroy(error)

            try:
                result = self._on_client(client)
            except Exception as error:
                settled(None, error)
            else:
                settle(result, self._loop, settled)
        # After the first step of an async hook, which may have set up responders.
        client.attach(socket)

    def _left(self, client: Client) -> None:
        self._clients[client.id] = None
        self._free_ids.append(client.id)
        if self.is_closed:
            self._note()
        elif not self.clients:
            self._spin_down_later()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _spin_down_later(self) -> None:
        self._stop_timer()
        if self._spindown is not False:
            self._timer = self._loop.call_later(self._spindown_timeout, self._spin_down)

    def _spin_down(self) -> None:
        self._timer = None
        if self._is_spinning_down:
            return
        self._is_spinning_down = True
        self.error = None
        try:
            result = self._spindown() if self._spindown else None
        except Exception as error:
            self._spun_down(None, error)
        else:
            settle(result, self._loop, self._spun_down)

    def _spun_down(self, _: object, error: BaseException | None) -> None:
        self._is_spinning_down = False
        if error is None:
            self.close()
        elif isinstance(error, Exception):
            _log.error("spindown of %r failed, which goes on", self, exc_info=error)
            self.error = error
            self._note()
