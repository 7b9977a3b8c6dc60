"""A stream of bytes over packets that may get lost: what both sides do, and when.

Knows packets and a clock that is handed in, no socket: packets come in by `receive`, the time by
`on_timer`, and datagrams go out by the host's `transmit`. `flush` sends what may go; whoever calls
anything else here calls it afterwards, once for all that happened at a time.

There is no handshake: both sides know each other's stream id and address before. Each numbers its
packets of data from 0. A stream ends by halves: an END is a packet as those of data are, and a half
is over when its END and all before it was acknowledged (ours) or taken (the peer's).

    state      event                                              next
    CREATED    connect                                            OPEN
    OPEN       both halves are over                               LINGERING    closed(None)
    OPEN       DESTROY comes, or a packet timed out too often     CLOSED       closed(error)
    any        destroy                                            CLOSED       closed(None)
    LINGERING  a while without a packet                           CLOSED

While LINGERING the stream is over for the application, and answers what the peer sends again: the
acknowledgement of its END may have been lost. libudx does not do that, so a peer that has ended,
and does not acknowledge our END any more, has closed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from enum import Enum, auto
from math import inf
from typing import Final, Protocol

from protomux.errors import StreamClosed
from protomux.udx.congestion import INITIAL_WINDOW, Bbr, Delivery
from protomux.udx.mtu import PathMtu
from protomux.udx.pacer import Pacer
from protomux.udx.packet import (
    HEADER_SIZE,
    MAX_SACKS,
    Packet,
    Type,
    encode_packet,
    unwrap,
)
from protomux.udx.ranges import Ranges
from protomux.udx.recovery import MOST_TIMEOUT, Acked, Due, Recovery, SentPacket

__all__ = ["Host", "Life", "Stream"]

WINDOW: Final = 4 * 1024 * 1024
"""Bytes that the peer may send before we have taken them; as in libudx."""

MAX_EARLY: Final = 65_536
"""Packets beyond the next that are kept at most; as far as libudx looks for them."""

IP_OVERHEAD: Final = {4: 20 + 8, 6: 40 + 8}
"""Bytes of the IP and the UDP header, by the version of IP."""

_LINGER: Final = MOST_TIMEOUT
"""Seconds without a packet for which a stream that is over answers its peer: who has not got an
acknowledgement asks again before that."""

# To ask an enum for its member takes Python 3.11 as long as a call.
_DATA, _END, _MESSAGE, _DESTROY, _HEARTBEAT = (
    int(type) for type in (Type.DATA, Type.END, Type.MESSAGE, Type.DESTROY, Type.HEARTBEAT)
)


class Host(Protocol):
    """Who carries the datagrams of a stream, and takes what comes of it."""

    def transmit(self, datagram: bytes) -> None:
        """Send it to the peer."""
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
        recovery: what is out.
        congestion: how much may be.
        mtu: how large a datagram may be.
        peer_window: bytes that the peer has room for beyond what it has acknowledged.
        unread: bytes that were handed on and wait for the application, to be set by the host; they
            make the window smaller that the peer is told.
    """

    __slots__ = (
        "_ack_is_due",
        "_delivery",
        "_early",
        "_early_ranges",
        "_early_size",
        "_end_is_queued",
        "_end_seq",
        "_expected",
        "_has_ended",
        "_host",
        "_is_validated",
        "_keep_alive",
        "_keep_alive_at",
        "_linger_until",
        "_out_size",
        "_overhead",
        "_pacer",
        "_peer_ack",
        "_peer_has_ended",
        "_peer_seq",
        "_probe_window_at",
        "_queue",
        "_queue_offset",
        "_queue_size",
        "_window",
        "congestion",
        "id",
        "life",
        "mtu",
        "peer_window",
        "recovery",
        "remote_id",
        "unread",
    )

    def __init__(self, id: int, host: Host, now: float, *, window: int = WINDOW) -> None:
        self.id: Final = id
        self.remote_id = 0
        self.life = Life.CREATED
        self.recovery: Final = Recovery()
        self._delivery = Delivery()
        self.congestion: Final = Bbr(self._delivery, now)
        self.mtu = PathMtu()
        self.unread = 0
        self._pacer = Pacer(now)
        self._host = host
        self._overhead = IP_OVERHEAD[4]
        # what is sent
        self._queue: deque[bytes] = deque()
        self._queue_offset = 0  # bytes of its first that are sent
        self._queue_size = 0
        self._out_size = 0  # bytes that are sent and not acknowledged
        self._end_is_queued = False
        self._end_seq: int | None = None
        self._has_ended = False
        self._is_validated = False  # the peer has acknowledged anything
        # what the peer says of its window
        self.peer_window = WINDOW
        self._peer_seq = 0
        self._peer_ack = 0
        self._probe_window_at = inf
        # what comes
        self._window = window
        self._expected = 0
        self._early: dict[int, tuple[int, bytes]] = {}
        self._early_ranges = Ranges()
        self._early_size = 0
        self._peer_has_ended = False
        self._ack_is_due = False
        # time
        self._keep_alive = 0.0
        self._keep_alive_at = inf
        self._linger_until = inf

    def __repr__(self) -> str:
        return f"<udx.Stream {self.id} to {self.remote_id} {self.life.name.lower()}>"

    @property
    def waiting(self) -> int:
        """Bytes that are not sent, or not acknowledged."""
        return self._queue_size + self._out_size

    @property
    def window(self) -> int:
        """Bytes that the peer may have out, as it is told."""
        return max(self._window - self.unread - self._early_size, 0)

    @property
    def deadline(self) -> float:
        """When `on_timer` is to be called; inf for never."""
        if self.life is not Life.OPEN:
            return self._linger_until if self.life is Life.LINGERING else inf
        at = min(self.recovery.deadline, self._probe_window_at, self._keep_alive_at)
        if not self._pacer.may_send and (self._may_send_new or self._next_lost is not None):
            at = min(at, self._pacer.next_at)
        return at

    # What the application does

    def connect(self, remote_id: int, now: float, *, ip_version: int = 4) -> None:
        """The peer's number of the stream is `remote_id`."""
        self._enter(Life.OPEN)
        self.remote_id = remote_id
        self._overhead = IP_OVERHEAD[ip_version]
        self._touch(now)

    def change_remote(self, remote_id: int, now: float, *, ip_version: int = 4) -> None:
        """The peer is reached by another path from now on, perhaps under another number."""
        self.remote_id = remote_id
        self._overhead = IP_OVERHEAD[ip_version]
        self.mtu = PathMtu()
        self._is_validated = False
        self._touch(now)

    def set_keep_alive(self, seconds: float, now: float) -> None:
        """Ask the peer for a sign of life after so long a silence of ours; 0 turns it off."""
        self._keep_alive = seconds
        self._touch(now)

    def write(self, data: bytes) -> None:
        """Send `data`, behind all that was written before. Raises StreamClosed after `end`."""
        if self._end_is_queued or self.life not in (Life.CREATED, Life.OPEN):
            raise StreamClosed("expected a stream that is not ended to write to")
        if data:
            self._queue.append(data)
            self._queue_size += len(data)

    def end(self) -> None:
        """End our half, behind all that was written."""
        self._end_is_queued = True

    def taken(self, size: int) -> None:
        """The application has taken so many bytes of `unread`: tell the peer, if it was in need."""
        was_short = self.window < self._window // 2
        self.unread -= size
        if was_short and self.life is Life.OPEN:
            self._ack_is_due = True

    def send_message(self, data: bytes) -> None:
        """Send `data` as one packet that may be lost, or come in any order."""
        if self.life is Life.OPEN:
            self._transmit(_MESSAGE, payload=data)

    def destroy(self) -> None:
        """Close at once, and tell the peer."""
        if self.life is Life.OPEN:
            self._transmit(_DESTROY)
        self._close(None)

    # Sending

    def flush(self, now: float) -> None:
        """Send what may go now."""
        if self.life is Life.OPEN:
            recovery = self.recovery
            self._pacer.fill(self.congestion.pacing_rate, now)
            while self._pacer.may_send and (packet := self._next_lost) is not None:
                self._send(packet, now)
            while self._pacer.may_send and self._may_send_new:
                new = self._next_packet()
                if new is None:
                    break
                self._send(new, now)
            if not self._has_more and not recovery.lost:
                in_flight = len(recovery.in_flight)
                if in_flight < self.congestion.window:
                    self._delivery.limited(in_flight)
            self._watch_window(now)
        if self._ack_is_due and self.life in (Life.OPEN, Life.LINGERING):
            self._send_ack()

    @property
    def _has_more(self) -> bool:
        return self._queue_size > 0 or (self._end_is_queued and self._end_seq is None)

    @property
    def _next_lost(self) -> SentPacket | None:
        """The packet to send again next, if the windows let it go."""
        recovery = self.recovery
        if not recovery.lost or len(recovery.in_flight) >= self.congestion.window:
            return None
        packet = next(iter(recovery.lost.values()))
        # Who has never answered gets one packet a timeout.
        return packet if self._is_validated or packet.seq == recovery.acked else None

    @property
    def _may_send_new(self) -> bool:
        recovery = self.recovery
        in_flight = len(recovery.in_flight)
        if not self._is_validated and in_flight + len(recovery.lost) >= INITIAL_WINDOW:
            return False
        return self._has_more and in_flight < self.congestion.window

    @property
    def _most_payload(self) -> int:
        return self.mtu.size - self._overhead - HEADER_SIZE

    def _next_packet(self) -> SentPacket | None:
        """Make the next packet; None where the peer has no room for it."""
        size = min(self._queue_size, self._most_payload)
        room = self.peer_window - self._out_size
        if room < size:
            if self._out_size or room <= 0:
                return None
            size = room  # nothing is out that could make more room
        payload = self._cut(size)
        type = _DATA if payload else 0
        seq = self.recovery.next_seq
        if self._end_is_queued and not self._queue_size:
            type |= _END
            self._end_seq = seq
        padding = 0
        wanted = self.mtu.wanted
        if wanted is not None and size == self._most_payload:
            padding = wanted - self.mtu.size
            self.mtu.sent()
        self._out_size += size
        size += HEADER_SIZE + padding
        return SentPacket(seq, type, payload, size, is_probe=padding > 0)

    def _cut(self, size: int) -> bytes:
        """Take the next `size` bytes out of the queue."""
        queue = self._queue
        self._queue_size -= size
        parts: list[bytes | memoryview] = []
        while size:
            data = queue[0]
            begin = self._queue_offset
            end = min(begin + size, len(data))
            parts.append(memoryview(data)[begin:end])
            size -= end - begin
            if end == len(data):
                queue.popleft()
                end = 0
            self._queue_offset = end
        return b"".join(parts)

    def _send(self, packet: SentPacket, now: float) -> None:
        recovery = self.recovery
        is_start = not recovery.in_flight
        self._delivery.sent(packet, is_first=recovery.is_empty, now=now)
        recovery.sent(packet, now)
        padding = packet.size - HEADER_SIZE - len(packet.payload)
        self._transmit(packet.type, seq=packet.seq, payload=packet.payload, padding=padding)
        self._pacer.spend()
        if is_start:
            self.congestion.on_transmit_start(now)
        if not self._early:
            self._ack_is_due = False
        self._touch(now)

    def _send_ack(self) -> None:
        self._ack_is_due = False
        self._transmit(0, sacks=self._early_ranges.first(MAX_SACKS))

    def _transmit(
        self,
        type: int,
        *,
        seq: int | None = None,
        sacks: list[tuple[int, int]] | None = None,
        payload: bytes = b"",
        padding: int = 0,
    ) -> None:
        if seq is None:
            seq = self.recovery.next_seq
        packet = Packet(
            type,
            self.remote_id,
            min(self.window, 2**32 - 1),
            seq,
            self._expected,
            sacks or (),
            payload,
        )
        self._host.transmit(encode_packet(packet, padding))

    def _watch_window(self, now: float) -> None:
        """Ask the peer now and then whether it has room, where nothing is out that would tell."""
        is_stuck = self._has_more and not self._out_size and self.peer_window <= 0
        if not is_stuck:
            self._probe_window_at = inf
        elif self._probe_window_at == inf:
            self._probe_window_at = now + self.recovery.round_trip.timeout

    # Receiving

    def receive(self, packet: Packet, now: float) -> None:
        """A packet of the peer came."""
        if self.life is Life.CLOSED or self.life is Life.CREATED:
            return
        if self.life is Life.LINGERING:
            self._linger_until = now + _LINGER
        type = packet.type
        if type & _HEARTBEAT:
            self._ack_is_due = True
            return
        seq = unwrap(packet.seq, self._expected)
        if type & _DESTROY:
            if self._expected <= seq <= self._expected + MAX_EARLY:
                self._close(StreamClosed("the peer destroyed the stream"))
            return
        if type & (_DATA | _END):
            self._ack_is_due = True
            if self.life is Life.LINGERING:
                return
            self._take(type, seq, packet.payload)
        if type & _MESSAGE and self.life is Life.OPEN:
            self._host.message_received(bytes(packet.payload))
        if self.life is Life.OPEN:
            self._take_ack(packet, seq, now)
        if self.life is Life.OPEN and self._has_ended and self._peer_has_ended:
            self._linger(now)

    def _take(self, type: int, seq: int, payload: bytes | memoryview) -> None:
        """Packet `seq` came: hand it on in its turn."""
        if self._peer_has_ended or seq < self._expected or seq in self._early:
            return
        if len(payload) > self.window:  # the peer was told that there is no room
            return
        if seq == self._expected:
            self._hand_on(type, bytes(payload))
            while self.life is Life.OPEN and self._expected in self._early:
                type, data = self._early.pop(self._expected)
                self._early_size -= len(data)
                self._hand_on(type, data)
            self._early_ranges.drop_below(self._expected)
        elif seq - self._expected < MAX_EARLY:
            self._early[seq] = type, bytes(payload)
            self._early_size += len(payload)
            self._early_ranges.add(seq)

    def _hand_on(self, type: int, data: bytes) -> None:
        self._expected += 1
        if type & _DATA and data:
            self._host.data_received(data)
        if type & _END and self.life is Life.OPEN:
            self._peer_has_ended = True
            self._early.clear()
            self._early_size = 0
            self._early_ranges = Ranges()
            self._host.eof_received()

    def _take_ack(self, packet: Packet, seq: int, now: float) -> None:
        recovery = self.recovery
        ack = unwrap(packet.ack, recovery.acked)
        if ack > recovery.next_seq:
            return
        if ack >= recovery.acked and (seq, ack) >= (self._peer_seq, self._peer_ack):
            self.peer_window, self._peer_seq, self._peer_ack = packet.window, seq, ack
        was_empty = recovery.is_empty
        ranges = [(unwrap(start, ack), unwrap(end, ack)) for start, end in packet.sacks]
        acked = recovery.on_ack(ack, ranges, now)
        if was_empty:
            return
        lost = []
        if acked.packets:
            self._is_validated = True
            self._count_acked(acked)
            lost = recovery.find_lost(now)
            self._unprobe(lost)
        if self._end_seq is not None and recovery.acked > self._end_seq:
            self._has_ended = True
        sample = self._delivery.acked(
            acked.packets,
            lost=len(lost),
            trip=acked.sample,
            least=recovery.round_trip.least or 0.0,
            now=now,
        )
        self.congestion.on_ack(
            sample,
            in_flight=len(recovery.in_flight),
            state=recovery.state,
            smoothed=recovery.round_trip.smoothed,
            now=now,
        )
        if acked.packets:
            self._host.acknowledged()

    def _count_acked(self, acked: Acked) -> None:
        for packet in acked.packets:
            self._out_size -= len(packet.payload)
            if packet.is_probe:
                self.mtu.arrived(packet.size + self._overhead)
            else:
                self.mtu.confirm()

    def _unprobe(self, packets: Iterable[SentPacket]) -> None:
        """What was made longer, and is lost, goes out again as it is."""
        for packet in packets:
            if packet.is_probe:
                self.mtu.lost(packet.size + self._overhead)
                packet.is_probe = False
                packet.size = HEADER_SIZE + len(packet.payload)

    # Time

    def on_timer(self, now: float) -> None:
        """The clock may have reached `deadline`; a `flush` is due afterwards."""
        if self.life is Life.LINGERING and now >= self._linger_until:
            self._enter(Life.CLOSED)
        if self.life is not Life.OPEN:
            return
        recovery = self.recovery
        match recovery.on_timer(now):
            case Due.RETRANSMISSION:
                self._unprobe(recovery.lost.values())
            case Due.PROBE:
                self._probe(now)
            case Due.TIMEOUT:
                self._unprobe(recovery.lost.values())
                self.congestion.on_timeout()
            case Due.END:
                self._give_up()
                return
            case Due.NOTHING:
                pass
        if now >= self._probe_window_at:
            self._probe_window_at = now + 2 * recovery.round_trip.timeout
            self._transmit(_HEARTBEAT)
        if now >= self._keep_alive_at:
            self._transmit(_HEARTBEAT)
            self._touch(now)

    def _probe(self, now: float) -> None:
        """Send one packet, so that its acknowledgement shows what is missing."""
        packet = self._next_packet() if self._has_more else None
        if packet is None:
            packet = self.recovery.last
        if packet is not None:
            self._send(packet, now)
            self.recovery.probed(packet)

    def _touch(self, now: float) -> None:
        is_wanted = self._keep_alive > 0 and self.life is Life.OPEN
        self._keep_alive_at = now + self._keep_alive if is_wanted else inf

    # The end

    def _give_up(self) -> None:
        only_end_is_out = self._end_seq is not None and self.recovery.acked >= self._end_seq
        if only_end_is_out and self._peer_has_ended:
            self._close(None)  # the acknowledgement of our END was lost, and the peer is gone
        else:
            self._close(StreamClosed("the peer does not answer any more"))

    def _linger(self, now: float) -> None:
        self._enter(Life.LINGERING)
        self._linger_until = now + _LINGER
        self._forget()
        self._host.closed(None)

    def _close(self, error: Exception | None) -> None:
        was_over = self.life in (Life.LINGERING, Life.CLOSED)
        if self.life is not Life.CLOSED:
            self._enter(Life.CLOSED)
        self._forget()
        if not was_over:
            self._host.closed(error)

    def _forget(self) -> None:
        self._queue.clear()
        self._queue_size = self._queue_offset = 0
        self._early.clear()
        self._early_size = 0
        self._keep_alive_at = self._probe_window_at = inf

    def _enter(self, life: Life) -> None:
        if life not in _NEXT[self.life]:
            raise AssertionError(f"no way from {self.life} to {life}")
        self.life = life
