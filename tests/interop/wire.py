"""Frames of the mux as text, so that a case can say what must stand on the wire.

    open 1 name            open 1 name/ID +HANDSHAKE      reject 1      close 1
    1:0 PAYLOAD            a message of type 0 for the sender's channel 1

ID, HANDSHAKE and PAYLOAD are hex, cut after 16 bytes. The twin of wire.mjs.
"""

from __future__ import annotations

from typing import NamedTuple

from protomux.encoding import optional_buffer, string, uint
from protomux.errors import EncodingError

__all__ = ["Frame", "describe"]

CONTROL = ("batch", "open", "reject", "close")


class Frame(NamedTuple):
    """A frame that came in: its bytes, whether it is a batch, and what stands in it."""

    size: int
    is_batch: bool
    entries: list[str]


def describe(data: bytes) -> Frame:
    """Return `data` as text; what does not decode is the entry "malformed"."""
    entries: list[str] = []
    try:
        is_batch = _read(data, entries)
    except EncodingError:
        is_batch = False
        entries.append("malformed")
    return Frame(len(data), is_batch, entries)


def _read(data: bytes, entries: list[str]) -> bool:
    end = len(data)
    if not data:
        return False
    channel, position = uint.decode(data, 0, end)
    if channel != 0 or data[position : position + 1] != b"\x00":
        entries.append(_entry(channel, data, position, end))
        return False
    channel, position = uint.decode(data, position + 1, end)
    while position < end:
        size, position = uint.decode(data, position, end)
        if size == 0:
            channel, position = uint.decode(data, position, end)
            continue
        entries.append(_entry(channel, data, position, position + size))
        position += size
    return True


def _entry(channel: int, data: bytes, start: int, end: int) -> str:
    type, position = uint.decode(data, start, end)
    if channel != 0:
        return f"{channel}:{type} {_hex(data[position:end])}".rstrip()
    number, position = uint.decode(data, position, end)
    if type != 1:
        return f"{CONTROL[type] if type < len(CONTROL) else type} {number}"
    protocol, position = string.decode(data, position, end)
    id, position = optional_buffer.decode(data, position, end)
    handshake = _hex(data[position:end])
    text = f"open {number} {protocol}"
    if id:
        text += f"/{_hex(id)}"
    return f"{text} +{handshake}" if handshake else text


def _hex(data: bytes) -> str:
    return data[:16].hex() + ("…" if len(data) > 16 else "")
