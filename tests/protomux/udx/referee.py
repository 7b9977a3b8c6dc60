"""Sees what one side of a stream gets, sends and is told, and that it is by the rules.

Knows the wire, the clock and what the stream shows of itself; it keeps its own books of numbers,
windows and silences, so that a mistake in the stream's does not hide itself. Every rule that is
broken is an AssertionError with the time at which it was.

    bytes        the acknowledgements tell what has come, exactly; nothing comes that was not sent
    windows      no new packet beyond what the peer has told of; never more in flight than the
                 congestion window, but for one probe after each acknowledgement
    address      to one that has not answered go the initial window, and one packet a timeout
    MTU          a packet is larger than what was seen to arrive by the step of a probe at most
    replies      a bare acknowledgement answers a packet, or tells that there is room again
    silence      while there is anything to send, or out, a timer runs, and at most as long as
                 RFC 6298 lets it: the timeout, doubled for each that went before in a row
    giving up    only after that ladder has been climbed to its end, without one acknowledgement
"""

from __future__ import annotations

from typing import Final

from protomux.udx.congestion import INITIAL_WINDOW
from protomux.udx.mtu import BASE, MOST, STEP
from protomux.udx.packet import HEADER_SIZE, MAX_SACKS, Packet, Range, Type, decode_packet
from protomux.udx.recovery import LEAST_TIMEOUT, MAX_TIMEOUTS, MOST_TIMEOUT
from protomux.udx.sending import IP_OVERHEAD
from protomux.udx.stream import MAX_LAST_TIMEOUTS, Life, Stream

__all__ = ["ALIVE", "LADDER", "LAST_LADDER", "Referee", "runs"]

LADDER: Final = sum(min(LEAST_TIMEOUT * 2**n, MOST_TIMEOUT) for n in range(MAX_TIMEOUTS + 1))
"""Seconds without an acknowledgement before a peer may be given up."""

LAST_LADDER: Final = sum(LEAST_TIMEOUT * 2**n for n in range(MAX_LAST_TIMEOUTS + 1))
"""And where it has ended, and all of ours is out."""

ALIVE: Final = Life.OPEN, Life.LINGERING
"""When a stream sends and answers."""

_LONGEST: Final = (MAX_TIMEOUTS + 2) * MOST_TIMEOUT
"""And those after which it must be."""

_ROUNDING: Final = 1e-6

_SILENT: Final = Type.SACK
"""What a packet may say that has no number of its own and asks for nothing."""


def runs(numbers: set[int]) -> list[Range]:
    """Return the numbers as ranges, in order."""
    found: list[Range] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number:
            found[-1] = found[-1][0], number + 1
        else:
            found.append((number, number + 1))
    return found


class _Sent:
    """One number that we have sent.

    Attributes:
        end: bytes of the stream up to its end.
        times: how often it went out.
        first_at: when it did first.
        largest: bytes of its largest IP packet to the peer's present address; 0 for none.
    """

    __slots__ = ("end", "first_at", "is_acked", "largest", "times")

    def __init__(self, end: int, now: float) -> None:
        self.end = end
        self.first_at = now
        self.times = 0
        self.largest = 0
        self.is_acked = False


class Referee:
    """Of one side; the `windows` are what it has room for at first, and what its peer has."""

    def __init__(self, stream: Stream, windows: tuple[int, int], now: float) -> None:
        self._stream = stream
        self._window, self._edge = windows
        self._overhead = IP_OVERHEAD[4]
        # what we send
        self._sent: list[_Sent] = []
        self._acked = 0  # all before it are
        self._out = 0  # packets that are not
        self._end_seq: int | None = None
        self._may_probe = True
        self._proven = BASE
        self._has_answered = False
        self._to_address = 0  # packets that take a number, since it is the peer's
        self._wakes = 0
        self._replies = 0
        # what we get
        self._expected = 0
        self._early: set[int] = set()
        self._last: int | None = None  # the number of the peer's END
        self._got = 0
        self._is_destroyed = False
        self._held = 0  # bytes that were handed on and not read
        self._passed = 0  # bytes that were handed on
        # silence
        self._news_at = now  # or since when anything is out
        self._stirred_at = now
        self._unanswered = 0
        self._heard_at = now
        self._asked = 0  # heartbeats since then
        self._asks_again = now  # at the latest
        self._slowest = 0.0
        self._base = LEAST_TIMEOUT

    @property
    def told(self) -> int:
        """Bytes of the peer's stream up to which there is room here."""
        return self._passed - self._held + self._window

    @property
    def ended(self) -> bool:
        """All that is ours is acknowledged, with our END."""
        return self._end_seq is not None and self._acked > self._end_seq

    def _check(self, holds: bool, rule: str, now: float) -> None:
        assert holds, f"{rule}, at {now:.6f} s: {self._stream!r}"

    # What happens to the stream

    def writes(self, now: float) -> None:
        """There is something to send."""
        if not self._out and not self._stream.waiting:
            self._stirred_at = self._heard_at = now

    def destroys(self) -> None:
        self._is_destroyed = True

    def reads(self, size: int) -> None:
        self._held -= size
        self._replies += 1

    def hands_on(self, size: int, *, is_kept: bool) -> None:
        self._passed += size
        if is_kept:
            self._held += size

    def moves(self, now: float, ip_version: int) -> None:
        self._overhead = IP_OVERHEAD[ip_version]
        self._proven = BASE
        self._has_answered = False
        self._to_address = 0
        self._wakes = 0
        for each in self._sent[self._acked :]:
            each.largest = 0

    def wakes(self, now: float) -> None:
        """A timer is due."""
        if self._stream.recovery.deadline <= now:
            self._wakes += 1
            self._unanswered += self._out > 0

    def gets(self, packet: Packet, told: int, is_from_home: bool, now: float) -> None:
        """`packet` is about to be received; its sender told of room for `told` bytes."""
        stream = self._stream
        self._replies += 1
        if stream.life not in ALIVE:
            return
        self._edge = max(self._edge, told)
        self._heard_at = now
        self._asked = 0
        if packet.type & Type.DESTROY:
            self._is_destroyed = True
        if packet.type & Type.HEARTBEAT:
            return
        if packet.type & (Type.DATA | Type.END):
            self._take(packet, now)
        self._take_acks(packet, is_from_home, now)

    def _take(self, packet: Packet, now: float) -> None:
        seq = packet.seq
        if seq < self._expected or seq in self._early:
            return
        self._check(len(packet.payload) <= self._stream.window, "a packet we have no room for", now)
        self._early.add(seq)
        if packet.type & Type.END:
            self._last = seq
        self._got += len(packet.payload)
        while self._expected in self._early:
            self._early.remove(self._expected)
            self._expected += 1

    def _take_acks(self, packet: Packet, is_from_home: bool, now: float) -> None:
        is_news = False
        # A range that begins below is old; what it says has come in another way, or comes again.
        above = max(self._acked, packet.ack)
        ranges = [each for each in packet.sacks if each[0] >= above]
        for start, end in [(self._acked, packet.ack), *ranges]:
            for seq in range(start, end):
                sent = self._sent[seq]
                if sent.is_acked:
                    continue
                is_news = sent.is_acked = True
                self._out -= 1
                self._proven = max(self._proven, sent.largest)
                if sent.times == 1:
                    self._slowest = max(self._slowest, now - sent.first_at)
        self._acked = max(self._acked, packet.ack)
        if is_news:
            self._has_answered = self._has_answered or is_from_home
            self._may_probe = True
            self._news_at = self._stirred_at = now
            self._unanswered = 0
            # A smoothed round trip and its variation are at most the longest that there was.
            self._base = min(max(LEAST_TIMEOUT, 5 * self._slowest), MOST_TIMEOUT)

    # What it does

    def sends(self, datagram: bytes, in_pieces: bool, now: float) -> int:
        """`datagram` goes out; return how many bytes the peer may believe we have room for."""
        packet = decode_packet(datagram)
        assert packet is not None
        self._check(packet.ack == self._expected, "an acknowledgement that is not true", now)
        if packet.type & ~_SILENT == 0:
            self._replies -= 1
            self._check(self._replies >= 0, "an acknowledgement that nobody asked for", now)
            early = runs(self._early)[:MAX_SACKS]
            said = len(early) if self._has_answered else len(packet.sacks)
            self._check(list(packet.sacks) == early[:said], "ranges that are not true", now)
        if packet.type & Type.HEARTBEAT:
            self._wakes += 1  # as a timeout, it may be followed by one packet to a stranger
            self._stirred_at = now
            self._asked += 1
            # One of them may be a sign of life: the timer for the next may be that of one before.
            wait = min(self._base * 2**self._asked, MOST_TIMEOUT)
            self._asks_again = max(self._asks_again, now + wait)
        is_numbered = packet.type & (Type.DATA | Type.END) != 0
        size = len(datagram) + self._overhead
        is_probe = is_numbered and len(datagram) > HEADER_SIZE + len(packet.payload)
        most = min(self._proven + STEP, MOST) if is_probe else self._proven
        is_fit = not is_probe if in_pieces else size <= most
        self._check(is_fit, f"{size} bytes where {self._proven} were seen to arrive", now)
        if is_numbered:
            self._check(packet.type & ~3 == 0, f"a type {packet.type}", now)
            self._send(packet, size, in_pieces, now)
        return self.told

    def _send(self, packet: Packet, size: int, in_pieces: bool, now: float) -> None:
        seq, stream = packet.seq, self._stream
        if seq == len(self._sent):
            begin = self._sent[-1].end if self._sent else 0
            end = begin + len(packet.payload)
            self._check(self._end_seq is None, "a packet behind the END", now)
            self._check(end <= self._edge, "a packet beyond the peer's window", now)
            self._sent.append(_Sent(end, now))
            if packet.type & Type.END:
                self._end_seq = seq
            if not self._out:
                self._news_at = now
            self._out += 1
        self._check(seq < len(self._sent), "a number that was left out", now)
        sent = self._sent[seq]
        self._check(not sent.is_acked, "a packet that was acknowledged", now)
        sent.times += 1
        in_flight = len(stream.recovery.in_flight)
        if in_flight > stream.congestion.window:
            self._check(self._may_probe, f"{in_flight} beyond the congestion window", now)
            self._may_probe = False
        self._to_address += 1
        if not self._has_answered:
            most = INITIAL_WINDOW + self._wakes
            self._check(self._to_address <= most, "too much to who has not answered", now)
        # A number stands for its bytes for good: they cannot be cut anew for another path.
        self._check(sent.times > 1 or not in_pieces, "a new packet in pieces", now)
        if not in_pieces:
            sent.largest = max(sent.largest, size)
        self._stirred_at = now

    def settles(self, now: float) -> None:
        """All is sent that may be."""
        stream = self._stream
        if stream.life not in ALIVE:
            return
        self._check(stream.window == max(self._room, 0), "a window that is not true", now)
        if not self._out and not stream.waiting:
            self._stirred_at = now
            return
        if self._out:
            wait = min(self._base * 2**self._unanswered, MOST_TIMEOUT)
            self._check(now - self._news_at <= _LONGEST, "a peer that is not given up", now)
        else:
            # It is asked for its window, and more seldom while it does not answer.
            wait = max(2 * self._base, self._asks_again - self._stirred_at)
            self._check(now - self._heard_at <= _LONGEST, "a peer that is not given up", now)
        most = self._stirred_at + wait + _ROUNDING
        self._check(stream.deadline <= most, f"a timer of {stream.deadline} after {most}", now)

    @property
    def _room(self) -> int:
        """Bytes that there is room for beyond those that have come."""
        return self._window - self._held - (self._got - self._passed)

    def closes(self, error: Exception | None, now: float) -> None:
        """The stream is over, and nobody here has asked for it."""
        if self._is_destroyed:
            return
        has_all = self._last is not None and self._expected > self._last
        if error is None and self.ended and has_all:
            return
        silence = now - (self._news_at if self._out else self._heard_at)
        if error is None:
            is_last = has_all and self._end_seq is not None
            self._check(is_last and silence >= LAST_LADDER - _ROUNDING, "an end too good", now)
        else:
            is_waiting = self._out > 0 or self._asked > MAX_TIMEOUTS
            self._check(is_waiting and silence >= LADDER - _ROUNDING, "given up early", now)
