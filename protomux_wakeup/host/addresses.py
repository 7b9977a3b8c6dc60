"""Which clients want streams to where, and the streams that came of it. Knows no topic.

An address is kept up while a client that asked for it is there. A stream that a peer has made to us
lives until the peer goes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from protomux import KeyPair, Protomux
from protomux.streams import SecretStream
from protomux_wakeup.address import Address, parse_address
from protomux_wakeup.endpoint import KEEP_ALIVE, close_streams, remote_address
from protomux_wakeup.host.links import Link, ListeningPlace

__all__ = ["Addresses"]


class Addresses:
    """All links and listening places of a worker."""

    def __init__(self, key_pair: KeyPair, on_stream: Callable[[SecretStream], object]) -> None:
        """Show peers `key_pair`; `on_stream` gets every stream that opens."""
        self._key_pair = key_pair
        self._on_stream = on_stream
        self._streams: dict[SecretStream, Address] = {}
        self._links: dict[Address, Link] = {}
        self._places: dict[Address, ListeningPlace] = {}
        self._wanted: dict[Link | ListeningPlace, set[object]] = {}
        self._listening = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()

    async def connect(self, text: str, client: object, *, wait: bool = True) -> None:
        """Keep a stream to the address `text` for `client`; `wait` until there is one, or not.

        Who waits gets EndpointError where the first attempt fails, and nothing is kept up then.
        Raises ValueError for what is no address.
        """
        address = parse_address(text)
        link = self._links.get(address)
        if link is None:
            link = self._links[address] = Link(
                address, self._opened, key_pair=self._key_pair, keep_alive=KEEP_ALIVE
            )
            self._wanted[link] = set()
        clients = self._wanted[link]
        had_it = client in clients
        clients.add(client)
        if not wait:
            return
        try:
            await link.wait_open()
        except BaseException:
            if not had_it:
                self._let_go(link, client)
            raise

    async def listen(self, text: str, client: object) -> list[Address]:
        """Let peers in at the address `text` for `client`; return where that is.

        Port 0 is any free one. Raises EndpointError where it cannot listen, ValueError for what is
        no address.
        """
        address = parse_address(text, least_port=0)
        async with self._listening:
            place = self._places.get(address)
            if place is None:
                place = await ListeningPlace.open(
                    address, self._opened, key_pair=self._key_pair, keep_alive=KEEP_ALIVE
                )
                self._places.update(dict.fromkeys(place.addresses, place))
                self._wanted[place] = set()
            self._wanted[place].add(client)
        return place.addresses

    def client_gone(self, client: object) -> None:
        """`client` wants nothing more."""
        for wanted, clients in list(self._wanted.items()):
            if client in clients:
                self._let_go(wanted, client)

    def _let_go(self, wanted: Link | ListeningPlace, client: object) -> None:
        clients = self._wanted.get(wanted)
        if clients is None:
            return
        clients.discard(client)
        if not clients:
            self._forget(wanted)

    def _forget(self, wanted: Link | ListeningPlace) -> None:
        del self._wanted[wanted]
        if isinstance(wanted, Link):
            del self._links[wanted.address]
        else:
            for address in wanted.addresses:
                del self._places[address]
        task = asyncio.create_task(wanted.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _opened(self, stream: SecretStream) -> None:
        self._streams[stream] = remote_address(stream)
        self._on_stream(stream)
        Protomux.of(stream).add_close_callback(lambda _error: self._streams.pop(stream, None))

    def status(self) -> dict[str, Any]:
        """Return the "peers", "links" and "listening" of a status, as JSON has them."""
        return {
            "peers": [
                {"public_key": (stream.remote_public_key or b"").hex(), "address": str(address)}
                for stream, address in self._streams.items()
            ],
            "links": [
                {
                    "address": str(address),
                    "is_open": link.stream is not None,
                    "error": None if link.error is None else str(link.error),
                }
                for address, link in self._links.items()
            ],
            "listening": [str(address) for address in self._places],
        }

    async def close(self) -> None:
        """Listen no more, and leave all peers."""
        for wanted in list(self._wanted):
            self._forget(wanted)
        await asyncio.gather(*self._closing, close_streams(self._streams))
