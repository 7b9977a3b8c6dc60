"""Arbitrary bytes as a UDX packet: the codec and the dissector say the same, and neither raises.

What was read can be written again, and reads as it was.
"""

from __future__ import annotations

from typing import Final

from fuzz.harness.stage import Finding
from fuzz.twins import ALL_CASES
from protomux.udx.packet import MAX_SACKS, Packet, Type, decode_packet, encode_packet

__all__ = ["MAX_SIZE", "OPS", "run"]

OPS: Final = None
MAX_SIZE: Final = 512

_CASE: Final = next(case for case in ALL_CASES if case.name == "packet")


def run(data: bytes) -> None:
    packet = decode_packet(data)
    if decode_packet(memoryview(data)) != packet:
        raise Finding(f"another packet of a view: {data.hex()}")
    _CASE.check_bytes(data, 0, len(data))
    if packet is None:
        return
    if packet.sacks:
        packet = packet._replace(sacks=packet.sacks[:MAX_SACKS], payload=b"")
    else:
        packet = packet._replace(type=packet.type & ~Type.SACK)
    _same(packet, 0)
    if not packet.sacks:
        _same(packet, len(data) % 256)


def _same(packet: Packet, padding: int) -> None:
    found = decode_packet(encode_packet(packet, padding))
    if found != packet:
        raise Finding(f"{packet} with {padding} bytes of padding became {found}")
