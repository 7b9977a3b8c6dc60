"""`serve`: listens, tells peers which logs have grown, and shows what peers say."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from protomux import KeyPair, Protomux
from protomux.streams import SecretStream
from protomux_wakeup import Lookup, Peer, Session, Wakeup, Writer
from protomux_wakeup.cli.endpoint import (
    allow_only,
    close_streams,
    listening,
    own_addresses,
    remote_address,
)
from protomux_wakeup.cli.feed import BadLine, read_writers
from protomux_wakeup.cli.logs import Logs
from protomux_wakeup.cli.process import Exit, reason
from protomux_wakeup.cli.report import NO_FIELDS, Fields, Reporter
from protomux_wakeup.cli.values import Address, TcpAddress, count_of, hex_of, short

__all__ = ["KEEP_ALIVE", "serve"]

KEEP_ALIVE: Final = 5.0
"""Seconds of silence after which something is sent, so that the loss of a peer is noticed; the
number is hyperdht's."""


async def serve(
    report: Reporter,
    *,
    address: Address,
    capability: bytes,
    key_pair: KeyPair,
    writers: Iterable[Writer] = (),
    allowed: Collection[bytes] = (),
    feed: int | None = None,
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
    """
    service = _Service(capability, report)
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
            for own in own_addresses(server):
                _say_where(report, own, key_pair.public_key, service.topic_id)
            if feed is not None:
                await service.follow(feed)
            return await for_ever
    finally:
        await service.close()


def _say_where(report: Reporter, address: Address, public_key: bytes, topic_id: bytes) -> None:
    place: dict[str, str | int] = (
        {"host": address.host, "port": address.port}
        if isinstance(address, TcpAddress)
        else {"path": address.path}
    )
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


class _Service:
    """Knows which logs have which length, and tells the peers of one topic."""

    def __init__(self, capability: bytes, report: Reporter) -> None:
        self._report = report
        self._logs = Logs()
        self._wakeup = Wakeup(self._on_wakeup)
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
                self._report.fail(str(error))
        return [Writer(*entry) for entry in grown.items()]

    def welcome(self, stream: SecretStream) -> None:
        """A peer has connected."""
        key = hex_of(stream.remote_public_key)
        address = str(remote_address(stream))
        self._report.say(
            "connected",
            f"{short(stream.remote_public_key)} from {address}",
            {"peer": key, "address": address},
            details=[f"public key {key}"],
        )
        self._streams.add(stream)
        self._wakeup.add_stream(stream)
        Protomux.of(stream).add_close_callback(lambda error: self._lost(stream, error))

    def _lost(self, stream: SecretStream, error: Exception | None) -> None:
        self._streams.discard(stream)
        self._report.say(
            "disconnected",
            short(stream.remote_public_key) + ("" if error is None else f": {error}"),
            {
                "peer": hex_of(stream.remote_public_key),
                "error": None if error is None else str(error),
            },
        )

    def _on_wakeup(self, id: bytes, mux: Protomux) -> None:
        """A peer opens a topic that is not ours: its capability is another."""
        key = mux.stream.remote_public_key
        self._report.say(
            "topic_unknown",
            f"{short(key)} opens a topic that is not here",
            {"peer": hex_of(key), "topic": id.hex()},
            details=[f"topic      {id.hex()}"],
        )

    # Hooks of the session

    def on_peer_add(self, peer: Peer, _session: Session) -> None:
        """Greet a peer with what we know."""
        self._say("peer_added", peer, "has proved the capability")
        if self._logs:
            self._announce(peer)

    def on_peer_remove(self, peer: Peer, _session: Session) -> None:
        """Show it."""
        self._say("peer_removed", peer, "has left the topic")

    def on_peer_active(self, peer: Peer, _session: Session) -> None:
        """Show it."""
        self._say("peer_active", peer, "wants news")

    def on_peer_inactive(self, peer: Peer, _session: Session) -> None:
        """Show it."""
        self._say("peer_inactive", peer, "wants no news for now")

    def on_lookup(self, lookup: Lookup, peer: Peer, _session: Session) -> None:
        """Answer, also where nothing is known: the peer need not wait any longer then."""
        hash = hex_of(lookup.hash)
        details = [] if hash is None else [f"hash {hash}"]
        self._say(
            "lookup_received", peer, "asks which logs have grown", {"hash": hash}, details=details
        )
        self._announce(peer)

    def on_announce(self, writers: list[Writer], peer: Peer, _session: Session) -> None:
        """Show it."""
        text = f"tells of {count_of(len(writers), 'log')}"
        self._say("announce_received", peer, text, writers=writers)

    def _say(
        self,
        event: str,
        peer: Peer,
        text: str,
        fields: Fields = NO_FIELDS,
        *,
        details: Sequence[str] = (),
        writers: Sequence[Writer] | None = None,
    ) -> None:
        """Show what a peer did, or what was done to it."""
        self._report.say(
            event,
            f"{short(peer.remote_public_key)} {text}",
            {"peer": hex_of(peer.remote_public_key), **fields},
            details=details,
            writers=writers,
        )

    def _announce(self, peer: Peer) -> None:
        self._session.announce(peer, self._logs)
        logs = len(self._logs)
        self._say("announce_sent", peer, f"is told of {count_of(logs, 'log')}", {"logs": logs})

    # News

    async def follow(self, feed: int) -> None:
        """Tell all peers what the lines of `feed` say that is new, until it ends."""
        try:
            async for entries in read_writers(feed):
                for entry in entries:
                    if isinstance(entry, BadLine):
                        self._report.fail(str(entry), {"line": entry.number})
                self._spread([entry for entry in entries if isinstance(entry, Writer)])
        except OSError as error:
            self._report.fail(f"cannot read stdin: {reason(error)}")
        else:
            self._report.say("stdin_ended", "still serving")

    def _spread(self, writers: Iterable[Writer]) -> None:
        grown = self.learn(writers)
        if not grown:
            return
        peers = self._session.peers
        self._session.broadcast_announce(grown)
        self._report.say(
            "news",
            f"{count_of(len(grown), 'log')}, told to {count_of(len(peers), 'peer')}",
            {"peers": [hex_of(peer.remote_public_key) for peer in peers]},
            writers=grown,
        )

    async def close(self) -> None:
        """Leave the topic and all streams."""
        self._wakeup.destroy()
        await close_streams(self._streams)
