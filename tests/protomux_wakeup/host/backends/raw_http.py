"""HTTP by hand: a client that sends what it likes, and a backend that keeps every byte it gets.

`requests_of` reads what a backend got as strictly as RFC 9112 is: it raises for whatever two
parsers may take for two things, and so is a judge of what the proxy sends.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from protomux_wakeup.host.backends.errors import NotReady
from protomux_wakeup.host.backends.http_limits import HttpLimits
from protomux_wakeup.host.backends.serving import proxying
from protomux_wakeup.host.backends.tokens import Route

TOKEN = "t" * 42 + "1"
BACKEND = "b" * 32
SECRET = "s" * 43

_START = re.compile(rb"([A-Z]+) (/[!\"$-\[\]-~]*) HTTP/1\.1")
_HEADER = re.compile(rb"([A-Za-z0-9-]+): ([\t\x20-\x7e\x80-\xff]*)")
_STATUS = re.compile(rb"HTTP/\d\.\d (\d{3}) ")

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Got(NamedTuple):
    """A request that a backend got, or an answer that a client got."""

    start: bytes
    headers: dict[bytes, list[bytes]]
    body: bytes

    @property
    def method(self) -> bytes:
        return self.start.split(b" ")[0]

    @property
    def target(self) -> bytes:
        return self.start.split(b" ")[1]

    @property
    def status(self) -> int:
        return int(self.start.split(b" ")[1])

    def one(self, name: bytes) -> bytes:
        (value,) = self.headers[name]
        return value


def _head(data: bytes) -> tuple[bytes, dict[bytes, list[bytes]], bytes] | None:
    head, end, rest = data.partition(b"\r\n\r\n")
    if not end:
        return None
    start, *lines = head.split(b"\r\n")
    headers: dict[bytes, list[bytes]] = {}
    for line in lines:
        match = _HEADER.fullmatch(line)
        assert match is not None, line
        headers.setdefault(match[1].lower(), []).append(match[2])
    return start, headers, rest


def _body(headers: dict[bytes, list[bytes]], rest: bytes) -> tuple[bytes, bytes] | None:
    lengths = headers.get(b"content-length", [])
    codings = headers.get(b"transfer-encoding", [])
    assert len(lengths) + len(codings) <= 1, headers
    if codings:
        assert codings == [b"chunked"]
        body = b""
        while True:
            size, end, rest = rest.partition(b"\r\n")
            if not end:
                return None
            assert re.fullmatch(rb"[0-9a-f]+", size), size
            length = int(size, 16)
            if len(rest) < length + 2:
                return None
            assert rest[length : length + 2] == b"\r\n"
            body += rest[:length]
            rest = rest[length + 2 :]
            if length == 0:
                return body, rest
    length = int(lengths[0]) if lengths else 0
    return None if len(rest) < length else (rest[:length], rest[length:])


def request_of(data: bytes) -> tuple[Got, bytes] | None:
    """Return the first request in `data`, and what is behind it; None where it has no end yet."""
    found = _head(data)
    if found is None:
        return None
    start, headers, rest = found
    assert _START.fullmatch(start), start
    assert len(headers[b"host"]) == 1
    body = _body(headers, rest)
    return None if body is None else (Got(start, headers, body[0]), body[1])


class Connection:
    """What a backend has got by one connection.

    Attributes:
        got: all bytes.
        is_over: the proxy has closed it.
    """

    def __init__(self) -> None:
        self.got = bytearray()
        self.is_over = asyncio.Event()

    @property
    def request(self) -> Got:
        """The only request, and nothing besides."""
        found = request_of(bytes(self.got))
        assert found is not None, bytes(self.got)
        request, rest = found
        assert rest == b""
        return request


class RawBackend:
    """A backend that answers each connection's request with the next of `answers`.

    Attributes:
        connections: in the order in which they came.
        closes: it closes the connection when it has answered; else the proxy has to.
    """

    def __init__(self, *answers: bytes, closes: bool = True) -> None:
        self.connections: list[Connection] = []
        self.closes = closes
        self.address = ("", 0)
        self._answers = list(answers)
        self._news = asyncio.Condition()

    @property
    def requests(self) -> list[Got]:
        return [connection.request for connection in self.connections]

    async def until(self, end: bytes) -> None:
        """Wait until what the first connection has brought ends with `end`."""
        async with self._news:
            await self._news.wait_for(
                lambda: bool(self.connections) and self.connections[0].got.endswith(end)
            )

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection()
        self.connections.append(connection)
        is_answered = False
        try:
            while data := await reader.read(65536):
                connection.got += data
                async with self._news:
                    self._news.notify_all()
                if not is_answered and request_of(bytes(connection.got)) is not None:
                    is_answered = True
                    writer.write(self._answers.pop(0) if self._answers else OK)
                    await writer.drain()
                    if self.closes:
                        break
        except ConnectionError:
            pass
        finally:
            writer.close()
            connection.is_over.set()


class OneRoute:
    """One token, which leads to one backend.

    Attributes:
        now: connections that are open.
        most: that were open at once.
        is_ready: else connecting raises NotReady.
    """

    def __init__(
        self,
        address: tuple[str, int],
        *,
        user: str | None = None,
        auth: dict[str, Any] | None = None,
    ) -> None:
        self.now = 0
        self.most = 0
        self.is_ready = True
        self._address = address
        self._route = Route(BACKEND, user, auth, SECRET)

    def route(self, token: str) -> Route | None:
        return self._route if token == TOKEN else None

    @asynccontextmanager
    async def connection(self, backend_id: str) -> AsyncIterator[tuple[str, int]]:
        assert backend_id == BACKEND
        if not self.is_ready:
            raise NotReady("the backend has ended")
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            yield self._address
        finally:
            self.now -= 1


class Client:
    """A connection to a listener."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.got = b""

    @classmethod
    @asynccontextmanager
    async def to(cls, url: str) -> AsyncIterator[Client]:
        host, _, port = url.removeprefix("http://").partition(":")
        async with asyncio.timeout(60):
            reader, writer = await asyncio.open_connection(host, int(port))
            try:
                yield cls(reader, writer)
            finally:
                writer.close()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, *, has_body: bool = True) -> Got:
        """Return the next answer, which says where it ends."""
        while True:
            found = _head(self.got)
            if found is not None:
                start, headers, rest = found
                assert _STATUS.match(start), start
                body = _body(headers, rest) if has_body else (b"", rest)
                if body is not None:
                    self.got = body[1]
                    return Got(start, headers, body[0])
            data = await self.reader.read(65536)
            assert data, f"cut after {self.got!r}"
            self.got += data

    async def rest(self) -> bytes:
        """Return all that comes until the connection ends, however it does."""
        try:
            while data := await self.reader.read(65536):
                self.got += data
        except ConnectionResetError:
            pass
        return self.got


def request(
    path: str = "/", *headers: str, method: str = "GET", body: bytes = b"", token: str = TOKEN
) -> bytes:
    """Return the bytes of a request that is right."""
    lines = [f"{method} /{token}{path} HTTP/1.1", "Host: h", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def statuses(data: bytes) -> Sequence[int]:
    return [int(status) for status in _STATUS.findall(data)]


@asynccontextmanager
async def proxied(
    backend: RawBackend | None = None,
    *,
    limits: HttpLimits = HttpLimits(),
    user: str | None = None,
    auth: dict[str, Any] | None = None,
) -> AsyncIterator[tuple[str, RawBackend, OneRoute]]:
    """Yield the URL of a proxy, the backend that TOKEN leads to, and its route."""
    backend = backend or RawBackend()
    server = await asyncio.start_server(backend.serve, "127.0.0.1", 0, backlog=1024)
    async with server:
        backend.address = server.sockets[0].getsockname()
        routes = OneRoute(backend.address, user=user, auth=auth)
        async with asyncio.timeout(60), proxying(routes, ("127.0.0.1", 0), limits) as url:
            yield url, backend, routes
    assert routes.now == 0
