"""`serve`: listens, tells peers which logs have grown, and shows what peers say."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from typing import TypeAlias

from protomux import KeyPair, Protomux
from protomux.streams import FramedStream, SecretStream
from protomux_wakeup import Lookup, Peer, Session, Wakeup, Writer
from protomux_wakeup.address import Address, TcpAddress, UdpAddress, UnixAddress
from protomux_wakeup.cli.endpoint import allow_only, listening
from protomux_wakeup.cli.feed import BadLine, read_writers
from protomux_wakeup.cli.logs import Logs
from protomux_wakeup.cli.process import Exit
from protomux_wakeup.cli.report import Reporter
from protomux_wakeup.cli.values import (
    count_of,
    hex_of,
    short,
)
from protomux_wakeup.cli.witness import Witness
from protomux_wakeup.endpoint import (
    KEEP_ALIVE,
    close_streams,
    own_addresses,
    reason,
    remote_address,
)

__all__ = ["Carrier", "serve"]


Carrier: TypeAlias = Callable[[FramedStream], FramedStream]


def _itself(stream: FramedStream) -> FramedStream:
    return stream


async def serve(
    report: Reporter,
    *,
    address: Address,
    capability: bytes,
    key_pair: KeyPair,
    writers: Iterable[Writer] = (),
    allowed: Collection[bytes] = (),
    feed: int | None = None,
    carrier: Carrier = _itself,
) -> Exit:
    """Serve until cancelled.

    Args:
        report: where events go.
        address: where to listen; port 0 is any free one.
        capability: of the topic.
        key_pair: who we are.
        writers: what is known at first.
        allowed: keys of the peers that are let in; all peers if there are none.
        feed: file descriptor with JSON lines of news.
        carrier: returns what carries the mux of a stream, to see what passes.
    """
    service = _Service(capability, report, carrier)
    service.learn(writers)
    for_ever: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
    try:
        async with listening(
            service.welcome,
            address,
            key_pair=key_pair,
            firewall=allow_only(allowed, report),
            keep_alive=KEEP_ALIVE,
        ) as server:
            for own in own_addresses(server, address):
                _say_where(report, own, key_pair.public_key, service.topic_id)
            if feed is not None:
                await service.follow(feed)
            return await for_ever
    finally:
        await service.close()


def _say_where(report: Reporter, address: Address, public_key: bytes, topic_id: bytes) -> None:
    place: dict[str, str | int]
    match address:
        case TcpAddress(host, port) | UdpAddress(TcpAddress(host, port)):
            place = {"host": host, "port": port}
        case UnixAddress(path):
            place = {"path": path}
    report.say(
        "listening",
        str(address),
        {
            "address": str(address),
            **place,
            "public_key": public_key.hex(),
            "topic": topic_id.hex(),
        },
        details=[f"public key {public_key.hex()}", f"topic      {topic_id.hex()}"],
    )


class _Service(Witness):
    """Knows which logs have which length, and tells the peers of one topic."""

    def __init__(self, capability: bytes, report: Reporter, carrier: Carrier) -> None:
        super().__init__(report)
        self._carrier = carrier
        self._logs = Logs()
        self._wakeup = Wakeup(self.on_wakeup)
        self._session = self._wakeup.session(capability, self)
        self._streams: set[SecretStream] = set()

    @property
    def topic_id(self) -> bytes:
        """The topic's name on the wire."""
        return self._session.topic.id

    def learn(self, writers: Iterable[Writer]) -> list[Writer]:
        """Remember the logs of `writers`; return those that have grown."""
        grown: dict[bytes, int] = {}
        for writer in writers:
            try:
                if self._logs.learn(writer):
                    grown[writer.key] = writer.length
            except ValueError as error:
                self.report.fail(str(error))
        return [Writer(*entry) for entry in grown.items()]

    def welcome(self, stream: SecretStream) -> None:
        """A peer has connected."""
        key = hex_of(stream.remote_public_key)
        address = str(remote_address(stream))
        self.report.say(
            "connected",
            f"{short(stream.remote_public_key)} from {address}",
            {"peer": key, "address": address},
            details=[f"public key {key}"],
        )
        self._streams.add(stream)
        carrier = self._carrier(stream)
        self._wakeup.add_stream(carrier)
        Protomux.of(carrier).add_close_callback(lambda error: self._lost(stream, error))

    def _lost(self, stream: SecretStream, error: Exception | None) -> None:
        self._streams.discard(stream)
        self.report.say(
            "disconnected",
            short(stream.remote_public_key) + ("" if error is None else f": {error}"),
            {
                "peer": hex_of(stream.remote_public_key),
                "error": None if error is None else str(error),
            },
        )

    # Hooks of the session

    def on_peer_add(self, peer: Peer, session: Session) -> None:
        """Greet a peer with what we know."""
        super().on_peer_add(peer, session)
        if self._logs:
            self._announce(peer)

    def on_lookup(self, lookup: Lookup, peer: Peer, session: Session) -> None:
        """Answer, also where nothing is known: the peer need not wait any longer then."""
        super().on_lookup(lookup, peer, session)
        self._announce(peer)

    def _announce(self, peer: Peer) -> None:
        self._session.announce(peer, self._logs)
        logs = len(self._logs)
        self.say("announce_sent", peer, f"is told of {count_of(logs, 'log')}", {"logs": logs})

    # News

    async def follow(self, feed: int) -> None:
        """Tell all peers what the lines of `feed` say that is new, until it ends."""
        try:
            async for entries in read_writers(feed):
                for entry in entries:
                    if isinstance(entry, BadLine):
                        self.report.fail(str(entry), {"line": entry.number})
                self._spread([entry for entry in entries if isinstance(entry, Writer)])
        except OSError as error:
            self.report.fail(f"cannot read stdin: {reason(error)}")
        else:
            self.report.say("stdin_ended", "still serving")

    def _spread(self, writers: Iterable[Writer]) -> None:
        grown = self.learn(writers)
        if not grown:
            return
        peers = self._session.peers
        self._session.broadcast_announce(grown)
        self.report.say(
            "news",
            f"{count_of(len(grown), 'log')}, told to {count_of(len(peers), 'peer')}",
            {"peers": [hex_of(peer.remote_public_key) for peer in peers]},
            writers=grown,
        )

    async def close(self) -> None:
        """Leave the topic and all streams."""
        self._wakeup.destroy()
        await close_streams(self._streams)
