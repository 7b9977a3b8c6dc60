"""`demo`: two peers in one process, over TCP on loopback, and what each does and sees.

Every line is told by the peer to whom it happens, when it happens: when it calls something, or
when a hook or an event of the library tells it something.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Final, TypeVar

from protomux import KeyPair
from protomux.streams import SecretStream
from protomux_wakeup import (
    Announced,
    Event,
    LookedUp,
    PeerActive,
    PeerAdded,
    PeerInactive,
    PeerRemoved,
    Wakeup,
    Writer,
)
from protomux_wakeup.address import TcpAddress
from protomux_wakeup.cli.counted import CountedStream
from protomux_wakeup.cli.endpoint import connect, listening
from protomux_wakeup.cli.process import Exit, Failure
from protomux_wakeup.cli.report import Json, Reporter
from protomux_wakeup.cli.values import count_of, hex_of, short
from protomux_wakeup.endpoint import close_streams, own_addresses

__all__ = ["TIMEOUT", "demo"]

TIMEOUT: Final = 10.0
"""Seconds for all of it; it takes some milliseconds."""

Awaited = TypeVar("Awaited", PeerAdded, PeerActive, PeerInactive, PeerRemoved, LookedUp, Announced)


async def demo(report: Reporter) -> Exit:
    """Let two peers meet, ask, tell, rest and part."""
    capability = secrets.token_bytes(32)
    alice, bob = _Side("alice", "bob", report), _Side("bob", "alice", report)
    streams: list[SecretStream] = []
    try:
        async with asyncio.timeout(TIMEOUT):
            streams += await _meet(alice, bob)
            await _share_topic(alice, bob, capability)
            await _ask_and_tell(alice, bob)
            await _rest(alice, bob)
            await _part(alice, bob, streams)
    except TimeoutError:
        raise Failure(f"expected the demo to end within {TIMEOUT:g} s") from None
    finally:
        for side in (alice, bob):
            side.wakeup.destroy()
        await close_streams(streams)
    alice.sum_up()
    bob.sum_up()
    return Exit.DONE


async def _meet(alice: _Side, bob: _Side) -> list[SecretStream]:
    """Open an encrypted stream between the two."""
    arrived: asyncio.Future[SecretStream] = asyncio.get_running_loop().create_future()
    anywhere = TcpAddress("127.0.0.1", 0)
    async with listening(
        arrived.set_result,
        anywhere,
        key_pair=alice.key_pair,
        firewall=lambda key: not alice.admits(key, bob.key_pair.public_key),
    ) as server:
        (address,) = own_addresses(server, anywhere)
        alice.tell("listening", f"listens on {address}", address=str(address))
        bob.tell("connecting", f"connects to {address}", "out", address=str(address))
        outgoing = await connect(
            address,
            key_pair=bob.key_pair,
            remote_public_key=alice.key_pair.public_key,
            firewall=lambda key: not bob.admits(key, alice.key_pair.public_key),
        )
        bob.take(outgoing)
        incoming = await arrived
        alice.take(incoming)
    return [outgoing, incoming]


async def _share_topic(alice: _Side, bob: _Side, capability: bytes) -> None:
    """Both take interest in one topic, and prove to each other that they may."""
    for side in (alice, bob):
        side.enter(capability)
    await asyncio.gather(alice.sees(PeerActive), bob.sees(PeerActive))


async def _ask_and_tell(alice: _Side, bob: _Side) -> None:
    """Bob asks which logs have grown; alice says."""
    hash = secrets.token_bytes(32)
    bob.tell("lookup_sent", f"lookup with hash {short(hash)}", "out", hash=hash.hex())
    bob.session.broadcast_lookup(hash)
    asked = await alice.sees(LookedUp)
    writers = [Writer(secrets.token_bytes(32), length) for length in (3, 1_024, 2**32)]
    alice.tell("announce_sent", "announce of 3 logs", "out", logs=len(writers))
    alice.session.announce(asked.peer, writers)
    await bob.sees(Announced)


async def _rest(alice: _Side, bob: _Side) -> None:
    """Alice wants no news for a moment."""
    alice.tell("inactive_sent", "becomes inactive", "out")
    alice.session.inactive()
    await bob.sees(PeerInactive)
    alice.tell("active_sent", "becomes active again", "out")
    alice.session.active()
    await bob.sees(PeerActive)


async def _part(alice: _Side, bob: _Side, streams: list[SecretStream]) -> None:
    """Bob leaves the topic, then the stream."""
    bob.tell("leaving", "leaves the topic, closes the stream", "out")
    bob.wakeup.destroy()
    bob.stream.close()
    await alice.sees(PeerRemoved)
    await asyncio.gather(*(stream.wait_closed() for stream in streams))
    for side, stream in zip((bob, alice), streams, strict=True):
        if stream.error is not None:
            raise stream.error
        side.tell("closed", "stream closed in order, from both sides")


class _Side:
    """One of the two: what it has, and how it tells what happens to it."""

    stream: CountedStream

    def __init__(self, name: str, other: str, report: Reporter) -> None:
        self.key_pair = KeyPair.generate()
        self.wakeup = Wakeup()
        self._name = name
        self._other = other
        self._report = report

    def tell(
        self,
        event: str,
        text: str,
        direction: str | None = None,
        *,
        writers: list[Writer] | None = None,
        **fields: Json,
    ) -> None:
        """Tell what happens here: by itself, or "out" to the other, or "in" from it."""
        arrow = {None: "", "out": f"──▶ {self._other}", "in": f"◀── {self._other}"}[direction]
        self._report.say(
            event,
            text,
            {"who": self._name, "direction": direction, **fields},
            label=f"{self._name:<5} {arrow}",
            writers=writers,
        )

    def admits(self, key: bytes, expected: bytes) -> bool:
        """Firewall: tell whose key it is, and whether to let it in."""
        is_admitted = key == expected
        verdict = "let in" if is_admitted else "refused"
        text = f"key {short(key)}: {verdict} by the firewall"
        self.tell("key_checked", text, "in", key=key.hex(), is_admitted=is_admitted)
        return is_admitted

    def take(self, stream: SecretStream) -> None:
        """The handshake is complete."""
        hash = stream.handshake_hash
        text = f"Noise XX complete, handshake hash {short(hash)}"
        self.tell("handshake", text, "in", handshake_hash=hex_of(hash))
        self.stream = CountedStream(stream)

    def enter(self, capability: bytes) -> None:
        """Begin a session."""
        self.session = self.wakeup.session(capability)
        self._events = self.session.events()
        topic = self.session.topic.id
        self.tell(
            "session",
            f"topic {short(topic)}: sends its proof",
            "out",
            topic=topic.hex(),
        )
        self.wakeup.add_stream(self.stream)

    async def sees(self, kind: type[Awaited]) -> Awaited:
        """Tell what happens until an event of `kind`, and return that."""
        async for event in self._events:
            self._tell_event(event)
            if isinstance(event, kind):
                return event
        raise Failure(f"expected a {kind.__name__} at {self._name}, the session has ended")

    def _tell_event(self, event: Event) -> None:
        match event:
            case PeerAdded():
                self.tell("peer_added", "its proof is right: a peer", "in")
            case PeerRemoved():
                self.tell("peer_removed", "has left the topic", "in")
            case PeerActive():
                self.tell("peer_active", "is active: wants news", "in")
            case PeerInactive():
                self.tell("peer_inactive", "is inactive: wants no news", "in")
            case LookedUp(lookup=lookup):
                hash = lookup.hash
                self.tell(
                    "lookup_received", f"asks, with hash {short(hash)}", "in", hash=hex_of(hash)
                )
            case _:  # Announced
                text = f"announces {count_of(len(event.writers), 'log')}"
                self.tell("announce_received", text, "in", writers=event.writers)

    def sum_up(self) -> None:
        """Tell what was counted."""
        stats, stream = self.wakeup.stats, self.stream
        sent = stats.wire_lookup.tx + stats.wire_announce.tx + stats.wire_info.tx
        received = stats.wire_lookup.rx + stats.wire_announce.rx + stats.wire_info.rx
        self.tell(
            "summary",
            f"{count_of(sent, 'message')} out, {received} in; "
            f"wrote {count_of(stream.frames, 'frame')}, {stream.size} bytes",
            stats={name: value for name, _help, value in stats.samples()},
            frames_sent=stream.frames,
            bytes_sent=stream.size,
        )
