"""One connection of a client: what of it is taken for a request at all. Knows no route.

The parser of aiohttp (as of 3.14) leaves open what is decided here. Of what is behind a request
that asks for another protocol it loses some, and takes the rest for requests: such a request is the
last of its connection, whoever answers it. Heads are bounded as a whole, whether they have ended
or not, those of requests that wait for their turn together with them. And where nothing is read
from a client that is ahead of us, somebody has to look whether it is still there.
"""

from __future__ import annotations

import asyncio
import logging
import select
from typing import Any, Final, cast

from aiohttp import hdrs, web
from aiohttp.http import HttpVersion11, RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestPayloadError, _ErrInfo

from protomux_wakeup.host.backends.answers import OTHER, failure
from protomux_wakeup.host.backends.wellformed import Refused

__all__ = ["Connection"]

_log: Final = logging.getLogger("protomux_wakeup.host")

_GONE: Final = getattr(select, "POLLRDHUP", 0)
"""Where there is no such thing, only a connection that was reset is known to be gone."""


class Connection(web.RequestHandler):
    """What is malformed ends the request that it is part of, at once.

    `head` is how many bytes of heads may wait; one that has no end yet may be longer by what comes
    in one segment.
    """

    def __init__(
        self, manager: web.Server, *, loop: asyncio.AbstractEventLoop, head: int, **settings: Any
    ) -> None:
        super().__init__(manager, loop=loop, **settings)
        self._head = head
        self._begun = 0  # bytes of a head that has no end yet
        self._body = EMPTY_PAYLOAD  # of the last request
        self._is_refused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        cast(Any, transport).max_size = self._head  # asyncio reads four times that at once
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Take what has come."""
        if self._is_refused:
            return
        count = self._request_count
        was_body = not self._body.is_eof()
        super().data_received(data)
        if self._request_count != count:
            self._begun = 0
            self._look_at_heads()
        elif not was_body and not self._upgraded and self._payload_parser is None:
            self._begun += len(data)
        if self._begun > self._head:
            place = len(self._messages)
            self._refuse(431, f"expected at most {self._head} bytes before a body", place)
        self._end_bodies()

    def cut_if_gone(self) -> None:
        """Cut a connection that nothing is read from, if the client has closed it."""
        transport = self.transport
        if transport is None or transport.is_closing() or transport.is_reading():
            return
        look = select.poll()
        look.register(transport.get_extra_info("socket"), _GONE)
        if look.poll(0):
            transport.abort()

    def _look_at_heads(self) -> None:
        waiting = 0
        for place, (message, body) in enumerate(self._messages):
            if not isinstance(message, RawRequestMessage):
                continue
            waiting += len(message.path) + sum(len(n) + len(v) for n, v in message.raw_headers)
            if waiting > self._head:
                self._refuse(431, f"expected at most {self._head} bytes before a body", place)
                return
            expects = [value.lower() for value in message.headers.getall(hdrs.EXPECT, [])]
            if expects and (expects != ["100-continue"] or message.version != HttpVersion11):
                # Here, since aiohttp answers this by itself before we are asked.
                self._refuse(417, "expected no Expect but 100-continue, in HTTP/1.1", place)
                return
            if message.upgrade:
                self._messages[place] = message._replace(should_close=True), body
            self._body = body

    def _refuse(self, status: int, message: str, place: int) -> None:
        """Say that instead of what is at `place` and behind it, and take no more."""
        self._is_refused = True
        while len(self._messages) > place:
            self._messages.pop()
        error = _ErrInfo(status, Refused(message, status), message)
        self._messages.append((error, EMPTY_PAYLOAD))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _end_bodies(self) -> None:
        if not self._messages or isinstance(self._messages[-1][0], RawRequestMessage):
            return
        # The parser gives up, and says so behind the requests that came before: to a body that has
        # begun nothing more would come, and nobody would know.
        bodies = [payload for _, payload in self._messages]
        if self._current_request is not None:
            bodies.append(self._current_request.content)
        for body in bodies:
            if not body.is_eof():
                body.set_exception(RequestPayloadError("malformed"))

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what was not understood, in words of ours: aiohttp's repeat what came."""
        if request.writer.output_size > 0:
            raise ConnectionResetError("an answer that has begun cannot become another")
        if isinstance(exc, Refused):
            return failure(exc.status, OTHER, str(exc))
        if status == 400:
            return failure(400, OTHER, "expected a request that all parsers understand alike")
        _log.error("a request failed", exc_info=exc)
        return failure(500, OTHER, "it failed, see the log")
