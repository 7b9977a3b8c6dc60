"""The frames of Protomux as bytes. Knows their format, nothing of channels or their state.

A frame starts with two uints, channel and type. Channel 0 is the control channel; on any other,
the number is the sender's own for that channel and the type that of a message. The part behind
the channel number (type and payload) is a *body*: it stands alone in a frame, or in a batch.

A batch is `0, 0, channel`, then bodies, each behind its length. A length of 0 is no body: the
channel of the bodies after it follows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Final, NamedTuple

from protomux.encoding import optional_buffer, string, uint
from protomux.errors import ProtocolError

__all__ = [
    "CONTROL",
    "Control",
    "Open",
    "close_body",
    "encode_batch",
    "encode_frame",
    "iter_batch",
    "open_body",
    "reject_body",
]

CONTROL: Final = 0
"""Number of the control channel."""


class Control(IntEnum):
    """Types of the control channel."""

    BATCH = 0
    OPEN = 1
    REJECT = 2
    CLOSE = 3


class Open(NamedTuple):
    """An open as it stands in its frame.

    Attributes:
        channel: the sender's number for the channel.
        protocol: its name.
        id: binary id, None where there is none.
        handshake: position in the frame where the protocol's own handshake begins.
    """

    channel: int
    protocol: str
    id: bytes | None
    handshake: int

    @classmethod
    def decode(cls, data: bytes, start: int, end: int) -> Open:
        """Read the payload of an open from `data[start:end]`."""
        channel, position = uint.decode(data, start, end)
        protocol, position = string.decode(data, position, end)
        id, position = optional_buffer.decode(data, position, end)
        return cls(channel, protocol, id, position)


def open_body(channel: int, protocol: str, id: bytes | None, handshake: bytes) -> bytes:
    """Return the body of an open; `handshake` is encoded already."""
    return b"\x01" + b"".join(
        [uint.encode(channel), string.encode(protocol), optional_buffer.encode(id), handshake]
    )


def reject_body(channel: int) -> bytes:
    """Return the body of a reject; `channel` is the number that the peer opened with."""
    return b"\x02" + uint.encode(channel)


def close_body(channel: int) -> bytes:
    """Return the body of a close; `channel` is our own number."""
    return b"\x03" + uint.encode(channel)


def encode_frame(channel: int, body: bytes) -> bytes:
    """Return the frame of one body that travels alone."""
    return uint.encode(channel) + body


def encode_batch(bodies: Sequence[tuple[int, bytes]]) -> bytes:
    """Return the frame of several (channel, body) pairs, in their order; at least one."""
    current = bodies[0][0]
    parts = [b"\x00\x00", uint.encode(current)]
    for channel, body in bodies:
        if channel != current:
            parts += (b"\x00", uint.encode(channel))
            current = channel
        parts += (uint.encode(len(body)), body)
    return b"".join(parts)


def iter_batch(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield (channel, start, end) of every body in the payload of a batch, as it is read.

    A switch to another channel is yielded too, with `start` and `end` alike, so that whoever
    counts steps counts those as well. Raises EncodingError or ProtocolError at the first byte that
    is wrong; the bodies before it have been yielded by then.
    """
    channel, position = uint.decode(data, start, end)
    while position < end:
        size, position = uint.decode(data, position, end)
        if size == 0:
            channel, position = uint.decode(data, position, end)
            yield channel, position, position
            continue
        after = position + size
        if after > end:
            raise ProtocolError(
                f"expected {size} bytes of a batched message at {position}, got {end - position}"
            )
        yield channel, position, after
        position = after
