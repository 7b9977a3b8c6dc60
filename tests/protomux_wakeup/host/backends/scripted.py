"""A cluster on a real socket that speaks a dialect, and does what a test has scripted first."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, TypeAlias

from aiohttp import web

from protomux_wakeup.host.backends.engine import News
from protomux_wakeup.host.backends.types import BackendState, BackendStatus

TOKEN = "the-token-of-the-cluster"
SECRET = "the-token-of-a-backend"

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Received(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: Any


def answer(status: int = 200, body: bytes = b"", **headers: str) -> Handler:
    """Answer with this."""

    async def handle(_request: web.Request) -> web.StreamResponse:
        return web.Response(
            status=status,
            body=body,
            headers={name.replace("_", "-"): value for name, value in headers.items()},
        )

    return handle


def play(*pieces: bytes, cut: bool = True, kind: str = "text/event-stream") -> Handler:
    """Stream these, then cut the connection, or end the answer."""

    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": kind})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
        if cut:
            assert request.transport is not None
            request.transport.abort()
        else:
            await response.write_eof()
        return response

    return handle


async def hang_up(request: web.Request) -> web.StreamResponse:
    """Cut the connection, and answer nothing."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def endless(request: web.Request) -> web.StreamResponse:
    """Stream one line that has no end."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    while True:
        await response.write(b"data: " + b"x" * 4_096)


async def silent(request: web.Request) -> web.StreamResponse:
    """Stream nothing, for ever."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    await asyncio.Event().wait()
    return response


async def drip(request: web.Request) -> web.StreamResponse:
    """Answer with something that has no end, and little of it at a time."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.05)


async def never(_request: web.Request) -> web.StreamResponse:
    """Do not answer."""
    await asyncio.Event().wait()
    raise AssertionError


class ScriptedCluster:
    """Starts backends that are in the states which `say` says; it runs for a minute at most.

    Each of the queues has what answers the next requests of its kind; then there is a cluster that
    works.

    Attributes:
        base: its address.
        received: all requests, in order.
        connects, statuses, streams, ends, hints: the queues.
        known: the ids of the backends that there are.
        has_ids: its events have ids.
    """

    def __init__(self, dialect: str) -> None:
        self.dialect = dialect
        self.base = ""
        self.received: list[Received] = []
        self.connects: deque[Handler] = deque()
        self.statuses: deque[Handler] = deque()
        self.streams: deque[Handler] = deque()
        self.ends: deque[Handler] = deque()
        self.hints: deque[Handler] = deque()
        self.known: set[str] = set()
        self.has_ids = True
        self.states: list[dict[str, Any]] = []
        self._keys: dict[str, str] = {}
        self._streaming: set[asyncio.Transport] = set()
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def running(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[ScriptedCluster]:
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True
        )
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        port = runner.addresses[0][1]
        self.base = f"{'http' if tls is None else 'https'}://127.0.0.1:{port}"
        try:
            async with asyncio.timeout(60):
                yield self
        finally:
            await runner.cleanup()

    # What a test asks of it.

    async def say(self, status: str, **fields: Any) -> None:
        """All backends are in this state now."""
        time: Any = "2026-01-02T03:04:05.678901+00:00"
        if self.dialect == "plane":
            time = 1767323045678
        async with self._changed:
            self.states.append({"status": status, "time": time, **fields})
            self._changed.notify_all()

    def cut(self) -> None:
        """Cut all streams."""
        for transport in self._streaming:
            transport.abort()
        self._streaming.clear()

    async def until(self, count: int, path: str) -> list[Received]:
        """Wait for so many requests to a path that ends like this; return them."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.requests(path)) >= count)
        return self.requests(path)

    def requests(self, path: str) -> list[Received]:
        return [each for each in self.received if each.path.endswith(path)]

    def stream(self, after: str = "") -> bytes:
        """All states that were said, as a stream."""
        numbers = list(BackendStatus)
        last = numbers.index(BackendStatus(after)) if after else -1
        return b"".join(
            self._event(state)
            for state in self.states
            if numbers.index(BackendStatus(state["status"])) > last
        )

    def _event(self, state: dict[str, Any]) -> bytes:
        id = f"id: {state['status']}\n" if self.has_ids else ""
        return f"data: {json.dumps(state)}\n{id}\n".encode()

    # What it does.

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        parsed = json.loads(body) if body else None
        async with self._changed:
            self.received.append(
                Received(request.method, request.path, dict(request.headers), parsed)
            )
            self._changed.notify_all()
        scripts, handle = self._route(request.method, request.path)
        return await (scripts.popleft() if scripts else handle)(request)

    def _route(self, method: str, path: str) -> tuple[deque[Handler], Handler]:
        last = path.rpartition("/")[2]
        routes: dict[tuple[str, str], tuple[deque[Handler], Handler]] = {
            ("POST", "connect"): (self.connects, self._connect),
            ("GET", "status"): (self.statuses, self._status),
            ("GET", "stream" if self.dialect == "jamsocket" else "status-stream"): (
                self.streams,
                self._stream,
            ),
            ("POST", "hints"): (self.hints, answer(204)),
        }
        if self.dialect == "jamsocket":
            routes["POST", "terminate"] = (self.ends, answer(200, b'{"status":"ok"}'))
        else:
            routes["POST", "soft-terminate"] = (self.ends, answer(200, b"null"))
            routes["POST", "hard-terminate"] = (self.ends, answer(200, b"null"))
        return routes.get((method, last), (deque(), answer(404, b'{"kind":"NotFound"}')))

    async def _connect(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.json_response({"id": "x", "kind": "Other", "message": "no"}, status=401)
        body = await request.json()
        key = body["key"] if self.dialect == "jamsocket" else body["key"]["name"]
        spawns = body["spawn"] if self.dialect == "jamsocket" else "spawn_config" in body
        id = self._keys.get(key)
        if id is None and not spawns:
            return web.json_response({"kind": "KeyUnheldNoSpawnConfig"}, status=409)
        spawned = id is None
        if id is None:
            id = self._keys[key] = f"ba-{len(self._keys)}"
            self.known.add(id)
        found: dict[str, Any] = {
            "backend_id": id,
            "spawned": spawned,
            "status": "scheduled",
            "token": SECRET,
            "url": f"{self.base}/{SECRET}/",
            "secret_token": "s",
            "status_url": f"{self.base}/status",
        }
        if self.dialect == "jamsocket":
            found["ready_url"] = f"{self.base}/ready"
        else:
            found |= {"subdomain": None, "drone": "dr-1"}
        return web.json_response(found)

    def _is_known(self, path: str) -> bool:
        return not self.known.isdisjoint(path.split("/"))

    async def _status(self, request: web.Request) -> web.StreamResponse:
        if not self._is_known(request.path):
            return web.json_response({"kind": "NotFound"}, status=404)
        return web.json_response(self.states[-1] if self.states else {"status": "scheduled"})

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        if self.dialect == "jamsocket" and not self._is_known(request.path):
            return web.json_response({"kind": "NotFound"}, status=404)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        assert request.transport is not None
        self._streaming.add(request.transport)
        await response.write(self.stream(request.headers.get("Last-Event-ID", "")))
        told = len(self.states)
        while not any(state["status"] == "terminated" for state in self.states[:told]):
            async with self._changed:
                while told == len(self.states):
                    await self._changed.wait()
            for state in self.states[told:]:
                await response.write(self._event(state))
                told += 1
        if self.dialect == "plane":  # its streams have no end
            await asyncio.Event().wait()
        return response


class Told:
    """A `Listener` that can be waited for."""

    def __init__(self) -> None:
        self.states: list[BackendState] = []
        self.acknowledgements: list[list[News]] = []
        self._changed = asyncio.Event()

    def moved(self, state: BackendState) -> None:
        self.states.append(state)
        self._changed.set()

    def acknowledged(self, news: Sequence[News]) -> None:
        self.acknowledgements.append(list(news))
        self._changed.set()

    @property
    def statuses(self) -> list[str]:
        return [str(state.status) for state in self.states]

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def reached(self, status: str) -> BackendState:
        await self.until(lambda: status in self.statuses)
        return self.states[self.statuses.index(status)]
