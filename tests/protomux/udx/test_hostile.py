"""Packets that an honest peer does not send: changed, forged, and too many; windows that lie."""

from __future__ import annotations

import gc
import json
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from math import inf
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protomux.udx.congestion import INITIAL_WINDOW
from protomux.udx.packet import HEADER_SIZE, Packet, Range, Type, decode_packet, encode_packet
from protomux.udx.reassembly import FARTHEST
from protomux.udx.stream import WINDOW, Life
from tests.protomux.udx.books import check_books
from tests.protomux.udx.mutations import Mutation, every, main, outcome, recorded
from tests.protomux.udx.simulation import Path, Side, Simulation

ACKS = st.tuples(
    st.integers(0, 2**32 - 1) | st.integers(0, 40),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=6)
    | st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)), max_size=3),
    st.integers(0, 2**32 - 1),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(ACKS, max_size=20))
def test_forged_acknowledgements_do_no_more_than_true_ones_could(
    forged: list[tuple[int, list[Range], int]],
) -> None:
    simulation = Simulation(1, is_honest=False)
    a = simulation.a
    a.write(bytes(100_000))
    a.flush()
    for ack, ranges, window in forged:
        a.stream.receive(Packet(Type.SACK, 1, window, 0, ack, ranges), simulation.now)
        a.flush()
        check_books(a.stream)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 63),
            st.integers(0, 2**32 - 1) | st.integers(0, 12) | st.integers(65_530, 65_545),
            st.integers(0, 300),
        ),
        max_size=60,
    )
)
def test_forged_data_is_kept_within_bounds(packets: list[tuple[int, int, int]]) -> None:
    simulation = Simulation(1, is_honest=False)
    b = simulation.b
    for type, seq, size in packets:
        packet = Packet(type & ~Type.SACK, 2, WINDOW, seq, 0, (), bytes(size))
        b.stream.receive(packet, simulation.now)
        b.flush()
        assert 0 <= b.stream.window <= WINDOW
    assert b.sent <= len(packets) + 1


def test_a_peer_that_does_not_heed_the_window_gets_no_room() -> None:
    simulation = Simulation(1, is_honest=False)
    b = simulation.b
    b.is_reading = False
    for seq in range(WINDOW // 1000 + 100):
        b.stream.receive(Packet(Type.DATA, 2, WINDOW, seq, 0, (), bytes(1000)), 0.0)
    assert len(b.received) == WINDOW // 1000 * 1000
    assert b.stream.window < 1000


def test_a_destroy_with_a_number_that_cannot_be_is_ignored() -> None:
    simulation = Simulation(1, is_honest=False)
    stream = simulation.b.stream
    for seq in (2**31, 100_000, 2**32 - 1):
        stream.receive(Packet(Type.DESTROY, stream.id, WINDOW, seq, 0), 0.0)
    assert stream.life is Life.OPEN


# Every byte of a conversation


@pytest.mark.parametrize("part", range(8))
def test_no_changed_byte_does_harm(part: int) -> None:
    for mutation in every(stride=331)[part::8]:
        assert outcome(mutation) in ("right", "other bytes", "closed", "waits"), mutation


def test_every_kind_of_packet_is_changed() -> None:
    packets = [decode_packet(datagram) for datagram in recorded()[0]]
    types = {packet.type for packet in packets if packet is not None}
    assert types >= {0, Type.DATA, Type.END, Type.SACK, Type.MESSAGE, Type.HEARTBEAT}
    assert len(packets) > 30


@pytest.mark.parametrize(("place", "name"), [(0, "right"), (1, "right"), (4, "right")])
def test_a_packet_of_nobody_is_a_packet_lost(place: int, name: str) -> None:
    for number in range(0, len(recorded()[0]), 5):
        assert outcome(Mutation(number, place, 0x10)) == name


def test_mutations_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--stride", "9001", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert sum(told["outcomes"].values()) == len(every(9001))
    assert main(["5", "12", "1"]) == 0
    assert main(["--stride", "20001", "--jobs", "2"]) == 0
    assert " mutations: " in capsys.readouterr().out


# A window that lies


def lie(windows: Callable[[int], int]) -> Callable[[Side, bytes], bytes]:
    """Let side b say of its window what it is not."""
    count = 0

    def change(side: Side, datagram: bytes) -> bytes:
        nonlocal count
        packet = decode_packet(datagram)
        assert packet is not None
        check_books(side.stream)
        if side is side.simulation.b:
            return datagram
        count += 1
        return encode_packet(packet._replace(window=windows(count)))

    return change


def start(size: int, windows: Callable[[int], int], path: Path) -> Simulation:
    simulation = Simulation(1, path, is_honest=False)
    simulation.tamper = lie(windows)
    a = simulation.a
    a.write(bytes(range(256)) * (size // 256))
    a.stream.end()
    a.flush()
    return simulation


LIES: dict[str, Callable[[int], int]] = {
    "all": lambda count: 2**32 - 1,
    "flapping": lambda count: 0 if count % 2 else WINDOW,
    "shrinking": lambda count: max(WINDOW - 40_000 * count, 1),
    "one byte": lambda count: 1 if count % 40 else WINDOW,
    "below what is out": lambda count: 600,
}


@pytest.mark.parametrize("windows", LIES.values(), ids=LIES)
def test_a_window_that_lies_delays_at_most(windows: Callable[[int], int]) -> None:
    path = Path(rate=1_250_000, queue=60_000, loss=0.02)
    simulation = start(256_000, windows, path)
    simulation.run(lambda: simulation.b.ends == 1, most=2000)
    assert simulation.b.received == simulation.a.written


def test_a_window_of_nothing_is_asked_about_now_and_then_for_ever() -> None:
    simulation = start(256_000, lambda count: 0, Path())
    a = simulation.a
    simulation.wait(10)
    sent, size = a.sent, len(simulation.b.received)
    simulation.wait(1000)
    assert a.sent - sent <= 1000
    assert len(simulation.b.received) == size
    assert a.stream.life is Life.OPEN


def test_a_window_of_all_is_not_all_that_bounds_what_is_out() -> None:
    path = Path(delay=0.05, rate=1_250_000, queue=60_000)
    simulation = start(25_600_000, lambda count: 2**32 - 1, path)
    most = 0

    def is_late() -> bool:
        nonlocal most
        most = max(most, len(simulation.a.stream.recovery.in_flight))
        return simulation.now > 5

    simulation.run(is_late)
    assert most < 4 * (0.1 * path.rate + path.queue) / 1200


# Work


def steps(call: Callable[[], object]) -> int:
    """Return how many calls of functions `call` makes, of Python and of C."""
    count = 0

    def note(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(before)
    return count


def test_ranges_cost_what_is_out_and_not_what_they_span() -> None:
    simulation = Simulation(1, Path(delay=0.0), is_honest=False)
    a = simulation.a
    a.write(bytes(1152) * 20_000)
    recovery = a.stream.recovery
    now = 0.0
    # All but the first is said to have come.
    while recovery.next_seq < 15_000:
        now += 0.001
        ranges = [(1, recovery.next_seq)] if recovery.next_seq > 1 else []
        a.stream.receive(Packet(Type.SACK, 1, 2**32 - 1, 0, 0, ranges), now)
        a.stream.flush(now)
    span = recovery.next_seq
    out = len(list(recovery.out))
    for ranges in (
        [(2, span)],
        [(1, span)],
        [(number, number + 1) for number in range(2, 102, 2)],
        [(0, 2**32 - 1)] * 50,
        [(2**31, 2**32 - 1), (1, 2**31)],
    ):
        packet = Packet(Type.SACK, 1, 2**32 - 1, 0, 0, ranges)
        count = steps(partial(a.stream.receive, packet, now))
        assert count < 10 * out + 500


def test_no_more_is_out_than_the_peer_may_hold() -> None:
    simulation = Simulation(1, Path(delay=0.0), is_honest=False)
    a = simulation.a
    recovery = a.stream.recovery
    now = 0.0
    while now < 20 and recovery.next_seq <= FARTHEST:
        if a.stream.queued < 5_000_000:
            a.write(bytes(10_000_000))
        now += 0.001
        ranges = [(1, recovery.next_seq)] if recovery.next_seq > 1 else []
        a.stream.receive(Packet(Type.SACK, 1, 2**32 - 1, 0, 0, ranges), now)
        a.stream.flush(now)
        if recovery.next_seq == FARTHEST:
            break
    for _ in range(10):
        now += 0.01
        a.stream.flush(now)
    assert recovery.next_seq == FARTHEST


# Replies


class Reflector:
    """A stream whose peer's address somebody else writes on packets: counts bytes in and out."""

    def __init__(self) -> None:
        self.simulation = Simulation(1, is_honest=False)
        self.side = self.simulation.b
        self.came = HEADER_SIZE  # what told of the window
        self.went = 0
        self.side.transmit = self.note  # type: ignore[method-assign]

    def note(self, datagram: bytes) -> None:
        self.went += len(datagram)

    def feed(self, packet: Packet, now: float = 0.0) -> None:
        datagram = encode_packet(packet)
        self.came += len(datagram)
        found = decode_packet(datagram)
        assert found is not None
        self.side.stream.receive(found, now)
        self.side.flush()


FLOODS: dict[str, Callable[[int], Packet]] = {
    "heartbeats": lambda number: Packet(Type.HEARTBEAT, 2, WINDOW, 0, 0),
    "data": lambda number: Packet(Type.DATA, 2, WINDOW, number, 0, (), b"x"),
    "gaps": lambda number: Packet(Type.DATA, 2, WINDOW, 2 * number + 1, 0, (), b"x"),
    "the same again": lambda number: Packet(Type.DATA, 2, WINDOW, 7, 0, (), b"x"),
    "nothing": lambda number: Packet(Type.DATA, 2, WINDOW, number % 100 * 2 + 1, 0),
    "acks": lambda number: Packet(0, 2, WINDOW, 0, number),
    "sacks": lambda number: Packet(0, 2, WINDOW, 0, 0, [(number + 1, number + 2)]),
    "messages": lambda number: Packet(Type.MESSAGE, 2, WINDOW, 0, 0, (), b"x"),
}


@pytest.mark.parametrize("packet", FLOODS.values(), ids=FLOODS)
def test_to_a_stranger_goes_no_more_than_came_from_it(packet: Callable[[int], Packet]) -> None:
    reflector = Reflector()
    for number in range(2000):
        reflector.feed(packet(number))
    assert reflector.went <= reflector.came


# Who knows the id can acknowledge what it has not got.
@pytest.mark.parametrize("name", [name for name in FLOODS if name not in ("acks", "sacks")])
def test_to_a_stranger_goes_no_more_than_that_and_the_initial_window(name: str) -> None:
    packet = FLOODS[name]
    reflector = Reflector()
    reflector.side.write(bytes(1_000_000))
    reflector.side.flush()
    for number in range(2000):
        reflector.feed(packet(number))
    assert reflector.went <= reflector.came + INITIAL_WINDOW * 1172


def test_a_new_address_gets_no_more_than_the_initial_window_until_it_answers() -> None:
    dark = Path(blackout=(0.0, inf))
    simulation = Simulation(1, Path(delay=0.05), is_honest=False)
    a = simulation.a
    a.write(bytes(10_000_000))
    a.flush()
    simulation.run(lambda: len(simulation.b.received) > 1_000_000)
    sent = a.sent
    a.move(dark, Path(delay=0.05))
    arrive = a.arrive
    a.arrive = lambda datagram, told, home: arrive(datagram, told, -1)  # type: ignore[method-assign]
    # What the old address has sent, or goes on sending, acknowledges and says nothing of the new.
    simulation.wait(20)
    assert a.sent - sent <= INITIAL_WINDOW + 6


# Memory


def at_most(most: int, feed: Callable[[], Iterator[Packet]]) -> None:
    """Check how many bytes one stream takes at most for all those packets."""
    simulation = Simulation(1, is_honest=False)
    side = simulation.b
    side.transmit = lambda datagram: None  # type: ignore[method-assign]
    gc.collect()
    tracemalloc.start()
    try:
        for number, packet in enumerate(feed()):
            found = decode_packet(encode_packet(packet))
            assert found is not None
            side.stream.receive(found, 0.0)
            if number % 64 == 0:  # what comes at once is answered at once
                side.stream.flush(0.0)
            # What was handed on is the application's.
            side.received.clear()
            side.messages.clear()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < most, f"{peak:,} bytes"


def data(numbers: range, size: int) -> Callable[[], Iterator[Packet]]:
    return lambda: (Packet(Type.DATA, 2, WINDOW, seq, 0, (), bytes(size)) for seq in numbers)


HOARDS: dict[str, Callable[[], Iterator[Packet]]] = {
    "early, of one byte": data(range(1, 20_000), 1),
    "early, with gaps": data(range(1, 40_000, 2), 100),
    "early, backwards": data(range(FARTHEST - 1, FARTHEST - 40_000, -2), 1),
    "early, of no bytes": data(range(1, 20_000), 0),
    "early, as large as can be": data(range(1, 4000), 65_000),
    "in order, of no bytes": data(range(20_000), 0),
    "ranges": lambda: (
        Packet(Type.SACK, 2, WINDOW, 0, 0, [(2 * n + k, 2 * n + k + 1) for n in range(50)])
        for k in range(1000)
    ),
}


@pytest.mark.parametrize("feed", HOARDS.values(), ids=HOARDS)
def test_what_one_stream_keeps_is_bounded(feed: Callable[[], Iterator[Packet]]) -> None:
    at_most(6_000_000, feed)
