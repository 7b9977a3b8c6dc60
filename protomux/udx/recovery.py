"""What was sent and not acknowledged: when it counts as lost, and how long an answer takes.

Knows packets by number and time, no bytes and no socket. All times are seconds of the clock that is
handed in as `now`. Rules, and where they come from:

- The round trip and the retransmission timeout: RFC 6298, with the least timeout of 1 s that it
  recommends, and 30 s as the greatest.
- A packet is lost when one that was sent a reordering window after it has arrived: RACK, RFC 8985
  section 6. The window is a quarter of the least round trip once there was reordering, and none in
  recovery, or after three selective acknowledgements, while there was none. There are no DSACKs in
  UDX; what makes it wider is an answer that comes earlier after a retransmission than any round
  trip takes, so was one to the packet that was sent first.
- When nothing comes back for two round trips, the last packet is sent once more, or a new one, so
  that its acknowledgement shows what is missing: TLP, RFC 8985 section 7.
- When that does not help either, the timeout makes everything lost that was sent a round trip ago,
  RFC 8985 section 6.3, and doubles, RFC 6298 section 5.5. One more after `MAX_TIMEOUTS` in a row,
  without a single acknowledgement in between, is the end of the stream.

Where the state changes is `_enter` alone:

    state      event                                        next
    OPEN       packets are lost by RACK                     RECOVERY
    OPEN       timeout                                      LOSS
    RECOVERY   all that was out at its begin is acked       OPEN
    RECOVERY   timeout                                      LOSS
    LOSS       all that was out at the timeout is acked     OPEN
    LOSS       timeout                                      LOSS
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum, auto
from math import inf
from typing import Final, NamedTuple

from protomux.udx.packet import Range
from protomux.udx.windowed import WindowedMin

__all__ = ["MAX_TIMEOUTS", "Acked", "Due", "Mark", "Recovery", "RoundTrip", "SentPacket", "State"]

MAX_TIMEOUTS: Final = 6
"""Timeouts in a row after which the peer is taken to be gone: some 90 s, which is what RFC 1122
section 4.2.3.5 asks for at least. libudx counts those of one packet, which ends streams that do
get on, if slowly."""

LEAST_TIMEOUT: Final = 1.0
MOST_TIMEOUT: Final = 30.0
"""Seconds of the retransmission timeout."""

_LEAST_WINDOW: Final = 300.0
"""Seconds for which the least round trip counts; as in Linux."""

_OUTLIER: Final = 5.0
"""Seconds above which a round trip may be the sleep of a machine, and is not believed at once."""

_STEPS_KEPT: Final = 16
"""Recoveries for which a wider reordering window is kept: RFC 8985, section 6.2."""

_ACK_DELAY: Final = 0.002
"""Seconds that the peer may wait with an acknowledgement, where one packet alone is out."""


class State(Enum):
    """Of the recovery from loss."""

    OPEN = auto()
    RECOVERY = auto()
    LOSS = auto()


class Due(Enum):
    """What a timer asks for.

    NOTHING; RETRANSMISSION of what is lost now; a PROBE, which is the next new packet or the last
    one again; TIMEOUT: retransmission, and the congestion window shrinks; END: the peer is gone.
    """

    NOTHING = auto()
    RETRANSMISSION = auto()
    PROBE = auto()
    TIMEOUT = auto()
    END = auto()


_NEXT: Final = {
    State.OPEN: {State.RECOVERY, State.LOSS},
    State.RECOVERY: {State.OPEN, State.LOSS},
    State.LOSS: {State.OPEN, State.LOSS},
}


class RoundTrip:
    """How long an answer takes, in seconds.

    Attributes:
        smoothed: SRTT; None before the first sample.
        variation: RTTVAR.
        timeout: RTO, not doubled.
    """

    __slots__ = ("_least", "smoothed", "timeout", "variation")

    def __init__(self) -> None:
        self.smoothed: float | None = None
        self.variation = 0.0
        self.timeout = LEAST_TIMEOUT
        self._least = WindowedMin(_LEAST_WINDOW)

    @property
    def least(self) -> float | None:
        """The least sample of five minutes."""
        return self._least.value

    def add(self, sample: float, now: float) -> None:
        """An answer took `sample` seconds."""
        if self.smoothed is None:
            sample = min(sample, MOST_TIMEOUT)
            self.smoothed, self.variation = sample, sample / 2
        else:
            outlier = self.smoothed + 5 * self.variation
            if sample > max(outlier, _OUTLIER):
                sample = min(outlier, MOST_TIMEOUT)
            self.variation += (abs(self.smoothed - sample) - self.variation) / 4
            self.smoothed += (sample - self.smoothed) / 8
        self._least.add(sample, now)
        wanted = self.smoothed + 4 * self.variation
        self.timeout = min(max(wanted, LEAST_TIMEOUT), MOST_TIMEOUT)


class Mark(NamedTuple):
    """What was measured when a packet was sent.

    Attributes:
        delivered: packets of the stream that were delivered by then.
        delivered_at: when the last of them was.
        first_sent_at: when the packet was sent with which that measurement began.
        is_app_limited: the application, not the path, decided how much went out.
    """

    delivered: int
    delivered_at: float
    first_sent_at: float
    is_app_limited: bool


_NO_MARK: Final = Mark(0, 0.0, 0.0, False)


class SentPacket:
    """A packet that was sent, and may have to be sent again.

    Attributes:
        seq: its number.
        type, payload: what it carries.
        size: its bytes, header and padding included; it changes only while it is lost.
        sent_at: when it was sent last.
        is_retransmitted: it was sent more than once.
        is_lost: it waits to be sent again.
        was_lost: it was taken for lost at some time.
        is_probe: it was made longer to see whether such a one arrives.
        tried: the bytes that it had when it was; 0 if it never was.
        is_early: the answer to it was one to the packet that was sent first.
        mark: what `congestion` had measured when it was sent last.
    """

    __slots__ = (
        "is_early",
        "is_lost",
        "is_probe",
        "is_retransmitted",
        "mark",
        "payload",
        "sent_at",
        "seq",
        "size",
        "tried",
        "type",
        "was_lost",
    )

    def __init__(
        self, seq: int, type: int, payload: bytes, size: int, *, is_probe: bool = False
    ) -> None:
        self.seq: Final = seq
        self.type: Final = type
        self.payload: Final = payload
        self.size = size
        self.is_probe = is_probe
        self.tried = size if is_probe else 0
        self.is_early = False
        self.sent_at = 0.0
        self.is_retransmitted = False
        self.is_lost = self.was_lost = False
        self.mark = _NO_MARK

    def __repr__(self) -> str:
        state = "lost" if self.is_lost else "in flight"
        return f"<SentPacket {self.seq} {self.size} bytes {state}>"


class Acked(NamedTuple):
    """What an acknowledgement said.

    Attributes:
        packets: those that it was the first to acknowledge.
        sample: a round trip in seconds, None where none could be measured.
    """

    packets: Sequence[SentPacket]
    sample: float | None


class Recovery:
    """The packets of one stream that are out.

    Attributes:
        round_trip: how long an answer takes.
        acked: all packets before this number are acknowledged.
        next_seq: the number of the next new packet.
        in_flight: packets that were sent and are not lost, by number, those sent first in front.
        in_flight_size: bytes of them.
        lost: packets to be sent again, in this order.
        state: of the recovery.
        timeouts: how many there were in a row, without an acknowledgement.
    """

    __slots__ = (
        "_fack",
        "_is_reordered",
        "_out",
        "_probe_at",
        "_probe_end",
        "_probe_is_allowed",
        "_probe_is_old",
        "_rack_end",
        "_rack_sent_at",
        "_rack_trip",
        "_recovered_at",
        "_reorder_at",
        "_reorder_steps",
        "_sacked",
        "_said",
        "_steps_left",
        "_timeout_at",
        "acked",
        "in_flight",
        "in_flight_size",
        "lost",
        "next_seq",
        "round_trip",
        "state",
        "timeouts",
    )

    def __init__(self) -> None:
        self.round_trip: Final = RoundTrip()
        self.acked = 0
        self.next_seq = 0
        self.in_flight: dict[int, SentPacket] = {}
        self.in_flight_size = 0
        self.lost: dict[int, SentPacket] = {}
        self.state = State.OPEN
        self._out: dict[int, SentPacket] = {}  # in flight or lost
        self._sacked = 0  # packets beyond `acked` that are acknowledged
        self._said: dict[int, int] = {}  # the ranges of the last acknowledgement
        self._recovered_at = 0  # recovery is over beyond this number
        # RACK: the packet that was sent last of those that have arrived
        self._rack_sent_at = -inf
        self._rack_end = 0
        self._rack_trip = 0.0
        self._fack = 0  # beyond the highest that has arrived
        self._is_reordered = False
        self._reorder_steps = 1
        self._steps_left = 0
        # TLP
        self._probe_end: int | None = None
        self._probe_is_old = False  # it was a retransmission
        self._probe_is_allowed = False  # there was a sample since the last one
        # timers; inf: off
        self._timeout_at = inf
        self._probe_at = inf
        self._reorder_at = inf
        self.timeouts = 0

    @property
    def deadline(self) -> float:
        """When `on_timer` is to be called; inf for never."""
        return min(self._timeout_at, self._probe_at, self._reorder_at)

    @property
    def out(self) -> Iterable[SentPacket]:
        """All packets that are not acknowledged, by number."""
        return self._out.values()

    @property
    def is_empty(self) -> bool:
        """All that was sent is acknowledged."""
        return not self._out

    # Sending

    def sent(self, packets: Sequence[SentPacket], now: float) -> None:
        """These go out: new ones, in the order of their numbers from `next_seq`, or lost ones."""
        out, in_flight = self._out, self.in_flight
        has_new = False
        for packet in packets:
            seq = packet.seq
            packet.sent_at = now
            if seq >= self.next_seq:
                has_new = True
                self.next_seq = seq + 1
                out[seq] = packet
            else:
                packet.is_retransmitted = True
                if packet.is_lost:
                    del self.lost[seq]
                    packet.is_lost = False
                else:  # as a probe
                    del in_flight[seq]
                    self.in_flight_size -= packet.size
            in_flight[seq] = packet
            self.in_flight_size += packet.size
        if self._timeout_at == inf:
            self._timeout_at = now + self._timeout
        if has_new:
            self._schedule_probe(now)

    @property
    def _timeout(self) -> float:
        return min(self.round_trip.timeout * (1 << self.timeouts), MOST_TIMEOUT)

    # Acknowledgements

    def on_ack(self, ack: int, ranges: Iterable[Range], now: float) -> Acked:
        """The peer expects `ack` next, and has `ranges` beyond it.

        What it cannot have is ignored: an ack that is behind, or beyond all that was sent, ranges
        that are empty, out of order, or reach below its ack or beyond what was sent.
        """
        if ack > self.next_seq:
            return Acked((), None)
        packets: list[SentPacket] = []
        is_advance = ack > self.acked
        if is_advance:
            for seq in range(self.acked, ack):
                packet = self._out.pop(seq, None)
                if packet is None:
                    self._sacked -= 1
                else:
                    packets.append(packet)
            self.acked = ack
        said: dict[int, int] = {}
        above = max(ack, self.acked) + 1  # that one it cannot have: it expects it
        for start, end in ranges:
            if above <= start < end <= self.next_seq:
                # Mostly one that was said before, and has become longer.
                fresh = max(start, self._said.get(start, start))
                for packet in self._out_between(fresh, end):
                    del self._out[packet.seq]
                    self._sacked += 1
                    packets.append(packet)
                said[start] = above = end
        self._said = said
        if packets:
            self.timeouts = 0
        sample = self._take_off(packets, now)
        # A retransmission that was the probe may itself have repaired the loss.
        probe_end = self._probe_end
        if probe_end is not None and ack >= probe_end + self._probe_is_old:
            self._probe_end = None
        if self.state is not State.OPEN and self.acked >= self._recovered_at:
            self._enter(State.OPEN)
        self._set_timers(is_advance, bool(packets), now)
        return Acked(packets, sample)

    def _out_between(self, start: int, end: int) -> Sequence[SentPacket]:
        """Return those that are out, in as many steps as there are numbers or packets out."""
        out = self._out
        if end - start > len(out):
            return [packet for seq, packet in out.items() if start <= seq < end]
        return [out[seq] for seq in range(start, end) if seq in out]

    def _take_off(self, packets: Sequence[SentPacket], now: float) -> float | None:
        """These have arrived: see how long that took, and which of them was sent last."""
        sample: float | None = None
        latest: SentPacket | None = None
        fresh: SentPacket | None = None
        least = self.round_trip.least
        is_spurious = False
        for packet in packets:
            seq = packet.seq
            if packet.is_lost:
                del self.lost[seq]
            else:
                del self.in_flight[seq]
                self.in_flight_size -= packet.size
            if packet.was_lost:
                is_early = least is not None and now - packet.sent_at < least
                packet.is_early = is_early or not packet.is_retransmitted
                is_spurious = is_spurious or packet.is_early
            if not packet.is_retransmitted:
                if fresh is None or _is_after(packet, fresh):
                    fresh = packet
                if seq + 1 < self._fack:
                    self._is_reordered = True
            self._fack = max(self._fack, seq + 1)
            if latest is None or _is_after(packet, latest):
                latest = packet
        if is_spurious:
            self._is_reordered = True
            self._reorder_steps += 1
            self._steps_left = _STEPS_KEPT
        if fresh is not None:
            sample = now - fresh.sent_at
            self.round_trip.add(sample, now)
            self._probe_is_allowed = True
        # An answer too early for a retransmission was to the packet that was sent first.
        least = self.round_trip.least
        is_again = latest is not None and latest.is_retransmitted
        if latest is not None and is_again and (least is None or now - latest.sent_at < least):
            latest = fresh
        if latest is not None:
            mark = latest.sent_at, latest.seq + 1
            if mark > (self._rack_sent_at, self._rack_end):
                self._rack_sent_at, self._rack_end = mark
                self._rack_trip = now - latest.sent_at
        return sample

    def _set_timers(self, is_advance: bool, is_news: bool, now: float) -> None:
        if not self._out:
            self._timeout_at = self._probe_at = self._reorder_at = inf
        elif is_news:
            self._timeout_at = now + self._timeout
            if is_advance:
                self._schedule_probe(now)

    # Loss

    @property
    def _reorder_window(self) -> float:
        if not self._is_reordered and (self.state is not State.OPEN or self._sacked >= 3):
            return 0.0
        wide = self._reorder_steps * (self.round_trip.least or 0.0) / 4
        return min(wide, self.round_trip.smoothed or 0.0)

    def find_lost(self, now: float) -> list[SentPacket]:
        """Return what counts as lost now, and is in `lost` from now on."""
        window = self._reorder_window
        found: list[SentPacket] = []
        wait = 0.0
        for packet in self.in_flight.values():
            if (packet.sent_at, packet.seq + 1) >= (self._rack_sent_at, self._rack_end):
                if packet.sent_at > self._rack_sent_at:
                    break
                continue
            left = packet.sent_at + self._rack_trip + window - now
            if left <= 0:
                found.append(packet)
            else:
                wait = max(wait, left)
        self._reorder_at = now + wait if wait > 0 else inf
        self._lose(found)
        if self.state is State.OPEN and any(not packet.is_probe for packet in found):
            self._enter(State.RECOVERY)
        return found

    def _lose(self, packets: Iterable[SentPacket]) -> None:
        for packet in packets:
            packet.is_lost = packet.was_lost = True
            del self.in_flight[packet.seq]
            self.in_flight_size -= packet.size
            self.lost[packet.seq] = packet

    def _enter(self, state: State) -> None:
        if state not in _NEXT[self.state]:
            raise AssertionError(f"no way from {self.state} to {state}")
        if self.state is State.RECOVERY and state is State.OPEN and self._steps_left:
            self._steps_left -= 1
            if not self._steps_left:
                self._reorder_steps = 1
        self.state = state
        if state is not State.OPEN:
            self._recovered_at = self.next_seq
            self._probe_end = None
            self._probe_at = inf

    # Timers

    def on_timer(self, now: float) -> Due:
        """The clock may have reached `deadline`: return what is to be done about it."""
        if self._reorder_at <= now:
            self._reorder_at = inf
            if self.find_lost(now):
                return Due.RETRANSMISSION
        if self._probe_at <= now:
            self._probe_at = inf
            if self._probe_end is None and self._probe_is_allowed:
                return Due.PROBE
        if self._timeout_at <= now:
            return self._time_out(now)
        return Due.NOTHING

    @property
    def last(self) -> SentPacket | None:
        """The packet with the highest number, for a probe; None if it has arrived, or is lost."""
        return self.in_flight.get(self.next_seq - 1)

    def probed(self, packet: SentPacket, now: float) -> None:
        """`packet` was sent as a probe: the timeout waits for its answer."""
        self._timeout_at = now + self._timeout
        self._probe_end = packet.seq + 1
        self._probe_is_old = packet.is_retransmitted
        self._probe_is_allowed = False
        self._probe_at = inf

    def _schedule_probe(self, now: float) -> None:
        self._probe_at = inf
        if self.state is State.OPEN and not self._sacked and self._out:
            smoothed = self.round_trip.smoothed
            wait = 1.0 if smoothed is None else 2 * smoothed
            if len(self._out) == 1:
                wait += _ACK_DELAY
            if now + wait < self._timeout_at:
                self._probe_at = now + wait

    def _time_out(self, now: float) -> Due:
        if self.timeouts >= MAX_TIMEOUTS:
            return Due.END
        window = self._reorder_window
        found = []
        for packet in self._out.values():
            if packet.is_lost:
                continue
            if packet.seq == self.acked or packet.sent_at + self._rack_trip + window <= now:
                found.append(packet)
        self._enter(State.LOSS)
        self._lose(found)
        self.lost = {seq: packet for seq, packet in self._out.items() if packet.is_lost}
        self._reorder_at = inf
        self.timeouts += 1
        self._timeout_at = now + self._timeout
        return Due.TIMEOUT


def _is_after(one: SentPacket, other: SentPacket) -> bool:
    return (one.sent_at, one.seq) > (other.sent_at, other.seq)
