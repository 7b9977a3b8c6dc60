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
from typing import Final, TypeAlias

from protomux.encoding import optional_buffer, string, uint
from protomux.errors import ProtocolError
from protomux.speedups import twin

__all__ = [
    "CONTROL",
    "SWITCH",
    "Control",
    "FrameBuilder",
    "Open",
    "close_body",
    "decode_open",
    "encode_batch",
    "encode_frame",
    "frame_head",
    "iter_batch",
    "open_body",
    "reject_body",
]

CONTROL: Final = 0
"""Number of the control channel."""

SWITCH: Final = -1
"""In place of a type, where a batch has only switched to another channel."""


class Control(IntEnum):
    """Types of the control channel."""

    BATCH = 0
    OPEN = 1
    REJECT = 2
    CLOSE = 3


Open: TypeAlias = tuple[int, str, bytes | None, int]
"""(channel, protocol, id, handshake): the sender's number for the channel, the protocol's name, the
binary id or None, and the position in the frame where the protocol's own handshake begins."""


@twin
def decode_open(data: bytes, start: int, end: int) -> Open:
    """Read the payload of an open from `data[start:end]`."""
    channel, position = uint.decode(data, start, end)
    protocol, position = string.decode(data, position, end)
    id, position = optional_buffer.decode(data, position, end)
    return channel, protocol, id, position


@twin
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


def _uint_size(value: int) -> int:
    if value <= 0xFC:
        return 1
    return 3 if value <= 0xFFFF else 5 if value <= 0xFFFFFFFF else 9


@twin
class FrameBuilder:
    """Collects bodies and makes frames of them: a batch, or a lone message.

    Attributes:
        size: bytes that the frame of what is collected would have, as a batch; 0 for nothing.
    """

    __slots__ = ("_batch_messages", "_batch_size", "_bodies", "_channel", "_frame_size", "size")

    def __init__(self, batch_size: int, batch_messages: int, frame_size: int) -> None:
        """Make batches that are full with so many bytes, or so many messages.

        None is larger than `frame_size` unless its only body is.
        """
        self._batch_size = batch_size
        self._batch_messages = batch_messages
        self._frame_size = frame_size
        self._bodies: list[tuple[int, bytes]] = []
        self._channel = -1
        self.size = 0

    def add(self, channel: int, body: bytes) -> bytes | None:
        """Collect `body`; return the frame of what came before it, if that is full now."""
        cut = None
        cost = _uint_size(len(body)) + len(body)
        switch = 1 + _uint_size(channel)
        if (
            self.size >= self._batch_size
            or len(self._bodies) >= self._batch_messages
            or (self._bodies and self.size + switch + cost > self._frame_size)
        ):
            cut = self.take()
        if not self._bodies:
            self.size = 1 + switch
        elif channel != self._channel:
            cost += switch
        self._channel = channel
        self._bodies.append((channel, body))
        self.size += cost
        return cut

    def take(self) -> bytes | None:
        """Return all that is collected as one frame, and forget it; None if there is nothing."""
        bodies = self._bodies
        if not bodies:
            return None
        self._bodies = []
        self.size = 0
        return encode_frame(*bodies[0]) if len(bodies) == 1 else encode_batch(bodies)


@twin
def frame_head(frame: bytes) -> tuple[int, int, int]:
    """Return what a frame begins with: a channel, a type, and the position behind them."""
    channel, position = uint.decode(frame, 0, len(frame))
    type, position = uint.decode(frame, position, len(frame))
    return channel, type, position


@twin
def iter_batch(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (channel, type, start, end) of every body in the payload of a batch, as it is read.

    `data[start:end]` is what comes after the type. A switch to another channel is yielded too, with
    `SWITCH` for a type, so that whoever counts steps counts those as well. Raises EncodingError or
    ProtocolError at the first byte that is wrong; the bodies before it have been yielded by then.
    """
    channel, position = uint.decode(data, start, end)
    while position < end:
        size, position = uint.decode(data, position, end)
        if size == 0:
            channel, position = uint.decode(data, position, end)
            yield channel, SWITCH, position, position
            continue
        after = position + size
        if after > end:
            raise ProtocolError(
                f"expected {size} bytes of a batched message at {position}, got {end - position}"
            )
        type, position = uint.decode(data, position, after)
        yield channel, type, position, after
        position = after
