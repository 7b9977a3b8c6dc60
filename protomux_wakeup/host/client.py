"""One end of a connection that was met just in time. Knows no locks, and not who else is there."""

from __future__ import annotations

import asyncio
import socket as sockets
from collections.abc import Callable, Collection, Iterator
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

from protomux.errors import StreamClosed
from protomux.hooks import is_pending
from protomux_wakeup.host.errors import ForeignPeer
from protomux_wakeup.host.lines import ClosedCallback, LineConnection
from protomux_wakeup.host.places import peer_pid
from protomux_wakeup.host.rpc import REQUEST_TIMEOUT, Handler, Limits
from protomux_wakeup.host.unix import connected_socket

__all__ = ["Client", "Spin", "retry_delays"]

Spin: TypeAlias = Callable[[], object]
"""spinup() or spindown(), plain or async."""


class Client:
    """One end of a connection; a server has one for each that is connected to it.

    As a context manager it ends on the way out, gracefully unless the block has failed. One that
    idles keeps no event loop alive, and ends with it.

    Attributes:
        id: its number at the server, 0 at the side that has connected.
        user_data: the application's own.
    """

    def __init__(self, id: int, limits: Limits) -> None:
        self.id: Final = id
        self.user_data: Any = None
        self._connection: Final = LineConnection(limits)
        self._rpc: Final = self._connection.rpc
        self._peer_pid: int | None = None
        self._connecting: asyncio.Task[sockets.socket] | None = None
        self._connected: Final[asyncio.Future[None]] = asyncio.get_running_loop().create_future()
        self._connection.add_close_callback(self._closed)

    def __repr__(self) -> str:
        return f"<Client {self.id} {self._connection!r}>"

    @property
    def is_closed(self) -> bool:
        """It is gone."""
        return self._connection.is_closed

    @property
    def error(self) -> Exception | None:
        """What ended it; None while it lives and after an orderly end."""
        return self._connection.error

    @property
    def peer_pid(self) -> int | None:
        """The pid of the process at the other end; None where it is not known (yet)."""
        return self._peer_pid

    def request(
        self, method: str, params: Any = None, *, timeout: float | None = REQUEST_TIMEOUT
    ) -> asyncio.Future[Any]:
        """Ask the other end, once it is connected; see `Rpc.request`. Its time runs from now on."""
        return self._rpc.request(method, params, timeout=timeout)

    def notify(self, method: str, params: Any = None) -> None:
        """Tell the other end, once it is connected; see `Rpc.notify`."""
        self._rpc.notify(method, params)

    def respond(self, method: str, handler: Handler) -> None:
        """Answer requests for `method` by `handler(params)`; see `Rpc.respond`."""
        self._rpc.respond(method, handler)

    def unrespond(self, method: str) -> None:
        """Answer requests for `method` no more."""
        self._rpc.unrespond(method)

    def end(self) -> None:
        """Close when all that is in flight is answered, in both directions."""
        self._connection.close()

    def destroy(self, error: Exception | None = None) -> None:
        """Close at once, because of `error`; requests in flight fail with StreamClosed."""
        self._connection.abort(error)

    async def wait_connected(self) -> None:
        """Wait until it is connected.

        Raises the OSError of the last attempt where nobody listens, ForeignPeer where another user
        does, what `spinup` raised, and StreamClosed where it was closed before.
        """
        await asyncio.shield(self._connected)

    async def wait_closed(self) -> None:
        """Wait until it is gone; raises nothing: `error` says what ended it."""
        await self._connection.wait_closed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.end()
        else:
            self.destroy()
        await self.wait_closed()

    # For those who make one.

    def add_close_callback(self, callback: ClosedCallback) -> None:
        """Call `callback(error)` when it is gone."""
        self._connection.add_close_callback(callback)

    def attach(self, socket: sockets.socket) -> None:
        """Speak over `socket`, which is connected, and is ours from now on."""
        self._peer_pid = peer_pid(socket)
        self._connection.attach(socket)
        self._connected.set_result(None)

    def connect(self, path: str, spinup: Spin | None, allow_uids: Collection[int]) -> None:
        """Connect with who listens at `path`, in the background."""
        task = asyncio.get_running_loop().create_task(_connected(path, spinup, allow_uids))
        self._connecting = task

        def done(task: asyncio.Task[sockets.socket]) -> None:
            self._connecting = None
            if task.cancelled():
                self.destroy()
            elif (error := task.exception()) is not None:
                if isinstance(error, Exception):
                    self._connection.abort(error)
            elif self._connection.rpc.error is not None:
                task.result().close()
            else:
                self.attach(task.result())

        task.add_done_callback(done)

    def _closed(self, error: Exception | None) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        if not self._connected.done():
            self._connected.set_exception(error or StreamClosed("it was closed before"))
            self._connected.exception()  # nobody has to ask


def retry_delays() -> Iterator[float]:
    """Return the seconds between attempts to connect, those of the original."""
    delay, following = 50, 100
    while delay < 4450:
        yield delay / 1000
        delay, following = following, delay + following


async def _connected(path: str, spinup: Spin | None, allow_uids: Collection[int]) -> sockets.socket:
    delays = retry_delays()
    while True:
        try:
            return connected_socket(path, allow_uids)
        except ForeignPeer:
            raise
        except OSError:
            if spinup is not None:
                spin, spinup = spinup, None
                result = spin()
                if is_pending(result):
                    await result
            delay = next(delays, None)
            if delay is None:
                raise
        await asyncio.sleep(delay)
