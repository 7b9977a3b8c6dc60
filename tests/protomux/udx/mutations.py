"""A conversation in which one byte of one packet is another when it arrives.

    python -m tests.protomux.udx.mutations --jobs 2             all of them, some minutes
    python -m tests.protomux.udx.mutations --stride 100         every hundredth
    python -m tests.protomux.udx.mutations PACKET PLACE VALUE   one of them again

UDP's checksum keeps out what a wire does to a byte, but not who changes the checksum as well. UDX
itself cannot tell such a packet from a true one, so the bytes that arrive may be others, and
SecretStream finds that out. What must hold is that nothing is raised, that what is counted is what
is there, that no more goes out than twice what would have, and that the bytes are the right ones
unless a packet of data was touched. The exit code is 1 if something did not hold.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from functools import cache
from time import perf_counter
from typing import Final, NamedTuple

from protomux.udx.mtu import MOST
from protomux.udx.packet import Packet, Type, decode_packet
from tests.protomux.udx.books import check_books
from tests.protomux.udx.parallel import run_all
from tests.protomux.udx.simulation import Path, Side, Simulation

__all__ = ["Mutation", "every", "outcome", "recorded"]

_COMMAND: Final = "python -m tests.protomux.udx.mutations"

_SEED: Final = 3
_PATH: Final = Path(delay=0.02, jitter=0.004, loss=0.08, duplication=0.05)
_MOST: Final = 200.0
"""Seconds after which even a peer that is given up is."""

_PAYLOAD: Final = (0x01, 0x80, 0xFF)
"""What is made of a byte of data: it matters where it is, not what."""


class Mutation(NamedTuple):
    """The byte at `place` of the packet that arrives as number `packet` is changed by `flip`."""

    packet: int
    place: int
    flip: int


def _converse() -> Simulation:
    """Two sides that send, pause, say messages, ask for signs of life and end, or destroy."""
    simulation = Simulation(_SEED, _PATH, is_honest=False)
    a, b = simulation.a, simulation.b

    def begin() -> None:
        for side, size in ((a, 12_000), (b, 6_000)):
            side.write(bytes(range(1, 201)) * (size // 200))
            side.stream.send_message(b"beside")
            side.stream.set_keep_alive(1.5, simulation.now)
            side.flush()

    def end() -> None:
        for side in (a, b):
            side.stream.end()
            side.flush()

    simulation.at(0.0, begin)
    simulation.at(2.0, end)
    simulation.at(5.0, b.destroy)  # of no consequence, unless it is still open then
    return simulation


@cache
def recorded() -> tuple[tuple[bytes, ...], int]:
    """Return the packets in the order in which they arrive, and how many went out."""
    simulation = _converse()
    packets: list[bytes] = []

    def note(side: Side, datagram: bytes) -> bytes:
        packets.append(datagram)
        return datagram

    simulation.tamper = note
    _run(simulation)
    assert _name(simulation) == "right"
    return tuple(packets), simulation.a.sent + simulation.b.sent


def _run(simulation: Simulation) -> None:
    while not simulation.is_over and simulation.now < _MOST and simulation.step():
        pass


def every(stride: int = 1) -> list[Mutation]:
    """Return all mutations, or every so manieth."""
    found: list[Mutation] = []
    for number, datagram in enumerate(recorded()[0]):
        packet = decode_packet(datagram)
        assert packet is not None
        plain = len(packet.payload)
        for place in range(len(datagram)):
            is_head = place < len(datagram) - plain
            if is_head:
                found += (Mutation(number, place, flip) for flip in range(1, 256))
            elif place % 100 == 0:
                found += (Mutation(number, place, flip) for flip in _PAYLOAD)
    return found[::stride]


def outcome(mutation: Mutation) -> str:
    """Let the conversation happen with it; return how it ended. AssertionError for a finding."""
    simulation = _converse()
    changed: Packet | None = None

    def change(side: Side, datagram: bytes) -> bytes:
        nonlocal changed
        check_books(side.stream)
        if simulation.arrivals - 1 != mutation.packet:
            return datagram
        content = bytearray(datagram)
        content[mutation.place] ^= mutation.flip
        changed = decode_packet(bytes(content))
        if changed is not None and changed.stream_id != side.stream.id:
            changed = None
        return bytes(content)

    simulation.tamper = change
    _run(simulation)
    a, b = simulation.a, simulation.b
    check_books(a.stream)
    check_books(b.stream)
    found = _name(simulation)
    honest = recorded()[1]
    most = 2 * honest + 2 * int(simulation.now)  # and signs of life
    assert a.sent + b.sent <= most, f"{a.sent + b.sent} packets went out instead of {honest}"
    if changed is None:
        assert found == "right", f"{found}, though the packet was only lost"
    for side in (a, b):
        whole = side.peer.written
        is_data = changed is not None and changed.type & (Type.DATA | Type.END)
        if not is_data:
            assert whole.startswith(side.received), "bytes that nobody has changed are wrong"
        assert len(side.received) <= len(whole) + MOST, "more bytes than were sent"
    return found


def _name(simulation: Simulation) -> str:
    sides = simulation.a, simulation.b
    if any(error for side in sides for error in side.closings):
        return "closed"
    if not simulation.is_over:
        return "waits"
    return "right" if all(side.received == side.peer.written for side in sides) else "other bytes"


def _try(mutation: Mutation) -> tuple[str, str | None]:
    try:
        return outcome(mutation), None
    except Exception as error:
        again = f"{_COMMAND} {' '.join(map(str, mutation))}"
        return "finding", f"{type(error).__name__}: {error}\n    {again}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; return the exit code."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(prog=_COMMAND, description=__doc__.split("\n")[0])
    parser.add_argument("one", type=int, nargs="*", help="packet, place and flip of a single one")
    parser.add_argument("--stride", type=int, default=1, help="every so manieth (default 1: all)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    chosen = parser.parse_args(arguments)
    if len(chosen.one) not in (0, 3):
        parser.error(f"expected a packet, a place and a flip, got {chosen.one}")
    if chosen.stride < 1 or chosen.jobs < 1:
        parser.error("expected a --stride and --jobs of 1 or more")
    if chosen.one:
        print(outcome(Mutation(*chosen.one)))
        return 0
    begin = perf_counter()
    outcomes: Counter[str] = Counter()
    findings: list[str] = []
    was_stopped = False
    try:
        for name, finding in run_all(_try, every(chosen.stride), chosen.jobs):
            outcomes[name] += 1
            if finding is not None:
                findings.append(finding)
                print(finding, file=sys.stderr)
    except KeyboardInterrupt:
        was_stopped = True
    seconds = round(perf_counter() - begin, 1)
    if chosen.json:
        told = {"packets": len(recorded()[0]), "outcomes": outcomes, "findings": findings}
        print(json.dumps({**told, "seconds": seconds}))
    else:
        each = ", ".join(f"{count:,} {name}" for name, count in outcomes.most_common())
        print(f"{outcomes.total():,} mutations: {each}; {seconds} s")
    if was_stopped:
        return 130
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
