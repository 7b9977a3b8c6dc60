"""How many datagrams a second one process can send to another at all. Knows no UDX.

The same flow of datagrams goes through each way to have them on each loop: see
`bench.peers.datagrams`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any, Final

from bench.loops import LOOPS
from bench.peers.datagrams import ACKED, WAYS, has_segments
from bench.program import Program

__all__ = ["COUNT", "REFERENCE", "SIZE", "Floor", "floor", "ways"]

COUNT: Final = 200_000
SIZE: Final = 1_452
"""Bytes of a datagram: what a packet of UDX holds besides its header, at an MTU of 1,500."""
REFERENCE: Final = "protocol"
"""The way that the others are compared with."""


@dataclass(frozen=True)
class Floor:
    """What came of one flow: datagrams a second, and CPU seconds a datagram on each side."""

    rate: float
    cpu: tuple[float, float]


def ways(loops: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return the ways and loops that there are here."""
    names = [name for name in WAYS if name != "segments" or has_segments()]
    return [(name, loop) for loop in LOOPS if loop in loops for name in names]


async def floor(way: str, loop: str, count: int) -> Floor:
    """Send `count` datagrams once."""
    count = max(ACKED, count // ACKED * ACKED)

    def started(role: str) -> Any:
        options = {"way": way, "loop": loop, "count": count, "size": SIZE}
        options["is_sender"] = role == "sender"
        command = (sys.executable, "-m", "bench.peers.datagrams", json.dumps(options))
        return Program.started(f"the {role} ({way}, {loop})", command)

    async with started("sender") as sender, started("receiver") as receiver:
        ports = [await program.hear() for program in (sender, receiver)]
        for program, port in ((receiver, ports[0]), (sender, ports[1])):
            program.say(port)
            await program.hear()  # it is ready
        received = (await receiver.hear())["result"]
        sent = (await sender.hear())["result"]
    seconds = (received["ended"] - sent["began"]) / 1e9
    return Floor(count / seconds, (sent["cpu"] / count, received["cpu"] / count))
