"""Frames from arbitrary bytes, and the frames that an outbox makes.

The first byte says what the rest is: the payload of an open, of a batch, or bodies for an outbox.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from fuzz.harness.stage import Finding
from protomux.encoding import uint
from protomux.errors import ProtomuxError
from protomux.frames import (
    SWITCH,
    Control,
    FrameBuilder,
    decode_open,
    encode_batch,
    encode_frame,
    iter_batch,
    open_body,
)
from protomux.limits import Limits

__all__ = ["MAX_SIZE", "OPS", "run"]

OPS: Final = None
MAX_SIZE: Final = 256


def run(data: bytes) -> None:
    if data:
        (_open, _batch, _builder)[data[0] % 3](data)


def _open(data: bytes) -> None:
    try:
        opened = decode_open(data, 1, len(data))
    except ProtomuxError:
        return
    channel, protocol, id, handshake = opened
    if not 4 <= handshake <= len(data):
        raise Finding(f"a handshake at {handshake} of {len(data)}")
    body = open_body(channel, protocol, id, data[handshake:])
    again = decode_open(body, 1, len(body))
    if again[:3] != opened[:3] or body[again[3] :] != data[handshake:]:
        raise Finding(f"{opened} became {again}")


def _bodies(frame: bytes, start: int) -> list[tuple[int, bytes]]:
    """The bodies of a batch; a switch to another channel is none."""
    return [
        (channel, uint.encode(type) + frame[begin:end])
        for channel, type, begin, end in iter_batch(frame, start, len(frame))
        if type != SWITCH
    ]


def _batch(data: bytes) -> None:
    try:
        bodies = _bodies(data, 1)
    except ProtomuxError:
        return
    if bodies:
        _check(bodies, encode_batch(bodies))


def _check(bodies: list[tuple[int, bytes]], frame: bytes) -> None:
    channel, position = uint.decode(frame, 0, len(frame))
    if (channel, frame[position]) != (0, Control.BATCH):
        raise Finding(f"no batch: {frame.hex()}")
    if _bodies(frame, position + 1) != bodies:
        raise Finding(f"{bodies} became {_bodies(frame, position + 1)}")


@cache
def _limits(batch: int, frame: int) -> Limits:
    return Limits(batch_size=batch * 8, frame_size=64 + frame * 4)


def _builder(data: bytes) -> None:
    """Bounds, then bodies, each as channel, size, and that many bytes of its own index."""
    if len(data) < 3:
        return
    limits = _limits(data[1], data[2])
    builder = FrameBuilder(limits.batch_size, limits.batch_messages, limits.frame_size)
    bodies, frames = [], []
    for index in range(3, len(data) - 2, 3):
        channel = int.from_bytes(data[index : index + 2], "little") << (data[index + 2] & 24)
        body = bytes([1 + index % 255]) * (1 + data[index + 2] % 32)
        bodies.append((channel, body))
        cut = builder.add(channel, body)
        if cut is not None:
            frames.append(cut)
    size = builder.size
    last = builder.take()
    if last is not None:
        frames.append(last)
    if builder.size or builder.take() is not None:
        raise Finding("a builder that was emptied is not empty")
    found: list[tuple[int, bytes]] = []
    for frame in frames:
        if len(frame) > limits.frame_size:
            raise Finding(f"a frame of {len(frame)} bytes, {limits.frame_size} were allowed")
        if frame[:2] == b"\x00\x00":
            found += _bodies(frame, 2)
            if frame is last and len(frame) != size:
                raise Finding(f"a frame of {len(frame)} bytes, the builder had counted {size}")
        else:
            channel, position = uint.decode(frame, 0, len(frame))
            found.append((channel, frame[position:]))
            if frame != encode_frame(*found[-1]):
                raise Finding(f"no frame of one message: {frame.hex()}")
    if found != bodies:
        raise Finding(f"{bodies} left as {found}")
