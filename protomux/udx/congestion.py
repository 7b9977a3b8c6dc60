"""How much may be out, and how fast it goes out: BBR. Knows acknowledgements, no packet's content.

BBR keeps a model of the path: its bandwidth, the greatest rate of delivery of the last ten round
trips, and its delay, the least round trip of the last ten seconds. It sends at that rate, and has
twice their product out at most, so it fills the path and not the queues in it, and a packet that is
lost by chance does not slow it down. This is the first version, of draft-cardwell-iccrg-bbr-
congestion-control-00 (2017), with the rate of delivery by draft-cheng-iccrg-delivery-rate-
estimation-00, as in Linux and in libudx.

What it comes to (`python -m bench udx`): 0.98 to 1.01 of udx-native's goodput over 10 Mbit/s and
40 ms, with 1 % and 5 % lost as well, over 200 ms, and over 100 Mbit/s and 20 ms. Two streams of
this share either path evenly (Jain's index 1.00), and one beside udx-native's that of 100 Mbit/s
(1.00), but not that of 10 Mbit/s (0.6): below a packet a millisecond libudx does not pace, fills
the queue, and bears to lose half of what it sends.

    state      event                                                    next
    STARTUP    the rate grew by less than a quarter in three rounds     DRAIN
    DRAIN      no more is out than the path holds                       PROBE_BW
    any        no lower round trip for ten seconds                      PROBE_RTT
    PROBE_RTT  little was out for 200 ms and a round trip               PROBE_BW, or STARTUP

Packets are counted, not bytes, times are seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto
from math import inf
from typing import Final, NamedTuple

from protomux.udx.recovery import Mark, SentPacket, State
from protomux.udx.windowed import WindowedMax

__all__ = ["INITIAL_WINDOW", "Bbr", "Delivery", "Phase", "RateSample"]

INITIAL_WINDOW: Final = 10
"""Packets that may be out at first: RFC 6928."""

_LEAST_WINDOW: Final = 4

_HIGH_GAIN: Final = 2.88539
"""2 / ln 2: the least gain that doubles the rate each round."""

_CYCLE: Final = (1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
"""Gains in PROBE_BW, a round trip each: one looks for more, the next drains what that queued."""

_CYCLE_BEGIN: Final = 4
"""Where PROBE_BW begins: with a cruising phase, neither looking for more nor draining."""

_WINDOW_GAIN: Final = 2.0

_MARGIN: Final = 0.99
"""Of the rate, so that queues do not build by a rate that is overestimated a little."""

_RATE_ROUNDS: Final = len(_CYCLE) + 2
_DELAY_SECONDS: Final = 10.0
_PROBE_SECONDS: Final = 0.2

_FULL_GROWTH: Final = 1.25
_FULL_ROUNDS: Final = 3

_BURST_ROUNDS: Final = 5
_BURST_SECONDS: Final = 0.1
"""Acknowledgements that come in bursts let so much more be out, as so long a time delivers."""


class RateSample(NamedTuple):
    """What an acknowledgement says of the rate.

    Attributes:
        delivered: packets that were delivered since the packet it is about was sent.
        interval: seconds that it took; 0 where that cannot be told.
        prior_delivered: of the stream, when that packet was sent.
        is_app_limited: the application had nothing more to send then.
        acked: packets that it acknowledged first.
        lost: packets that were found to be lost by it.
        trip: seconds of the round trip, or None.
    """

    delivered: int
    interval: float
    prior_delivered: int
    is_app_limited: bool
    acked: int
    lost: int
    trip: float | None


class Delivery:
    """Measures how fast packets are delivered.

    Attributes:
        delivered: packets that were delivered in all.
        delivered_at: when the last of them was.
    """

    __slots__ = ("_app_limited_up_to", "_first_sent_at", "delivered", "delivered_at")

    def __init__(self) -> None:
        self.delivered = 0
        self.delivered_at = 0.0
        self._first_sent_at = 0.0
        self._app_limited_up_to = 1  # until more is sent than there was once; 0: not limited

    @property
    def is_app_limited(self) -> bool:
        """The application, not the path, decides how much goes out."""
        return self._app_limited_up_to > 0

    def limited(self, in_flight: int) -> None:
        """The application has no more to send, with so many packets in flight."""
        self._app_limited_up_to = max(self.delivered + in_flight, 1)

    def mark(self, *, is_first: bool, now: float) -> Mark:
        """Return the mark of what goes out now; `is_first`: nothing else is out."""
        if is_first:
            self._first_sent_at = self.delivered_at = now
        return Mark(self.delivered, self.delivered_at, self._first_sent_at, self.is_app_limited)

    def acked(
        self,
        packets: Sequence[SentPacket],
        *,
        lost: int,
        trip: float | None,
        least: float,
        now: float,
    ) -> RateSample:
        """`packets` were acknowledged first now; `least` is the least round trip."""
        latest: SentPacket | None = None
        newest = (-1, 0.0, 0)
        for packet in packets:
            age = packet.mark.delivered, packet.sent_at, packet.seq
            if age > newest:
                latest, newest = packet, age
        self.delivered += len(packets)
        if self._app_limited_up_to and self.delivered > self._app_limited_up_to:
            self._app_limited_up_to = 0
        if latest is None:
            return RateSample(0, 0.0, 0, self.is_app_limited, 0, lost, trip)
        self._first_sent_at = latest.sent_at
        self.delivered_at = now
        # The slower of sending and answering: either may come in a burst.
        mark = latest.mark
        interval = max(latest.sent_at - mark.first_sent_at, now - mark.delivered_at)
        if interval < least:
            interval = 0.0
        return RateSample(
            self.delivered - mark.delivered,
            interval,
            mark.delivered,
            mark.is_app_limited,
            len(packets),
            lost,
            trip,
        )


class Phase(Enum):
    """What BBR is doing."""

    STARTUP = auto()
    DRAIN = auto()
    PROBE_BW = auto()
    PROBE_RTT = auto()


class Bbr:
    """The congestion window and the pacing rate of one stream.

    Attributes:
        window: packets that may be in flight.
        pacing_rate: packets a second.
        phase: what it is doing.
        delay: seconds of the least round trip of late; None before the first.
    """

    __slots__ = (
        "_bandwidth",
        "_burst_acked",
        "_burst_began",
        "_burst_rounds",
        "_bursts",
        "_cycle",
        "_cycle_began",
        "_delay_at",
        "_delivery",
        "_full_bandwidth",
        "_full_rounds",
        "_has_seen_trip",
        "_is_conserving",
        "_is_full",
        "_is_restart",
        "_is_round_start",
        "_next_round",
        "_prior_state",
        "_prior_window",
        "_probe_done_at",
        "_probe_round_is_done",
        "_rounds",
        "delay",
        "pacing_rate",
        "phase",
        "window",
    )

    def __init__(self, delivery: Delivery, now: float) -> None:
        self._delivery = delivery
        self.window = INITIAL_WINDOW
        self.phase = Phase.STARTUP
        self.pacing_rate = _HIGH_GAIN * self.window / 0.001  # as if a round trip took 1 ms
        self._has_seen_trip = False
        # bandwidth, by rounds
        self._bandwidth = WindowedMax(_RATE_ROUNDS)
        self._rounds = 0
        self._next_round = 0
        self._is_round_start = False
        # is the path full?
        self._is_full = False
        self._full_bandwidth = 0.0
        self._full_rounds = 0
        # delay
        self.delay: float | None = None
        self._delay_at = now
        self._probe_done_at: float | None = None
        self._probe_round_is_done = False
        self._is_restart = False
        # the cycle of gains
        self._cycle = 0
        self._cycle_began = 0.0
        # recovery
        self._prior_state = State.OPEN
        self._prior_window = 0
        self._is_conserving = False
        # bursts of acknowledgements
        self._bursts = [0.0, 0.0]
        self._burst_rounds = 0
        self._burst_began = now
        self._burst_acked = 0

    @property
    def bandwidth(self) -> float:
        """Packets a second that the path delivers; 0 before it is known."""
        return self._bandwidth.value or 0.0

    def on_transmit_start(self, now: float) -> None:
        """Something is sent, and nothing was out."""
        if not self._delivery.is_app_limited:
            return
        self._is_restart = True
        self._burst_began, self._burst_acked = now, 0
        if self.phase is Phase.PROBE_BW:
            self._set_pacing(1.0, None)
        elif self.phase is Phase.PROBE_RTT:
            self._end_probe(now)

    def on_timeout(self, in_flight: int) -> None:
        """Retransmission by timeout: whether the path is full is to be seen again.

        One packet goes out at least: RFC 6298, section 5.4.
        """
        self.window = max(self.window, in_flight + 1)
        self._prior_state = State.LOSS
        self._full_bandwidth = 0.0
        self._is_round_start = True

    def on_ack(
        self,
        sample: RateSample,
        *,
        in_flight: int,
        state: State,
        smoothed: float | None,
        now: float,
    ) -> None:
        """An acknowledgement came; `in_flight` packets are still out after it."""
        self._update_bandwidth(sample)
        self._update_bursts(sample)
        if self.phase is Phase.PROBE_BW and self._is_next_in_cycle(sample, in_flight):
            self._advance_cycle()
        self._check_full(sample)
        self._check_drained(in_flight)
        self._update_delay(sample, in_flight, now)
        pacing_gain, window_gain = self._gains
        self._set_pacing(pacing_gain, smoothed)
        self._set_window(sample, window_gain, in_flight, state)

    # The model

    def _update_bandwidth(self, sample: RateSample) -> None:
        self._is_round_start = False
        if sample.interval <= 0 or sample.delivered <= 0:
            return
        if sample.prior_delivered >= self._next_round:
            self._next_round = self._delivery.delivered
            self._rounds += 1
            self._is_round_start = True
            self._is_conserving = False
        rate = sample.delivered / sample.interval
        if not sample.is_app_limited or rate >= self.bandwidth:
            self._bandwidth.add(rate, self._rounds)

    def _update_bursts(self, sample: RateSample) -> None:
        """See how many more were acknowledged in a while than the bandwidth explains."""
        if sample.interval <= 0 or sample.acked <= 0:
            return
        if self._is_round_start:
            self._burst_rounds += 1
            if self._burst_rounds >= _BURST_ROUNDS:
                self._burst_rounds = 0
                self._bursts = [0.0, self._bursts[0]]
        delivered_at = self._delivery.delivered_at
        expected = self.bandwidth * (delivered_at - self._burst_began)
        if self._burst_acked <= expected:
            self._burst_began, self._burst_acked, expected = delivered_at, 0, 0.0
        self._burst_acked += sample.acked
        extra = min(self._burst_acked - expected, float(self.window))
        self._bursts[0] = max(self._bursts[0], extra)

    def _check_full(self, sample: RateSample) -> None:
        if self._is_full or not self._is_round_start or sample.is_app_limited:
            return
        if self.bandwidth >= self._full_bandwidth * _FULL_GROWTH:
            self._full_bandwidth = self.bandwidth
            self._full_rounds = 0
            return
        self._full_rounds += 1
        self._is_full = self._full_rounds >= _FULL_ROUNDS

    def _check_drained(self, in_flight: int) -> None:
        if self.phase is Phase.STARTUP and self._is_full:
            self.phase = Phase.DRAIN
        if self.phase is Phase.DRAIN and in_flight <= self._product(1.0):
            self._begin_cycle()

    def _update_delay(self, sample: RateSample, in_flight: int, now: float) -> None:
        is_old = now > self._delay_at + _DELAY_SECONDS
        trip = sample.trip
        if trip is not None and (self.delay is None or trip < self.delay or is_old):
            self.delay = max(trip, 1e-6)
            self._delay_at = now
        if is_old and not self._is_restart and self.phase is not Phase.PROBE_RTT:
            self.phase = Phase.PROBE_RTT
            self._save_window()
            self._probe_done_at = None
        if self.phase is Phase.PROBE_RTT:
            self._delivery.limited(in_flight)
            if self._probe_done_at is None:
                if in_flight <= _LEAST_WINDOW:
                    self._probe_done_at = now + _PROBE_SECONDS
                    self._probe_round_is_done = False
                    self._next_round = self._delivery.delivered
            else:
                self._probe_round_is_done = self._probe_round_is_done or self._is_round_start
                if self._probe_round_is_done:
                    self._end_probe(now)
        if sample.delivered > 0:
            self._is_restart = False

    def _end_probe(self, now: float) -> None:
        if self._probe_done_at is None or now <= self._probe_done_at:
            return
        self._delay_at = now
        self.window = max(self.window, self._prior_window)
        if self._is_full:
            self._begin_cycle()
        else:
            self.phase = Phase.STARTUP

    # The cycle

    def _begin_cycle(self) -> None:
        self.phase = Phase.PROBE_BW
        self._cycle = _CYCLE_BEGIN
        self._cycle_began = self._delivery.delivered_at

    def _advance_cycle(self) -> None:
        self._cycle = (self._cycle + 1) % len(_CYCLE)
        self._cycle_began = self._delivery.delivered_at

    def _is_next_in_cycle(self, sample: RateSample, in_flight: int) -> bool:
        is_over = self._delivery.delivered_at - self._cycle_began > (self.delay or inf)
        gain = _CYCLE[self._cycle]
        if gain > 1:
            return is_over and (sample.lost > 0 or in_flight > self._product(gain))
        if gain < 1:
            return is_over or in_flight <= self._product(1.0)
        return is_over

    @property
    def _gains(self) -> tuple[float, float]:
        """Of the pacing rate, and of the window."""
        if self.phase is Phase.STARTUP:
            return _HIGH_GAIN, _HIGH_GAIN
        if self.phase is Phase.DRAIN:
            return 1 / _HIGH_GAIN, _HIGH_GAIN
        if self.phase is Phase.PROBE_BW:
            return _CYCLE[self._cycle], _WINDOW_GAIN
        return 1.0, 1.0

    def _product(self, gain: float) -> float:
        """Packets that the path holds, so many times."""
        return INITIAL_WINDOW if self.delay is None else self.bandwidth * self.delay * gain

    # What comes of it

    def _set_pacing(self, gain: float, smoothed: float | None) -> None:
        rate = self.bandwidth * gain * _MARGIN
        if not self._has_seen_trip and smoothed is not None:
            self._has_seen_trip = True
            self.pacing_rate = _HIGH_GAIN * self.window / max(smoothed, 0.001)
        if self._is_full or rate > self.pacing_rate:
            self.pacing_rate = max(rate, 1.0)

    def _save_window(self) -> None:
        if self._prior_state is State.OPEN and self.phase is not Phase.PROBE_RTT:
            self._prior_window = self.window
        else:
            self._prior_window = max(self._prior_window, self.window)

    def _set_window(self, sample: RateSample, gain: float, in_flight: int, state: State) -> None:
        if sample.acked > 0:
            window = self._recovering_window(sample, in_flight, state)
            if not self._is_conserving:
                target = int(self._product(gain) + self._burst_window)
                if self._is_full:
                    window = min(window + sample.acked, target)
                elif window < target or self._delivery.delivered < INITIAL_WINDOW:
                    window += sample.acked
                window = max(window, _LEAST_WINDOW)
            self.window = window
        if self.phase is Phase.PROBE_RTT:
            self.window = min(self.window, _LEAST_WINDOW)

    @property
    def _burst_window(self) -> float:
        if not self._is_full:
            return 0.0
        return min(max(self._bursts), self.bandwidth * _BURST_SECONDS)

    def _recovering_window(self, sample: RateSample, in_flight: int, state: State) -> int:
        """In the first round of a recovery as many go out as were acknowledged."""
        window = max(self.window - sample.lost, 1)
        prior, self._prior_state = self._prior_state, state
        if state is State.RECOVERY and prior is not State.RECOVERY:
            self._prior_window = max(self._prior_window, self.window)
            self._is_conserving = True
            self._next_round = self._delivery.delivered
            window = in_flight + sample.acked
        elif prior is not State.OPEN and state is State.OPEN:
            window = max(window, self._prior_window)
            self._is_conserving = False
        return max(window, in_flight + sample.acked) if self._is_conserving else window
