"""One connection: an `Rpc` whose messages are lines of a stream socket. Knows no path.

What is sent during one tick of the loop leaves in few writes, the last at its end. What is read is
bounded by what is written: see `Limits` for where a peer has to wait.
"""

from __future__ import annotations

import asyncio
import logging
import select
import socket as sockets
import sys
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, TypeAlias, cast

from protomux.errors import LimitExceeded, ProtomuxError, StreamClosed
from protomux_wakeup.host.loop_end import close_at_loop_end, forget
from protomux_wakeup.host.rpc import Limits, Rpc

__all__ = ["ClosedCallback", "LineConnection"]

_log = logging.getLogger("protomux_wakeup")

ClosedCallback: TypeAlias = Callable[[Exception | None], object]
"""callback(error): what ended a connection, None after an orderly close."""

_WRITE_SIZE: Final = 8 * 1024
"""Bytes that leave before the end of the tick, so that the peer is at work on them meanwhile."""


class LineConnection(asyncio.Protocol):
    """An asyncio protocol of lines, one JSON text each; one that is left open ends with its loop.

    It can be asked and answered from the start: what is sent before it has a socket, by `attach`
    or as the protocol of any transport, waits for one.

    Attributes:
        rpc: the conversation.
        error: what ended it; None while it lives and after an orderly close.
        is_closed: it is gone.
    """

    def __init__(self, limits: Limits = Limits()) -> None:
        self.rpc: Final = Rpc(self._write, limits=limits)
        self.error: Exception | None = None
        self.is_closed = False
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._attaching: asyncio.Task[object] | None = None
        self._callbacks: list[ClosedCallback] = []
        self._closed: asyncio.Event | None = None
        self._is_closing = False
        # What has come: a line without its end, and lines that have to wait.
        self._begun = bytearray()
        self._lines: deque[bytes] = deque()
        self._is_paused = False
        self._resume_is_due = False
        self._unread_timer: asyncio.TimerHandle | None = None
        # What is to leave.
        self._unsent: deque[bytes] = deque()
        self._unsent_size = 0
        self._flush_is_due = False
        self._is_corked = True
        close_at_loop_end(self)

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else "closing" if self._is_closing else "open"
        return f"<{type(self).__name__} {state}>"

    def attach(self, socket: sockets.socket) -> None:
        """Speak over `socket`, which is connected, and is ours from now on."""
        socket.setblocking(False)
        coroutine = self._loop.create_unix_connection(lambda: self, sock=socket)
        task = self._attaching = self._loop.create_task(coroutine)

        def attached(_: object) -> None:
            self._attaching = None
            if task.cancelled() or task.exception() is not None:
                socket.close()
                if self._transport is None:
                    error = None if task.cancelled() else task.exception()
                    self.connection_lost(error if isinstance(error, Exception) else None)

        task.add_done_callback(attached)

    def add_close_callback(self, callback: ClosedCallback) -> None:
        """Call `callback(error)` when it is gone; in the next tick if it is already."""
        if self.is_closed:
            self._loop.call_soon(callback, self.error)
        else:
            self._callbacks.append(callback)

    def close(self) -> None:
        """Close when all requests in flight are answered, those of the peer and ours."""
        if not self._is_closing:
            self._is_closing = True
            self.rpc.on_settled = self._settled
            self._settled()

    def abort(self, error: Exception | None = None) -> None:
        """Close at once: what has not left by the end of this call is lost, as is what is asked."""
        if self.is_closed or self.rpc.error is not None:
            return
        self.error = error
        self._is_closing = True
        self._flush()
        self.rpc.destroy(error)
        self._lines.clear()
        self._stop_timer()
        if self._transport is not None:
            self._transport.abort()
        elif self._attaching is None:
            self._loop.call_soon(self.connection_lost, None)

    async def wait_closed(self) -> None:
        """Wait until it is gone; raises nothing: `error` says what ended it."""
        if not self.is_closed:
            if self._closed is None:
                self._closed = asyncio.Event()
            await self._closed.wait()

    # For the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """There is a transport."""
        self._transport = cast(asyncio.Transport, transport)
        self._is_corked = False
        if self.rpc.error is not None:
            self._transport.abort()
        else:
            self._flush()
            self._settled()

    def data_received(self, data: bytes) -> None:
        """Some bytes have come."""
        lines = data.split(b"\n")
        rest = lines.pop()
        if lines and self._begun:
            self._begun += lines[0]
            lines[0] = bytes(self._begun)
            self._begun.clear()
        if self._lines:
            self._lines.extend(lines)
        elif lines:
            self._take(lines)
        if rest:
            self._begun += rest
            if len(self._begun) > self._limits.line_size:
                self._too_long(len(self._begun))

    def eof_received(self) -> bool:
        """The peer says no more; if it listens, what it has asked is still answered."""
        assert self._transport is not None
        has_left = _has_left(self._transport.get_extra_info("socket"))
        error = StreamClosed("the peer has ended the connection")
        self.rpc.peer_ended(error, has_left=has_left)
        self.close()
        self._settled()  # where it was closing before, nothing is awaited any more
        return True

    def pause_writing(self) -> None:
        """The transport is full."""
        self._is_corked = True

    def resume_writing(self) -> None:
        """The transport has room again."""
        self._is_corked = False
        self._stop_timer()
        self._flush()
        if self._is_paused:
            self._resume_soon()
            self._watch_reader()
        else:
            self._settled()

    def connection_lost(self, error: Exception | None) -> None:
        """The transport has gone, or there never was one."""
        if self.is_closed:
            return
        self.is_closed = True
        self.error = self.error or error
        self._stop_timer()
        self.rpc.destroy(self.error or StreamClosed("the connection has closed"))
        self._transport = None
        self._unsent.clear()
        self._lines.clear()
        self._begun.clear()
        forget(self)
        if self._closed is not None:
            self._closed.set()
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self.error)

    # What comes.

    def _take(self, lines: Iterable[bytes]) -> None:
        """Hand on lines until one of them makes the others wait."""
        rpc, limits = self.rpc, self._limits
        most, in_flight, unsent_size = limits.line_size, limits.in_flight, limits.unsent_size
        rest = iter(lines)
        try:
            for line in rest:
                if len(line) > most:
                    self._too_long(len(line))
                    return
                rpc.received(line)
                if rpc.in_flight >= in_flight or self._unsent_size > unsent_size:
                    self._lines.extend(rest)
                    self._pause()
                    return
                if rpc.error is not None:  # a handler has ended it
                    return
        except ProtomuxError as error:
            _log.warning("a peer sent what it must not: %s", error)
            self.abort(error)

    def _too_long(self, size: int) -> None:
        most = self._limits.line_size
        self.abort(LimitExceeded(f"expected a line of at most {most} bytes, got {size}"))

    @property
    def _must_wait(self) -> bool:
        return self.rpc.is_full or self._unsent_size > self._limits.unsent_size

    def _pause(self) -> None:
        self._is_paused = True
        self.rpc.on_settled = self._settled
        if self._transport is not None:
            self._transport.pause_reading()
        self._watch_reader()

    def _watch_reader(self) -> None:
        """Give the peer some time to read, if that is what we wait for."""
        if self._unread_timer is None and self._unsent_size > self._limits.unsent_size:
            assert self._transport is not None
            self._unread_timer = self._loop.call_later(
                self._limits.unread_time, self._unread, self._transport.get_write_buffer_size()
            )

    def _unread(self, before: int) -> None:
        self._unread_timer = None
        assert self._transport is not None
        if self._transport.get_write_buffer_size() < before:  # it is slow with a long line
            self._watch_reader()
            return
        seconds = self._limits.unread_time
        self.abort(LimitExceeded(f"expected a peer that reads, it did not for {seconds:g} s"))

    def _stop_timer(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    def _settled(self) -> None:
        """Something in flight has come to its end."""
        if self._is_paused:
            self._resume_soon()
        elif self._is_closing and self.rpc.is_idle:
            # What is sent in this tick, and what has come in it, is still dealt with.
            self._loop.call_soon(self._close_if_idle)

    def _resume_soon(self) -> None:
        if not self._resume_is_due and not self._must_wait:
            self._resume_is_due = True
            self._loop.call_soon(self._resume)

    def _resume(self) -> None:
        self._resume_is_due = False
        if self.rpc.error is not None or self._must_wait:
            return
        self._is_paused = False
        self._stop_timer()
        lines, self._lines = self._lines, deque()
        self._take(lines)
        if self._is_paused or self.rpc.error is not None:
            return
        self.rpc.on_settled = self._settled if self._is_closing else None
        if self._transport is not None:
            self._transport.resume_reading()
        self._settled()

    # What leaves.

    def _write(self, text: bytes) -> None:
        if self._unsent_size > self._limits.unsent_most:
            most = self._limits.unsent_most
            self.abort(LimitExceeded(f"expected a peer that reads, more than {most} bytes wait"))
            return
        self._unsent.append(text)
        self._unsent_size += len(text) + 1
        if self._is_corked:
            return
        if not self._flush_is_due:
            self._flush_is_due = True
            self._loop.call_soon(self._flush_now)
        if self._unsent_size > _WRITE_SIZE:
            self._flush()

    def _flush_now(self) -> None:
        self._flush_is_due = False
        self._flush()

    def _flush(self) -> None:
        unsent, transport = self._unsent, self._transport
        if transport is None:
            return
        while unsent and not self._is_corked:
            if self._unsent_size <= 2 * _WRITE_SIZE:
                unsent.append(b"")
                some = b"\n".join(unsent)
                unsent.clear()
            elif len(unsent[0]) > _WRITE_SIZE:
                some = unsent.popleft() + b"\n"
            else:
                some = self._next_write()
            self._unsent_size -= len(some)
            transport.write(some)

    def _next_write(self) -> bytes:
        """Return the first lines of many, some `_WRITE_SIZE` of them."""
        lines: list[bytes] = []
        size = 0
        while self._unsent and size < _WRITE_SIZE:
            lines.append(self._unsent.popleft())
            size += len(lines[-1]) + 1
        lines.append(b"")
        return b"\n".join(lines)

    def _close_if_idle(self) -> None:
        if not self.rpc.is_idle or self._is_paused or self.rpc.error is not None:
            return
        self._flush()
        if self._unsent:
            return
        if self._transport is not None:
            self._transport.close()
        elif self._attaching is None:
            self.abort()


def _has_left(socket: sockets.socket) -> bool:
    """Tell whether the peer has closed its end, or its process has ended; False if that is open.

    Linux tells it from an end that is closed for writing alone (POLLHUP, unix(7)).
    """
    if sys.platform != "linux":
        return False
    poll = select.poll()
    poll.register(socket.fileno(), 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))
