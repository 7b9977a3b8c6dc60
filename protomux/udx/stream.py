"""A stream of bytes over packets that may get lost: what both sides do, and when.

Knows packets and a clock that is handed in, no socket: packets come in by `receive`, the time by
`on_timer`, and datagrams go out by the host's `transmit`. `flush` sends what may go; whoever calls
anything else here calls it afterwards, once for all that happened at a time. The host calls nothing
here from inside its own methods.

There is no handshake: both sides know each other's stream id and address before. Each numbers its
packets of data from 0. A stream ends by halves: an END is a packet as those of data are, and a half
is over when its END and all before it was acknowledged (ours) or taken (the peer's).

    state      event                                              next
    CREATED    connect                                            OPEN
    OPEN       both halves are over, or ours but for an answer    LINGERING    closed(None)
    OPEN       DESTROY comes, or a packet timed out too often     CLOSED       closed(error)
    any        destroy                                            CLOSED       closed(None)
    LINGERING  a while without a packet, or the first of another  CLOSED

While LINGERING the stream is over for the application, and answers what the peer sends again: the
acknowledgement of its END may have been lost. libudx does not do that, so a peer that has ended,
and does not answer any more when all of ours is out, may have closed, in order: that is what the
application is told after a while, as one over TCP is told nothing else, and what is out still goes
out some more times. A first packet that acknowledges nothing, from a peer that had acknowledged
something, is of another stream with the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum, auto
from math import inf
from typing import Final, Protocol

from protomux.errors import LimitExceeded, StreamClosed
from protomux.udx.congestion import Bbr
from protomux.udx.mtu import PathMtu
from protomux.udx.packet import HEADER_SIZE, RANGE_SIZE, Packet, Range, Type, encode_packet, unwrap
from protomux.udx.reassembly import FARTHEST, Reassembly
from protomux.udx.recovery import MOST_TIMEOUT, Due, Recovery, SentPacket
from protomux.udx.sending import WINDOW, Sending, padding_of

__all__ = ["MAX_LAST_TIMEOUTS", "WINDOW", "Host", "Life", "Stream"]

_LINGER: Final = MOST_TIMEOUT
"""Seconds without a packet for which a stream that is over answers its peer: who has not got an
acknowledgement asks again before that."""

MAX_LAST_TIMEOUTS: Final = 2
"""Timeouts after which a peer that has ended, and was sent all of ours, is taken to have closed:
the next comes after some 7 s, when the END has gone out three times and more."""

# To ask an enum for its member takes Python 3.11 as long as a call.
_DATA, _END, _MESSAGE, _DESTROY, _HEARTBEAT = (
    int(type) for type in (Type.DATA, Type.END, Type.MESSAGE, Type.DESTROY, Type.HEARTBEAT)
)


class Host(Protocol):
    """Who carries the datagrams of a stream, and takes what comes of it."""

    def transmit(self, datagram: bytes) -> None:
        """Send it to the peer, as it is or not at all."""
        ...

    def transmit_in_pieces(self, datagram: bytes) -> None:
        """Send it to the peer, in IP fragments where the path needs that."""
        ...

    def data_received(self, data: bytes) -> None:
        """The peer's next bytes."""
        ...

    def eof_received(self) -> None:
        """The peer has ended its half."""
        ...

    def message_received(self, data: bytes) -> None:
        """A message, which may come in any order."""
        ...

    def acknowledged(self) -> None:
        """Less waits to be sent or acknowledged than before."""
        ...

    def closed(self, error: Exception | None) -> None:
        """The stream is over."""
        ...


class Life(Enum):
    """Of a stream."""

    CREATED = auto()
    OPEN = auto()
    LINGERING = auto()
    CLOSED = auto()


_NEXT: Final = {
    Life.CREATED: {Life.OPEN, Life.CLOSED},
    Life.OPEN: {Life.LINGERING, Life.CLOSED},
    Life.LINGERING: {Life.CLOSED},
    Life.CLOSED: set[Life](),
}


class Stream:
    """One side of a stream.

    Attributes:
        id: our number of it, which stands in the packets that come.
        remote_id: the peer's, once it is connected.
        life: where it stands.
        unread: bytes that were handed on and wait for the application, to be set by the host; they
            make the window smaller that the peer is told.
    """

    __slots__ = (
        "_ack_is_due",
        "_heard",
        "_host",
        "_incoming",
        "_keep_alive",
        "_keep_alive_at",
        "_linger_until",
        "_sending",
        "_window",
        "id",
        "life",
        "remote_id",
        "unread",
    )

    def __init__(self, id: int, host: Host, now: float, *, window: int = WINDOW) -> None:
        self.id: Final = id
        self.remote_id = 0
        self.life = Life.CREATED
        self.unread = 0
        self._host = host
        self._sending = Sending(now)
        self._incoming = Reassembly(host.data_received)
        self._window = window
        self._ack_is_due = False
        self._heard = 0  # bytes, from an address that has not acknowledged anything
        self._keep_alive = 0.0
        self._keep_alive_at = inf
        self._linger_until = inf

    def __repr__(self) -> str:
        return f"<udx.Stream {self.id} to {self.remote_id} {self.life.name.lower()}>"

    @property
    def recovery(self) -> Recovery:
        """What is out."""
        return self._sending.recovery

    @property
    def congestion(self) -> Bbr:
        """How much may be out."""
        return self._sending.congestion

    @property
    def mtu(self) -> PathMtu:
        """How large a datagram may be."""
        return self._sending.mtu

    @property
    def peer_window(self) -> int:
        """Bytes that the peer has room for beyond what it has acknowledged."""
        return self._sending.peer_window

    @property
    def queued(self) -> int:
        """Bytes that are not sent yet."""
        return self._sending.queued

    @property
    def waiting(self) -> int:
        """Bytes that are not sent, or not acknowledged."""
        return self._sending.waiting

    @property
    def is_ending(self) -> bool:
        """`end` was called."""
        return self._sending.is_ending

    @property
    def has_ended(self) -> bool:
        """Our half is over: all of it was acknowledged."""
        return self._sending.has_ended

    @property
    def window(self) -> int:
        """Bytes that the peer may have out, as it is told."""
        room = self._window - self.unread - self._incoming.early_size
        return min(max(room, 0), 2**32 - 1)

    @property
    def is_replaceable(self) -> bool:
        """The stream ended in order, and is here only to answer its peer once more."""
        return self.life is Life.LINGERING and self.has_ended

    @property
    def most_message(self) -> int:
        """Bytes of the largest message that may be sent now."""
        return self._sending.most_payload

    @property
    def deadline(self) -> float:
        """When `on_timer` is to be called; inf for never."""
        if not self._is_alive:
            return inf
        return min(self._sending.deadline, self._keep_alive_at, self._linger_until)

    @property
    def _is_alive(self) -> bool:
        return self.life is Life.OPEN or self.life is Life.LINGERING

    # What the application does

    def connect(self, remote_id: int, now: float, *, ip_version: int = 4) -> None:
        """The peer's number of the stream is `remote_id`."""
        self._enter(Life.OPEN)
        self.remote_id = remote_id
        self._sending.set_path(ip_version)
        self._touch(now)

    def change_remote(self, remote_id: int, now: float, *, ip_version: int = 4) -> None:
        """The peer is reached by another path from now on, perhaps under another number."""
        self.remote_id = remote_id
        self._sending.set_path(ip_version)
        self._heard = 0
        self._touch(now)

    def set_keep_alive(self, seconds: float, now: float) -> None:
        """Ask the peer for a sign of life after so long a silence of ours; 0 turns it off.

        So that what stands between remembers the path. Nobody misses the answer.
        """
        self._keep_alive = seconds
        self._touch(now)

    def write(self, data: bytes) -> None:
        """Send `data`, behind all that was written before. Raises StreamClosed after `end`."""
        if self.is_ending or self.life not in (Life.CREATED, Life.OPEN):
            raise StreamClosed("expected a stream that is not ended to write to")
        self._sending.write(data)

    def end(self) -> None:
        """End our half, behind all that was written."""
        self._sending.end()

    def taken(self, size: int) -> None:
        """The application has taken so many bytes of `unread`: tell the peer, if it was in need."""
        was_short = self.window < self._window // 2
        self.unread -= size
        if was_short and self.life is Life.OPEN:
            self._ack_is_due = True

    def send_message(self, data: bytes) -> None:
        """Send `data` as one packet that may be lost, or come in any order.

        Raises LimitExceeded beyond `most_message` bytes.
        """
        if len(data) > self.most_message:
            raise LimitExceeded(
                f"expected a message of at most {self.most_message} bytes, got {len(data)}"
            )
        if self.life is Life.OPEN:
            self._transmit(_MESSAGE, payload=data)

    def destroy(self) -> None:
        """Close at once, and tell the peer."""
        if self.life is Life.OPEN or (self.life is Life.LINGERING and not self.has_ended):
            self._transmit(_DESTROY)
        self._close(None)

    # Sending

    def flush(self, now: float) -> None:
        """Act upon what came, and send what may go now."""
        if not self._is_alive:
            return
        if self._sending.take_acks(now):
            if self.life is Life.OPEN:
                self._host.acknowledged()
            else:
                self._linger_on(now)
        if self.life is Life.OPEN and self._incoming.has_ended and self.has_ended:
            self._linger(now)
        self._send(self._sending.flush(now), now)
        if self._ack_is_due:
            self._ack_is_due = False
            self._transmit(0, sacks=self._sacks())

    def _send(self, packets: Sequence[SentPacket], now: float) -> None:
        if not packets:
            return
        transmit, is_too_large = self._host.transmit, self._sending.is_too_large
        window, ack = self.window, self._incoming.expected
        for packet in packets:
            sent = Packet(packet.type, self.remote_id, window, packet.seq, ack, (), packet.payload)
            datagram = encode_packet(sent, padding_of(packet))
            if is_too_large(packet):
                self._host.transmit_in_pieces(datagram)
            else:
                transmit(datagram)
        if not self._incoming.has_early:
            self._ack_is_due = False
        self._touch(now)

    def _sacks(self) -> Sequence[Range]:
        """Return the ranges to say: never more bytes to a stranger than came from it."""
        sacks = self._incoming.sacks
        if not self._sending.is_validated:
            self._heard -= HEADER_SIZE
            sacks = sacks[: max(self._heard, 0) // RANGE_SIZE]
            self._heard -= len(sacks) * RANGE_SIZE
        return sacks

    def _transmit(self, type: int, *, sacks: Iterable[Range] = (), payload: bytes = b"") -> None:
        """Send a packet that is not sent again."""
        packet = Packet(
            type,
            self.remote_id,
            self.window,
            self._sending.recovery.next_seq,
            self._incoming.expected,
            list(sacks),
            payload,
        )
        self._host.transmit(encode_packet(packet))

    # Receiving

    def receive(self, packet: Packet, now: float, *, is_current: bool = True) -> None:
        """A packet of the peer came; by the path on which we send to it, if `is_current`."""
        life = self.life
        type = packet.type
        if life is Life.LINGERING and self._is_first_of_another(packet):
            self._enter(Life.CLOSED)
            return
        if life is Life.CLOSED or life is Life.CREATED:
            return
        ack = self._sending.ack_of(packet)
        if ack is None:
            return
        self._sending.heard()
        self._heard += HEADER_SIZE + len(packet.payload)
        if type & _HEARTBEAT:
            self._ack_is_due = True
            return
        incoming = self._incoming
        seq = unwrap(packet.seq, incoming.expected)
        if type & _DESTROY:
            if incoming.expected <= seq <= incoming.expected + FARTHEST:
                self._close(StreamClosed("the peer destroyed the stream"))
            return
        if type & (_DATA | _END):
            self._ack_is_due = True
            if life is Life.LINGERING:
                self._linger_on(now)
            had_ended = incoming.has_ended
            incoming.add(type, seq, packet.payload, self._window - self.unread)
            if incoming.has_ended and not had_ended:
                self._host.eof_received()
        if type & _MESSAGE and life is Life.OPEN:
            self._host.message_received(bytes(packet.payload))
        self._sending.hear(packet, ack, is_current=is_current)

    def _is_first_of_another(self, packet: Packet) -> bool:
        is_first = packet.type & (_DATA | _END) and packet.seq == packet.ack == 0
        return bool(is_first) and self.recovery.acked > 0

    # Time

    def on_timer(self, now: float) -> None:
        """The clock may have reached `deadline`; a `flush` is due afterwards."""
        if self.life is Life.LINGERING and now >= self._linger_until:
            self._enter(Life.CLOSED)
        if not self._is_alive:
            return
        due, packets = self._sending.on_timer(now)
        if due is Due.END or self._sending.is_unanswered:
            self._give_up()
            return
        is_alone = self._sending.is_all_out and self._incoming.has_ended
        if is_alone and self.recovery.timeouts > MAX_LAST_TIMEOUTS and self.life is Life.OPEN:
            self._linger(now)
        self._send(packets, now)
        if self._sending.must_ask(now):
            self._transmit(_HEARTBEAT)
        if now >= self._keep_alive_at:
            self._transmit(_HEARTBEAT)
            self._touch(now)

    def _touch(self, now: float) -> None:
        is_wanted = self._keep_alive > 0 and self.life is Life.OPEN
        self._keep_alive_at = now + self._keep_alive if is_wanted else inf

    # The end

    def _give_up(self) -> None:
        if self.life is Life.LINGERING:
            self.destroy()
        else:
            self._close(StreamClosed("the peer does not answer any more"))

    def _linger(self, now: float) -> None:
        self._enter(Life.LINGERING)
        self._linger_on(now)
        self._forget()
        self._host.closed(None)

    def _linger_on(self, now: float) -> None:
        # Our END still goes out where nobody has acknowledged it: that has an end of its own.
        self._linger_until = now + _LINGER if self.has_ended else inf

    def _close(self, error: Exception | None) -> None:
        was_over = self.life in (Life.LINGERING, Life.CLOSED)
        if self.life is not Life.CLOSED:
            self._enter(Life.CLOSED)
        self._forget()
        if not was_over:
            self._host.closed(error)

    def _forget(self) -> None:
        self._sending.forget()
        self._incoming.clear()
        self._keep_alive_at = inf

    def _enter(self, life: Life) -> None:
        if life not in _NEXT[self.life]:
            raise AssertionError(f"no way from {self.life} to {life}")
        self.life = life
