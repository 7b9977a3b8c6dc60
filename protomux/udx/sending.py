"""What one side of a stream sends: which packet goes out when. Knows no bytes of a header.

`congestion` says how many packets may be out, `pacer` how fast they go there, `recovery` which are
to be sent again, `mtu` how large one may be; and the peer how many bytes it has room for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from math import inf
from typing import Final

from protomux.udx.congestion import INITIAL_WINDOW, Bbr, Delivery
from protomux.udx.mtu import PathMtu
from protomux.udx.pacer import Pacer
from protomux.udx.packet import HEADER_SIZE, Packet, Range, Type, unwrap
from protomux.udx.reassembly import FARTHEST
from protomux.udx.recovery import MAX_TIMEOUTS, MOST_TIMEOUT, Due, Recovery, SentPacket

__all__ = ["WINDOW", "Sending", "padding_of"]

IP_OVERHEAD: Final = {4: 20 + 8, 6: 40 + 8}
"""Bytes of the IP and the UDP header, by the version of IP."""

WINDOW: Final = 4 * 1024 * 1024
"""Bytes that each side has room for unless it says otherwise; as in libudx."""

_BLACK_HOLE: Final = 2
"""Timeouts in a row after which the path may have become narrower: RFC 8899, section 4.3."""

_DATA, _END = int(Type.DATA), int(Type.END)


def padding_of(packet: SentPacket) -> int:
    """Return by how many bytes it was made longer, to see whether such a one arrives."""
    return packet.size - HEADER_SIZE - len(packet.payload) if packet.is_probe else 0


class Sending:
    """The sending half of a stream.

    Attributes:
        recovery: what is out.
        congestion: how much may be.
        mtu: how large a datagram may be.
        queued: bytes that are not sent yet.
        has_ended: all that was written, and the END behind it, was acknowledged.
        peer_window: bytes that the peer has room for beyond what it has acknowledged.
    """

    __slots__ = (
        "_allowance",
        "_asked",
        "_delivery",
        "_end_is_queued",
        "_end_seq",
        "_has_heard",
        "_heard_ack",
        "_heard_known",
        "_heard_sacks",
        "_is_answered",
        "_offset",
        "_out_size",
        "_overhead",
        "_pacer",
        "_path_seq",
        "_peer_knew",
        "_probe_window_at",
        "_queue",
        "congestion",
        "has_ended",
        "mtu",
        "peer_window",
        "queued",
        "recovery",
    )

    def __init__(self, now: float) -> None:
        self.recovery: Final = Recovery()
        self._delivery: Final = Delivery()
        self.congestion: Final = Bbr(self._delivery, now)
        self._pacer: Final = Pacer(now)
        self._queue: deque[bytes] = deque()
        self._offset = 0  # bytes of its first that are sent
        self.queued = 0
        self._out_size = 0  # bytes that are sent and not acknowledged
        self._end_is_queued = False
        self._end_seq: int | None = None
        self.has_ended = False
        self.peer_window = WINDOW
        self._peer_knew = -1, 0  # its ack, and how many beyond that, when it last said so
        self._probe_window_at = inf
        # what the peer has acknowledged since it was looked at
        self._has_heard = False
        self._heard_ack = 0
        self._heard_known = -1, 0
        self._heard_sacks: Sequence[Range] = ()
        self._asked = 0  # for the window, since the peer said anything
        self.set_path(4)

    def set_path(self, ip_version: int) -> None:
        """Packets go another way from now on: nothing is known of it."""
        self._overhead = IP_OVERHEAD[ip_version]
        self.mtu = PathMtu()
        self._path_seq = self.recovery.next_seq  # what was sent before says nothing of it
        self._is_answered = False
        self._allowance: float = INITIAL_WINDOW  # packets to an address that has not answered

    @property
    def waiting(self) -> int:
        """Bytes that are not sent, or not acknowledged."""
        return self.queued + self._out_size

    @property
    def is_validated(self) -> bool:
        """The peer has acknowledged something from its address."""
        return self._allowance == inf

    @property
    def is_ending(self) -> bool:
        """`end` was called."""
        return self._end_is_queued

    @property
    def is_all_out(self) -> bool:
        """All that was written was sent, and the END behind it."""
        return self._end_seq is not None

    @property
    def most_payload(self) -> int:
        """Bytes of payload that fit into one packet."""
        return self.mtu.size - self._overhead - HEADER_SIZE

    @property
    def deadline(self) -> float:
        """When `on_timer` or `flush` is to be called; inf for never."""
        at = min(self.recovery.deadline, self._probe_window_at)
        if not self._pacer.packets and self._wants_to_send:
            at = min(at, self._pacer.next_at)
        return at

    def is_too_large(self, packet: SentPacket) -> bool:
        """Tell whether it is larger than the path may be now, and not in order to try that.

        A number is a packet, so it cannot be cut anew when the path has become narrower.
        """
        return packet.size + self._overhead > self.mtu.size and not packet.is_probe

    def write(self, data: bytes) -> None:
        """Send `data`, behind all that was written before."""
        if data:
            self._queue.append(data)
            self.queued += len(data)

    def end(self) -> None:
        """Send the END behind all that was written."""
        self._end_is_queued = True

    # Which packets go out

    @property
    def _has_more(self) -> bool:
        return self.queued > 0 or (self._end_is_queued and self._end_seq is None)

    @property
    def _room(self) -> int:
        """Packets that may go out now, but for the pacer."""
        return int(min(self.congestion.window - len(self.recovery.in_flight), self._allowance))

    @property
    def _wants_to_send(self) -> bool:
        recovery = self.recovery
        if self._room <= 0:
            return False
        if recovery.lost:
            return True
        if recovery.next_seq >= recovery.acked + FARTHEST:
            return False
        return self._has_more and (self.peer_window > self._out_size or not self.queued)

    def flush(self, now: float) -> Sequence[SentPacket]:
        """Return the packets that go out now."""
        recovery, pacer = self.recovery, self._pacer
        pacer.fill(self.congestion.pacing_rate, now)
        packets: list[SentPacket] = []
        room = min(self._room, pacer.packets)
        if room > 0 and recovery.lost:
            for packet in recovery.lost.values():
                packets.append(packet)
                if len(packets) == room:
                    break
        if len(packets) < room and self._has_more:
            self._make_packets(packets, room)
        if packets:
            pacer.spend(len(packets))
            self._sent(packets, now)
        if not self._has_more and not recovery.lost:
            in_flight = len(recovery.in_flight)
            if in_flight < self.congestion.window:
                self._delivery.limited(in_flight)
        self._watch_window(now)
        return packets

    def _sent(self, packets: Sequence[SentPacket], now: float) -> None:
        recovery = self.recovery
        is_start = not recovery.in_flight
        mark = self._delivery.mark(is_first=recovery.is_empty, now=now)
        for packet in packets:
            packet.mark = mark
        recovery.sent(packets, now)
        self._allowance -= len(packets)
        if is_start:
            self.congestion.on_transmit_start(now)

    def _make_packets(self, packets: list[SentPacket], most: int) -> None:
        """Append new ones, until there are `most`, or the peer has no room for the next."""
        seq = self.recovery.next_seq
        # Beyond that the peer would not keep it; and what is out stays bounded whatever it says.
        most = min(most, self.recovery.acked + FARTHEST - seq + len(packets))
        while len(packets) < most and self._has_more:
            full = self.most_payload
            size = min(self.queued, full)
            room = self.peer_window - self._out_size
            if room < size:
                if self._out_size or room <= 0:
                    return
                size = room  # nothing is out that could make more room
            payload = self._cut(size)
            type = _DATA if payload else 0
            if self._end_is_queued and not self.queued:
                type |= _END
                self._end_seq = seq
            wanted = self.mtu.wanted
            is_probe = wanted is not None and size == full
            self._out_size += size
            size += HEADER_SIZE
            if wanted is not None and is_probe:
                size += wanted - self.mtu.size
                self.mtu.sent()
            packets.append(SentPacket(seq, type, payload, size, is_probe=is_probe))
            seq += 1

    def _cut(self, size: int) -> bytes:
        """Take the next `size` bytes out of the queue."""
        queue, offset = self._queue, self._offset
        self.queued -= size
        parts: list[bytes] = []
        while size:
            data = queue[0]
            part = data[offset : offset + size]
            offset += len(part)
            size -= len(part)
            parts.append(part)
            if offset == len(data):
                queue.popleft()
                offset = 0
        self._offset = offset
        return b"".join(parts)

    def _watch_window(self, now: float) -> None:
        """Ask the peer now and then, where nothing is out that would make it tell more.

        Whether it has room, or is at the address of which nothing has come: what was sent there may
        all have been acknowledged from the one before.
        """
        has_no_room = self.queued > 0 and self.peer_window <= 0
        is_stuck = has_no_room or (self._has_more and self._allowance < 1)
        if not is_stuck or not self.recovery.is_empty:
            self._probe_window_at = inf
        elif self._probe_window_at == inf:
            self._probe_window_at = now + self.recovery.round_trip.timeout

    # Acknowledgements

    def ack_of(self, packet: Packet) -> int | None:
        """Return what the packet acknowledges; None if it is of another stream by that.

        Which is what was never sent, from one that had the same numbers; and what is long ago, so
        that a stranger has to guess: RFC 5961, section 5.2.
        """
        recovery = self.recovery
        ack = unwrap(packet.ack, recovery.acked)
        return ack if recovery.acked - FARTHEST <= ack <= recovery.next_seq else None

    def hear(self, packet: Packet, ack: int, *, is_current: bool) -> None:
        """A packet came, by the present path if `is_current`: keep that it acknowledges `ack`.

        What came since the last `take_acks` is taken as one: whoever sends an acknowledgement for
        each packet, as libudx does, says with the last one what it said with those before.
        """
        recovery = self.recovery
        known = self._take_window(packet, ack)
        if recovery.is_empty:
            return
        self._has_heard = True
        if is_current and (ack > recovery.acked or packet.sacks):
            self._is_answered = True
        self._heard_ack = max(self._heard_ack, ack)
        if packet.sacks and known > self._heard_known:
            self._heard_known, self._heard_sacks = known, packet.sacks

    def take_acks(self, now: float) -> bool:
        """Act upon what was heard; True if any packet was acknowledged by it."""
        if not self._has_heard:
            return False
        recovery = self.recovery
        ack, near = self._heard_ack, self._heard_known[0]
        sacks = [(unwrap(start, near), unwrap(end, near)) for start, end in self._heard_sacks]
        is_answered = self._is_answered
        self._forget_heard()
        packets, trip = recovery.on_ack(ack, sacks, now)
        lost: Sequence[SentPacket] = ()
        if packets:
            if is_answered:
                self._allowance = inf
            self._take_off(packets)
            lost = recovery.find_lost(now)
            self._unprobe(lost)
        if self._end_seq is not None and recovery.acked > self._end_seq:
            self.has_ended = True
        sample = self._delivery.acked(
            packets, lost=len(lost), trip=trip, least=recovery.round_trip.least or 0.0, now=now
        )
        self.congestion.on_ack(
            sample,
            in_flight=len(recovery.in_flight),
            state=recovery.state,
            smoothed=recovery.round_trip.smoothed,
            now=now,
        )
        return bool(packets)

    def _forget_heard(self) -> None:
        self._has_heard = self._is_answered = False
        self._heard_ack = 0
        self._heard_known = -1, 0
        self._heard_sacks = ()

    def _take_window(self, packet: Packet, ack: int) -> tuple[int, int]:
        """Believe the packet that knows most of ours to have come: packets overtake each other.

        Of two that know the same, the larger window: an honest one grows by reading alone. Returns
        what it knows: its ack, and how many beyond that.
        """
        beyond = sum(end - start for start, end in packet.sacks) if packet.sacks else 0
        known = ack, beyond
        if known > self._peer_knew:
            self._peer_knew, self.peer_window = known, packet.window
        elif known == self._peer_knew:
            self.peer_window = max(self.peer_window, packet.window)
        return known

    def _take_off(self, packets: Sequence[SentPacket]) -> None:
        size, is_of_path = 0, False
        for packet in packets:
            size += len(packet.payload)
            if packet.seq >= self._path_seq:
                is_of_path = True
                if packet.is_probe or (packet.tried and packet.is_early):
                    self.mtu.arrived(packet.tried + self._overhead)
        self._out_size -= size
        if is_of_path:
            self.mtu.confirm()

    def _unprobe(self, packets: Iterable[SentPacket]) -> None:
        """What was made longer, and is lost, goes out again as it is."""
        for packet in packets:
            if packet.is_probe:
                if packet.seq >= self._path_seq:
                    self.mtu.lost(packet.size + self._overhead)
                packet.is_probe = False
                packet.size = HEADER_SIZE + len(packet.payload)

    # Time

    def on_timer(self, now: float) -> tuple[Due, Sequence[SentPacket]]:
        """The clock may have reached `deadline`: what was due, and packets that go out for it."""
        recovery = self.recovery
        due = recovery.on_timer(now)
        match due:
            case Due.RETRANSMISSION:
                self._unprobe(recovery.lost.values())
            case Due.PROBE:
                return due, self._probe(now)
            case Due.TIMEOUT:
                self._unprobe(recovery.lost.values())
                self.congestion.on_timeout(len(recovery.in_flight))
                if recovery.timeouts >= _BLACK_HOLE:
                    self.mtu = PathMtu()
                self._allowance = max(self._allowance, 1)
        return due, ()

    def must_ask(self, now: float) -> bool:
        """Tell whether the peer is to be asked now; a stranger may get one packet more then."""
        if now < self._probe_window_at:
            return False
        self._asked += 1
        self._allowance = max(self._allowance, 1)
        wait = self.recovery.round_trip.timeout * 2**self._asked
        self._probe_window_at = now + min(wait, MOST_TIMEOUT)
        return True

    def heard(self) -> None:
        """The peer said anything: it is there."""
        self._asked = 0

    @property
    def is_unanswered(self) -> bool:
        """The peer was asked for its window as often as a packet is sent again, and is gone.

        One that answers, if only that it has no room, is waited for: RFC 1122, section 4.2.2.17.
        """
        return self._asked > MAX_TIMEOUTS

    def _probe(self, now: float) -> Sequence[SentPacket]:
        """Send one packet, so that its acknowledgement shows what is missing."""
        packets: list[SentPacket] = []
        if self._allowance < 1:
            return packets
        if self._has_more:
            self._make_packets(packets, 1)
        if not packets and (last := self.recovery.last) is not None:
            packets.append(last)
        if packets:
            self._sent(packets, now)
            self.recovery.probed(packets[0], now)
        return packets

    def forget(self) -> None:
        """The stream is over: nothing more is sent."""
        self._queue.clear()
        self.queued = self._offset = 0
        self._probe_window_at = inf
