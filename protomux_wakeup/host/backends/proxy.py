"""The way to backends: who has a token reaches the one it is of. Knows no manager's inside.

http://HOST:PORT/TOKEN/path is the backend's /path. Path and query are passed on as they were sent,
byte by byte; bodies as they come, both ways, compressed or not; redirects and cookies are the
client's affair. Each request has a connection to the backend of its own: whatever a backend sends,
it is an answer to that request, or to none.

To know nothing of a token is answered in the same words, whether it never was, is too old, or
cannot be one. What parsers disagree about is refused, before the token is looked at. A request
that turns out to be malformed when part of its body was passed on is cut off: the backend sees its
beginning, and never its end.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Final, Protocol

import aiohttp
from aiohttp import hdrs, web
from aiohttp.http import HttpProcessingError, HttpVersion11
from aiohttp.web_protocol import RequestPayloadError
from multidict import CIMultiDict
from yarl import URL

from protomux_wakeup.host.backends.answers import NOT_FOUND, OTHER, cut, failure
from protomux_wakeup.host.backends.errors import BackendError
from protomux_wakeup.host.backends.headers import passed_back, passed_on
from protomux_wakeup.host.backends.http_limits import HttpLimits
from protomux_wakeup.host.backends.tokens import Route
from protomux_wakeup.host.backends.tunnel import tunnel
from protomux_wakeup.host.backends.wellformed import (
    BadAnswer,
    Refused,
    check_answer,
    check_request,
    check_upgrade,
    check_upgraded,
    wants_websocket,
)

__all__ = ["Proxy", "Reach"]

_log = logging.getLogger("protomux_wakeup.host")

_TARGET: Final = re.compile(r"(/([A-Za-z0-9_-]{16,128}))(/[^?]*)?(\?.*)?")

_ADDED: Final = (hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.USER_AGENT, hdrs.CONTENT_TYPE)
"""Headers that aiohttp would add where the client has sent none."""


class Reach(Protocol):
    """What the proxy asks of a manager."""

    def route(self, token: str) -> Route | None:
        """Return where `token` leads; None where it is not known, or not any more."""
        ...

    def connection(self, backend_id: str) -> AbstractAsyncContextManager[tuple[str, int]]:
        """Return a context that counts a connection, and is the address to connect to.

        Raises BackendError where the backend is not reached.
        """
        ...


class Proxy:
    """Handles requests until `close()`. Made while the loop runs.

    Attributes:
        limits: bounds.
    """

    def __init__(self, reach: Reach, limits: HttpLimits) -> None:
        self.limits: Final = limits
        self._reach = reach
        self._session: Final = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(sock_connect=self.limits.connect, total=None),
            skip_auto_headers=_ADDED,
            middlewares=(_once,),
            auto_decompress=False,
            max_line_size=self.limits.line,
            max_field_size=self.limits.line,
            max_headers=self.limits.headers,
        )

    async def close(self) -> None:
        """Cut all connections to backends."""
        await self._session.close()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request."""
        try:
            check_request(request)
            if wants_websocket(request):
                check_upgrade(request)
            if "Service-Worker" in request.headers:
                # It would see the addresses, and so the tokens, of all pages of our origin.
                raise Refused("expected a page without a service worker", 403)
        except Refused as error:
            return failure(error.status, OTHER, str(error))
        target = _TARGET.fullmatch(request.raw_path)
        route = None if target is None else self._reach.route(target[2])
        if target is None or route is None:
            return failure(404, NOT_FOUND, "there is no backend at this address")
        try:
            headers = passed_on(
                request, route, request.raw_path.partition("?")[0], prefix=target[1]
            )
        except ValueError as error:
            return failure(500, OTHER, f"the backend cannot be told who asks: {error}")
        try:
            async with self._reach.connection(route.backend_id) as (host, port):
                # The query is in the path, since an empty one would be left out.
                path = (target[3] or "/") + (target[4] or "")
                url = URL.build(scheme="http", host=host, port=port, path=path, encoded=True)
                return await self._forward(request, url, headers, target[1])
        except BackendError as error:
            return failure(503, error.kind, str(error))

    async def _forward(
        self, request: web.BaseRequest, url: URL, headers: CIMultiDict[str], prefix: str
    ) -> web.StreamResponse:
        upgrades = wants_websocket(request)
        if upgrades:
            headers[hdrs.UPGRADE] = "websocket"
            headers[hdrs.CONNECTION] = "Upgrade"
        body = _Body(request, self.limits) if request.body_exists else None
        try:
            answer = await self._ask(request.method, url, headers, body)
        except _Failed as error:
            return failure(error.status, OTHER, str(error))
        async with answer:
            try:
                if answer.status == 101 and upgrades:
                    check_upgraded(request, answer)
                    back = passed_back(answer, prefix)
                    return await tunnel(request, answer, back, stall=self.limits.stall)
                check_answer(answer)
            except BadAnswer as error:
                return failure(502, OTHER, str(error))
            return await self._answer(request, answer, passed_back(answer, prefix))

    async def _ask(
        self, method: str, url: URL, headers: CIMultiDict[str], body: _Body | None
    ) -> aiohttp.ClientResponse:
        """Return what the backend answers, as soon as it has begun to."""
        try:
            async with asyncio.timeout(self.limits.answer) as waiting:
                if body is not None:
                    body.waiting = waiting
                return await self._session.request(
                    method, url, headers=headers, data=body, allow_redirects=False
                )
        except (TimeoutError, aiohttp.ClientError, _Failed, ValueError) as error:
            if body is not None and body.failed is not None:
                raise body.failed from None
            if isinstance(error, TimeoutError):
                raise _Failed("the backend does not answer", 504) from None
            # Its text may have the request in it, with all that only the backend is told.
            _log.debug("a backend has answered what is no HTTP: %s", type(error).__name__)
            raise _Failed("the backend has cut the connection, or does not speak HTTP") from None
        finally:
            if body is not None:
                body.waiting = None

    async def _answer(
        self,
        request: web.BaseRequest,
        answer: aiohttp.ClientResponse,
        headers: CIMultiDict[str],
    ) -> web.StreamResponse:
        protocol = None if answer.connection is None else answer.connection.protocol
        if protocol is not None and protocol.closed is not None:
            # Of what is malformed in the middle the parser tells nobody but the connection.
            protocol.closed.add_done_callback(partial(_end, answer.content))
        response = web.StreamResponse(status=answer.status, headers=headers)
        if request.version != HttpVersion11 and hdrs.CONTENT_LENGTH not in headers:
            response.force_close()  # without chunks there is no other end
        await response.prepare(request)
        try:
            async for data in answer.content.iter_any():
                async with asyncio.timeout(self.limits.stall):
                    await response.write(data)
        except (aiohttp.ClientError, TimeoutError) as error:
            # The client must not take what it has got for all of it.
            cut(request)
            raise ConnectionResetError("an answer was cut off") from error
        await response.write_eof()
        return response


class _Failed(Exception):
    """There is no answer to pass on."""

    def __init__(self, message: str, status: int = 502) -> None:
        super().__init__(message)
        self.status = status


async def _once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keep aiohttp from asking a second time where a connection has ended without an answer."""
    try:
        return await handler(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _Failed("the connection has ended") from error


def _end(content: aiohttp.StreamReader, closed: asyncio.Future[None]) -> None:
    """Let who reads `content` know that there will be no more of it."""
    if not closed.cancelled():
        closed.exception()
    if not content.is_eof() and content.exception() is None:
        content.set_exception(aiohttp.ClientPayloadError("malformed, or cut off"))


class _Body:
    """The body of a request, as it comes.

    Attributes:
        waiting: for an answer, which the backend has `answer` seconds for from the last byte on.
        failed: what the client is told where the body was not to be had.
    """

    def __init__(self, request: web.BaseRequest, limits: HttpLimits) -> None:
        self.waiting: asyncio.Timeout | None = None
        self.failed: _Failed | None = None
        self._request = request
        self._limits = limits

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b""  # the head goes now: the backend may answer by that alone
        if hdrs.EXPECT in self._request.headers:
            await self._request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._request.writer.output_size = 0  # of the answer nothing is out yet
        while True:
            self._put_off(None)
            try:
                async with asyncio.timeout(self._limits.stall):
                    data = await self._request.content.readany()
            except TimeoutError:
                self.failed = _Failed("the body of the request does not come", 408)
                raise
            except (RequestPayloadError, HttpProcessingError):
                self.failed = _Failed("the body of the request is malformed", 400)
                raise
            self._put_off(asyncio.get_running_loop().time() + self._limits.answer)
            if not data:
                return
            yield data

    def _put_off(self, when: float | None) -> None:
        if self.waiting is not None and not self.waiting.expired():
            self.waiting.reschedule(when)
