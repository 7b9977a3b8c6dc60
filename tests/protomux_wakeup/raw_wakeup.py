"""A peer that speaks wakeup by hand, at the other end of a memory stream."""

from __future__ import annotations

from protomux.streams import memory_pair
from protomux.streams.memory import MemoryStream
from protomux_wakeup import Lookup, Wakeup, Writer, messages
from protomux_wakeup.capability import Capability
from tests.raw_peer import RawPeer

CAPABILITY = b"\x01" * 32
ID = Capability(CAPABILITY).id
KEY = b"\x0a" * 32


class RawWakeup(RawPeer):
    """The responder's end of a stream."""

    def open_topic(self, number: int, *, proof: bytes | None = None, active: bool = True) -> None:
        """Open the topic of `CAPABILITY`, with the right proof unless another is given."""
        assert self.stream.handshake_hash is not None
        if proof is None:
            proof = Capability(CAPABILITY).prove(False, self.stream.handshake_hash)
        handshake = messages.handshake.encode(messages.Handshake(0, proof, active))
        self.open(number, "wakeup", ID, handshake)

    def announce(self, number: int, *writers: Writer) -> None:
        """Send an announce."""
        self.message(number, 1, messages.announce.encode(writers))

    def lookup(self, number: int) -> None:
        """Send a lookup without a hash."""
        self.message(number, 0, messages.lookup.encode(Lookup()))

    def info(self, number: int, *, active: bool) -> None:
        """Send an info."""
        self.message(number, 2, messages.info.encode(messages.Info(active)))


def with_raw(wakeup: Wakeup) -> tuple[MemoryStream, RawWakeup]:
    """Return a stream that was added to `wakeup`, and who is at its other end."""
    a, b = memory_pair()
    wakeup.add_stream(a)
    return a, RawWakeup(b)
