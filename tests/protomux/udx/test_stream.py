"""Two streams over paths that lose, delay, double and cut, in virtual time."""

from __future__ import annotations

from math import inf
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protomux import StreamClosed
from protomux.udx.congestion import INITIAL_WINDOW, Phase
from protomux.udx.packet import Packet, Type
from protomux.udx.recovery import (
    MAX_TIMEOUTS,
    MOST_TIMEOUT,
    Recovery,
    RoundTrip,
    SentPacket,
)
from protomux.udx.stream import WINDOW, Life
from tests.protomux.udx.simulation import Path, Simulation

BAD = Path(delay=0.05, jitter=0.02, loss=0.05, duplication=0.05)


def exchange(simulation: Simulation, there: bytes, back: bytes) -> None:
    """Let both sides send and end."""
    a, b = simulation.a, simulation.b
    for side, data in ((a, there), (b, back)):
        side.write(data)
        side.stream.end()
        side.flush()
    simulation.run(lambda: simulation.is_over)
    assert bytes(a.received) == back
    assert bytes(b.received) == there
    assert (a.ends, b.ends) == (1, 1)
    assert (a.closings, b.closings) == ([None], [None])
    assert a.stream.queued == b.stream.queued == 0


PATHS = {
    "clean": Path(),
    "near": Path(delay=0.0),
    "loss": Path(loss=0.05),
    "bad": BAD,
    "narrow": Path(rate=125_000, queue=20_000),
    "wide": Path(delay=0.1, rate=12_500_000, queue=200_000),
    "cut": Path(largest=1300),
    "blackout": Path(blackout=(0.05, 4.0)),
}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("size", [0, 1, 300_000])
def test_all_bytes_come_in_order(path: Path, size: int) -> None:
    random = Random(size)
    exchange(Simulation(1, path), random.randbytes(size), random.randbytes(size // 3))


ANY_PATH = st.builds(
    Path,
    delay=st.sampled_from([0.0, 0.0005, 0.01, 0.05, 0.2]),
    jitter=st.sampled_from([0.0, 0.005, 0.05]),
    loss=st.sampled_from([0.0, 0.01, 0.05, 0.1]),
    duplication=st.sampled_from([0.0, 0.1]),
    rate=st.sampled_from([inf, 1_250_000, 125_000]),
    queue=st.sampled_from([20_000, 100_000]),
    largest=st.sampled_from([1500, 1300, 1200]),
    blackout=st.sampled_from([(inf, inf), (0.1, 0.5), (0.05, 2.0)]),
)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), ANY_PATH, ANY_PATH, st.integers(0, 60_000), st.integers(0, 60_000))
def test_all_bytes_come_in_order_whatever_the_path_does(
    seed: int, there: Path, back: Path, size: int, other: int
) -> None:
    random = Random(seed)
    exchange(Simulation(seed, there, back), random.randbytes(size), random.randbytes(other))


def test_the_mtu_is_raised_as_far_as_the_path_goes() -> None:
    for largest, found in ((1500, 1500), (1400, 1392), (1200, 1200)):
        simulation = Simulation(1, Path(rate=1_250_000, queue=100_000, largest=largest))
        exchange(simulation, bytes(2_000_000), b"")
        assert simulation.a.stream.mtu.size == found


def test_the_mtu_is_raised_over_a_path_that_loses_and_reorders() -> None:
    simulation = Simulation(1, BAD)
    exchange(simulation, bytes(4_000_000), b"")
    assert simulation.a.stream.mtu.size == 1500
    # Nearly all that was sent twice was lost, not overtaken.
    assert simulation.a.sent < 1.15 * simulation.a.stream.recovery.next_seq


def test_a_reader_that_waits_stops_the_writer_and_lets_it_go_on() -> None:
    simulation = Simulation(1)
    a, b = simulation.a, simulation.b
    b.is_reading = False
    a.write(bytes(WINDOW + 100_000))
    a.stream.end()
    a.flush()
    simulation.run(lambda: simulation.now > 20)
    assert len(b.received) == WINDOW
    assert b.stream.window == 0
    sent = a.sent
    simulation.run(lambda: simulation.now > 30)
    assert 1 <= a.sent - sent <= 10  # only to ask whether there is room
    b.read_all()
    simulation.run(lambda: b.ends == 1)
    assert len(b.received) == WINDOW + 100_000


def test_a_window_that_opens_unheard_is_asked_for() -> None:
    simulation = Simulation(1, Path(), Path(blackout=(20.0, 25.0)))
    a, b = simulation.a, simulation.b
    b.is_reading = False
    a.write(bytes(WINDOW + 1))
    a.flush()
    simulation.run(lambda: simulation.now > 21)
    b.read_all()  # and what says so is lost
    simulation.run(lambda: len(b.received) == WINDOW + 1, most=40)


def test_messages_come_as_they_are_or_not_at_all() -> None:
    simulation = Simulation(1)
    simulation.a.stream.send_message(b"one")
    simulation.a.stream.send_message(b"")
    simulation.run(lambda: len(simulation.b.messages) == 2)
    assert simulation.b.messages == [b"one", b""]
    assert simulation.a.stream.recovery.next_seq == 0


def test_destroy_closes_both_sides_at_once() -> None:
    simulation = Simulation(1)
    a, b = simulation.a, simulation.b
    a.write(b"never acknowledged")
    a.flush()
    a.destroy()
    assert a.closings == [None]
    simulation.run(lambda: bool(b.closings))
    assert isinstance(b.closings[0], StreamClosed)
    assert a.stream.life is b.stream.life is Life.CLOSED
    assert a.stream.deadline == b.stream.deadline == inf
    with pytest.raises(StreamClosed):
        a.stream.write(b"more")


def test_a_peer_that_is_gone_is_given_up() -> None:
    simulation = Simulation(1, Path(blackout=(0.0, inf)))
    a = simulation.a
    a.write(bytes(100_000))
    a.flush()
    simulation.run(lambda: bool(a.closings))
    assert isinstance(a.closings[0], StreamClosed)
    assert 60 < simulation.now < 2 * MAX_TIMEOUTS * MOST_TIMEOUT
    # To an address from which nothing came goes one window, and a packet for each timeout.
    assert a.sent <= INITIAL_WINDOW + MAX_TIMEOUTS + 1


def test_what_is_acknowledged_late_is_answered_while_the_stream_lingers() -> None:
    simulation = Simulation(1, Path(), Path(blackout=(0.03, 3.0)))
    a, b = simulation.a, simulation.b
    for side in (a, b):
        side.write(b"all")
        side.stream.end()
        side.flush()
    simulation.run(lambda: bool(a.closings and b.closings))
    assert (a.closings, b.closings) == ([None], [None])
    simulation.run(lambda: a.stream.life is b.stream.life is Life.CLOSED, most=100)


def test_a_silent_stream_gives_signs_of_life() -> None:
    simulation = Simulation(1)
    a = simulation.a
    a.stream.set_keep_alive(5.0, simulation.now)
    a.arm()
    simulation.run(lambda: a.sent == 3)
    assert simulation.now == pytest.approx(15.0)
    assert simulation.b.sent == 2  # and the last is on its way
    a.stream.set_keep_alive(0.0, simulation.now)
    assert a.stream.deadline == inf


def test_the_path_is_filled_and_its_queue_is_not() -> None:
    path = Path(delay=0.02, rate=1_250_000, queue=500_000)
    simulation = Simulation(1, path, Path(delay=0.02))
    a = simulation.a
    a.write(bytes(8_000_000))
    a.flush()
    simulation.run(lambda: len(simulation.b.received) > 4_000_000)
    began, before = simulation.now, len(simulation.b.received)
    simulation.run(lambda: simulation.now > began + 2)
    rate = (len(simulation.b.received) - before) / 2
    assert rate > 0.85 * path.rate
    assert a.stream.congestion.phase is Phase.PROBE_BW
    smoothed = a.stream.recovery.round_trip.smoothed
    assert smoothed is not None
    assert smoothed < 3 * 0.04


def test_a_long_stream_looks_now_and_then_how_short_the_path_is() -> None:
    simulation = Simulation(1, Path(delay=0.02, rate=125_000, queue=200_000), Path(delay=0.02))
    a = simulation.a
    a.write(bytes(4_000_000))
    a.flush()
    congestion = a.stream.congestion
    simulation.run(lambda: congestion.phase is Phase.PROBE_RTT)
    assert 10 < simulation.now < 15
    assert congestion.window == 4
    simulation.run(lambda: congestion.phase is Phase.PROBE_BW)
    assert congestion.delay == pytest.approx(0.04, rel=0.6)
    simulation.run(lambda: len(simulation.b.received) == 4_000_000)
    assert simulation.now < 4_000_000 / 125_000 * 1.2


def test_a_stream_goes_on_over_another_path() -> None:
    simulation = Simulation(1)
    a, b = simulation.a, simulation.b
    data = Random(1).randbytes(600_000)
    a.write(data[:300_000])
    a.flush()
    simulation.run(lambda: len(b.received) > 100_000)
    assert a.stream.mtu.size > 1200
    a.move(Path(delay=0.1), Path(delay=0.1), ip_version=6)
    assert a.stream.mtu.size == 1200
    a.write(data[300_000:])
    a.flush()
    simulation.run(lambda: len(b.received) == len(data))
    assert bytes(b.received) == data


def test_a_round_trip_that_a_machine_slept_through_is_not_believed_at_once() -> None:
    round_trip = RoundTrip()
    for _ in range(20):
        round_trip.add(0.1, 0.0)
    round_trip.add(3600.0, 0.0)
    assert round_trip.timeout == 1.0
    assert round_trip.least == 0.1
    round_trip = RoundTrip()
    round_trip.add(3600.0, 0.0)
    assert round_trip.timeout == MOST_TIMEOUT


def test_ranges_that_overlap_are_not_gone_through_again_and_again() -> None:
    recovery = Recovery()
    for seq in range(100):
        recovery.sent([SentPacket(seq, Type.DATA, b"", 20)], 0.0)
    acked = recovery.on_ack(0, [(1, 50), (2, 99), (60, 70), (65, 80)], 0.1)
    assert [each.seq for each in acked.packets] == [*range(1, 50), *range(60, 70)]


def test_a_range_that_begins_with_what_the_peer_expects_says_nothing() -> None:
    simulation = Simulation(1)
    a = simulation.a
    a.stream.write(bytes(5000))
    a.stream.end()
    a.flush()
    a.stream.receive(Packet(Type.SACK, 1, WINDOW, 0, 0, [(0, 5)]), 0.1)
    a.flush()
    assert a.stream.waiting == 5000
    assert a.stream.deadline < inf


@pytest.mark.parametrize(
    "type",
    [Type.DATA, Type.END, Type.MESSAGE, Type.DESTROY, Type.HEARTBEAT, Type(0)],
    ids=lambda type: type.name or "ACK",
)
@pytest.mark.parametrize("ack", [1, 1000, 2**31, 2**32 - 70_000])
def test_a_packet_that_acknowledges_what_was_never_sent_is_of_another_stream(
    type: Type, ack: int
) -> None:
    simulation = Simulation(1)
    b = simulation.b
    b.stream.receive(Packet(type, 2, WINDOW, 0, ack, (), b"of another"), 0.0)
    b.flush()
    assert b.sent == 0
    assert not b.received
    assert not b.messages
    assert b.closings == []
