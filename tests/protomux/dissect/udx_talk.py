"""A conversation of two UDX streams in virtual time, in which every kind of packet is said."""

from __future__ import annotations

from collections.abc import Callable

from protomux.dissect.network import Address
from tests.protomux.udx.simulation import Path, Side, Simulation

__all__ = ["Heard", "converse"]

Heard = Callable[[float, Address, Address, bytes], object]
"""heard(time, source, destination, datagram), as `PcapWriter.datagram`."""

BEGAN = 1_700_000_000.0


def converse(host: str, heard: Heard) -> None:
    """Let both sides talk, from two ports of `host`: losses, probes, heartbeats, the end."""
    simulation = Simulation(3, Path(loss=0.05, jitter=0.01))
    a, b = simulation.a, simulation.b
    addresses = {a: (host, 49737), b: (host, 49738)}

    def overhear(side: Side) -> None:
        transmit = side.transmit

        def tapped(datagram: bytes) -> None:
            now = BEGAN + simulation.now
            heard(now, addresses[side], addresses[side.peer], datagram)
            transmit(datagram)

        setattr(side, "transmit", tapped)  # noqa: B010 - mypy allows no other way

    overhear(a)
    overhear(b)
    a.write(bytes(range(256)) * 1000)
    b.write(bytes(50_000))
    a.stream.send_message(b"unordered")
    a.stream.set_keep_alive(1.0, 0.0)
    a.flush()
    b.flush()
    simulation.run(lambda: len(b.received) == 256_000 and len(a.received) == 50_000)
    simulation.run(lambda: simulation.now > 5)
    a.stream.end()
    a.flush()
    simulation.run(lambda: b.ends == 1)
    b.destroy()
    b.flush()
