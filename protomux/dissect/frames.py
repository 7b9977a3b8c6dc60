"""The frames of Protomux, declared with Construct. Knows one frame, nothing of what came before.

    frame    (nothing), or: uint channel, then the body of control (channel 0) or of a message
    control  uint type: 0 batch, 1 open, 2 reject, 3 close; others are left as they are
    message  uint type, payload
    batch    uint channel, then to the end: uint size and a body of so many bytes for that
             channel; or a size of 0 and uint channel, which is that of the bodies after it
    open     uint channel, string protocol, optional buffer id, handshake
    reject   uint channel
    close    uint channel

A batch inside a batch is refused, as is a body that runs past the end. What comes behind a reject
or a close is ignored.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import IO, Any, Final, NamedTuple

from construct import Container, IfThenElse, Struct, Switch, stream_write, this

from protomux.dissect.compact import optional_buffer, raw, string, uint
from protomux.dissect.tree import (
    Format,
    FormatBase,
    Node,
    PartBase,
    Wrong,
    build,
    field,
    tape_of,
)

__all__ = ["CONTROL", "Body", "Control", "bodies", "frame"]

CONTROL: Final = 0
"""Number of the control channel."""


class Control(IntEnum):
    """Types of the control channel."""

    BATCH = 0
    OPEN = 1
    REJECT = 2
    CLOSE = 3


class _Ignored(FormatBase):
    """What is left, if anything; a part of the tree only if there is something."""

    def __init__(self) -> None:
        super().__init__()
        self.flagbuildnone = True

    def _parse(self, stream: IO[bytes], context: Any, path: str) -> bytes:
        if tape_of(stream).is_at_end:
            return b""
        rest: bytes = _IGNORED._parsereport(stream, context, path)
        return rest

    def _build(self, obj: bytes | None, stream: IO[bytes], context: Any, path: str) -> Any:
        return _IGNORED._build(obj or b"", stream, context, path)


_IGNORED: Final = field("ignored", raw)


class _Entries(FormatBase):
    """The bodies of a batch, up to its end; `channel` beside it is that of the first."""

    def _parse(self, stream: IO[bytes], context: Any, path: str) -> list[Any]:
        tape = tape_of(stream)
        channel = context.channel
        entries = []
        while not tape.is_at_end:
            tape.begin("entry")
            entry = self._parse_entry(stream, context, path, channel)
            tape.finish(entry)
            channel = entry.get("switch", channel)
            entries.append(entry)
        return entries

    def _parse_entry(self, stream: IO[bytes], context: Any, path: str, channel: int) -> Any:
        tape = tape_of(stream)
        size = _SIZE._parsereport(stream, context, path)
        if size == 0:
            return Container(switch=_SWITCH._parsereport(stream, context, path))
        format = _inner_control if channel == CONTROL else _message
        with tape.narrowed(size, "a batched message"):
            body = format._parsereport(stream, context, path)
        return Container(body=body)

    def _build(self, obj: Any, stream: IO[bytes], context: Any, path: str) -> Any:
        channel = context.channel
        for entry in obj:
            if "switch" in entry:
                channel = entry["switch"]
                data = b"\x00" + build(uint, channel)
            else:
                body = build(_inner_control if channel == CONTROL else _message, entry["body"])
                data = build(uint, len(body)) + body
            stream_write(stream, data, len(data), path)
        return obj


class _ControlType(FormatBase):
    """The type of a control message inside a batch: anything but another batch."""

    def _parse(self, stream: IO[bytes], context: Any, path: str) -> int:
        begin = tape_of(stream).position
        type: int = uint._parsereport(stream, context, path)
        if type == Control.BATCH:
            raise Wrong(begin, "expected no batch inside a batch")
        return type

    def _build(self, obj: Any, stream: IO[bytes], context: Any, path: str) -> Any:
        return uint._build(obj, stream, context, path)


_SIZE: Final = field("size", uint)
_SWITCH: Final = field("channel", uint)

_batch: Final = Struct(field("channel", uint), "entries" / _Entries())
_open: Final = Struct(
    field("channel", uint),
    field("protocol", string),
    field("id", optional_buffer),
    field("handshake", raw),
)
_number: Final = Struct(field("channel", uint), "ignored" / _Ignored())
_message: Final = Struct(field("type", uint), field("payload", raw))

_CONTROLS: Final = {
    Control.OPEN: field("open", _open),
    Control.REJECT: field("reject", _number),
    Control.CLOSE: field("close", _number),
}
_inner_control: Final = Struct(
    field("type", _ControlType()), "content" / Switch(this.type, _CONTROLS, default=_IGNORED)
)
_control: Final = Struct(
    field("type", uint),
    "content"
    / Switch(this.type, {**_CONTROLS, Control.BATCH: field("batch", _batch)}, default=_IGNORED),
)


class _Frame(PartBase):
    """Nothing at all, or a channel and a body."""

    def _parse(self, stream: IO[bytes], context: Any, path: str) -> Any:
        if tape_of(stream).is_at_end:
            return None
        return self.subcon._parsereport(stream, context, path)

    def _build(self, obj: Any, stream: IO[bytes], context: Any, path: str) -> Any:
        return None if obj is None else self.subcon._build(obj, stream, context, path)


frame: Final[Format] = _Frame(
    Struct(field("channel", uint), "body" / IfThenElse(this.channel == CONTROL, _control, _message))
)
"""One frame, from its first byte to its last; None where it is empty."""


class Body(NamedTuple):
    """A message, or what a control message says, inside of a frame's tree.

    Attributes:
        channel: the sender's number, CONTROL for a control message.
        type: of the message, or of the control message.
        content: "payload", or "open", "reject", "close" or "ignored".
    """

    channel: int
    type: int
    content: Node


def bodies(root: Node) -> Iterator[Body]:
    """Yield what a `frame` says, in order, batches taken apart; what is not whole is left out."""
    channel = root.child("channel")
    batch = root.child("batch")
    if channel is None:
        return
    if batch is None:
        yield from _body(channel.value, root)
        return
    for part in batch.children:
        if part.name == "channel":
            channel = part
        elif (switch := part.child("channel")) is not None:
            channel = switch
        else:
            yield from _body(channel.value, part)


def _body(channel: int, node: Node) -> Iterator[Body]:
    type = node.child("type")
    content = node.children[-1]
    if type is not None and content is not type and content.is_whole:
        yield Body(channel, type.value, content)
