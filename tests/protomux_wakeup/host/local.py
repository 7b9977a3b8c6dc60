"""A host within one process: the service, its clients, and peers over TCP."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

from protomux.streams import SecretStream, Server, open_connection, start_server
from protomux_wakeup import Lookup, Peer, Session, Wakeup, Writer
from protomux_wakeup.host.errors import LeaderLost
from protomux_wakeup.host.hints import HintLimits, HintStore
from protomux_wakeup.host.rpc import Rpc
from protomux_wakeup.host.service import Service

__all__ = ["LocalClient", "LocalHost", "RemotePeer"]


class Connection:
    """A client as the service sees it."""

    def __init__(self, service: Service) -> None:
        loop = asyncio.get_running_loop()
        self.here: Final[Rpc] = Rpc(lambda text: loop.call_soon(self.there.received, text))
        self.there: Final[Rpc] = Rpc(lambda text: loop.call_soon(self.here.received, text))
        self._service = service
        self.notify = self.here.notify
        for method, handler in service.methods.items():
            self.here.respond(method, partial(self._handle, handler))

    def _handle(self, handler: Callable[[Any, Any], object], params: Any) -> object:
        return handler(params, self)

    def end(self) -> None:
        self.there.destroy()
        self.here.destroy()
        self._service.client_gone(self)


class LocalClient:
    """A client of the host, as `join` returns one."""

    def __init__(self, service: Service) -> None:
        self.on_connect: Any = None
        self._responders: dict[str, Callable[[Any], object]] = {}
        self._connection: Connection | None = Connection(service)

    async def __aenter__(self) -> Self:
        return self

    def respond(self, method: str, handler: Callable[[Any], object]) -> None:
        self._responders[method] = handler
        if self._connection is not None:
            self._connection.there.respond(method, handler)

    async def call(self, method: str, params: Any = None, *, idempotent: bool = False) -> Any:
        if self._connection is None:
            raise LeaderLost("the worker has gone")
        return await self._connection.there.request(method, params)

    async def move(self, service: Service) -> None:
        """Go to another worker."""
        self._connection = Connection(service)
        for method, handler in self._responders.items():
            self._connection.there.respond(method, handler)
        await self.on_connect(self)

    def lose(self) -> None:
        """The connection ends, without a word."""
        assert self._connection is not None
        self._connection.end()
        self._connection = None

    async def leave(self) -> None:
        if self._connection is not None:
            self.lose()


class LocalHost:
    """The service, whose file is in a place of its own."""

    def __init__(self, place: Path, limits: HintLimits = HintLimits()) -> None:
        self.place = place
        self.limits = limits
        self._clients: list[LocalClient] = []
        self.start()

    def start(self) -> None:
        self.store = HintStore(self.place / "hints.db", limits=self.limits)
        self.service = Service(self.store)

    def client(self) -> Any:
        """Return a new client, in place of a `host.Client`."""
        client = LocalClient(self.service)
        self._clients.append(client)
        return client

    def status(self) -> Any:
        """What the service answers to "status"."""
        return self.service.methods["status"](None, Connection(self.service))

    async def close(self) -> None:
        await self.service.close()
        self.store.close()

    async def crash(self) -> None:
        """Take what is in the files now, and begin with that anew."""
        place = self.place / "later"
        place.mkdir()
        for file in self.place.iterdir():
            if file.is_file():
                shutil.copyfile(file, place / file.name)
        await self.close()
        for client in self._clients:
            await client.leave()
        self.place = place
        self.start()


class RemotePeer:
    """A peer elsewhere, with one topic."""

    def __init__(self, capability: bytes, known: dict[bytes, int] | None = None) -> None:
        self.known: Final = {} if known is None else known
        self.heard: Final[asyncio.Queue[list[Writer]]] = asyncio.Queue()
        self.came: Final[asyncio.Queue[Peer]] = asyncio.Queue()
        self.rested: Final[asyncio.Queue[Peer]] = asyncio.Queue()
        self.went: Final[asyncio.Queue[Peer]] = asyncio.Queue()
        self.asked: Final[asyncio.Queue[Lookup]] = asyncio.Queue()
        self.streams: list[SecretStream] = []
        self.wakeup: Final = Wakeup()
        self.session: Final = self.wakeup.session(capability, self)
        self._server: Server | None = None

    async def listen(self, port: int = 0) -> str:
        self._server = await start_server(self._add, "127.0.0.1", port)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def connect(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._add(await open_connection(host, int(port)))

    def _add(self, stream: SecretStream) -> None:
        self.streams.append(stream)
        self.wakeup.add_stream(stream)

    def on_peer_add(self, peer: Peer, _session: Session) -> None:
        self.came.put_nowait(peer)

    def on_peer_inactive(self, peer: Peer, _session: Session) -> None:
        self.rested.put_nowait(peer)

    def on_peer_remove(self, peer: Peer, _session: Session) -> None:
        self.went.put_nowait(peer)

    def on_lookup(self, lookup: Lookup, peer: Peer, session: Session) -> None:
        self.asked.put_nowait(lookup)
        session.announce(peer, list(self.known.items()))

    def on_announce(self, writers: list[Writer], _peer: Peer, _session: Session) -> None:
        self.heard.put_nowait(writers)

    def announce(self, *writers: tuple[bytes, int]) -> None:
        self.known.update(writers)
        self.session.broadcast_announce(writers)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        for stream in self.streams:
            stream.abort()
            await stream.wait_closed()
        self.wakeup.destroy()
