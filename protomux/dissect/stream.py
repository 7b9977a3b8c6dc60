"""The bytes of a secret stream, declared with Construct. Knows layouts, no key.

message    24-bit little-endian size, and so many bytes
one side   its Noise messages, its header, then encrypted frames, each as a message
Noise      e: an ephemeral key, 32 bytes; s: a static key, 32 bytes and 16 of a tag; payload:
           what is left, which ends in a tag where there is a key already
header     stream id, 32 bytes; start of the secretstream, 24 bytes
frame      as secretstream has it: a tag byte, the frame, 16 bytes that authenticate both

What is encrypted stays so; `protomux.dissect.capture` holds frames that are not.
"""

from __future__ import annotations

from typing import IO, Any, Final

from construct import Bytes, Int24ul, Sequence, Struct, stream_read, stream_write

from protomux.dissect.compact import fixed32, raw
from protomux.dissect.tree import Format, FormatBase, PartBase, Wrong, build, field, tape_of

__all__ = ["PATTERNS", "encrypted_frame", "header", "message", "noise_messages", "side"]

_TAG_SIZE: Final = 16
_MAX_NOISE: Final = 65535
_MAX_MESSAGE: Final = 2**24 - 1


class _Message(PartBase):
    """A size, and so many bytes of something else."""

    def __init__(self, subcon: Format, least: int, most: int) -> None:
        super().__init__(subcon)
        self._least, self._most = least, most

    def _parse(self, stream: IO[bytes], context: Any, path: str) -> Any:
        tape = tape_of(stream)
        begin = tape.position
        size = _SIZE._parsereport(stream, context, path)
        if not self._least <= size <= self._most:
            expected = f"{self._least}"
            if self._most > self._least:
                expected += f" to {self._most}"
            raise Wrong(begin, f"expected a message of {expected} bytes, got {size}")
        with tape.narrowed(size, "a message"):
            return self.subcon._parsereport(stream, context, path)

    def _build(self, obj: Any, stream: IO[bytes], context: Any, path: str) -> Any:
        data = build(self.subcon, obj)
        data = build(Int24ul, len(data)) + data
        stream_write(stream, data, len(data), path)
        return obj


class _UpToTag(FormatBase):
    """All bytes but the last 16."""

    def _parse(self, stream: IO[bytes], context: Any, path: str) -> bytes:
        tape = tape_of(stream)
        return stream_read(stream, max(tape.end - tape.position - _TAG_SIZE, 0), path)

    def _build(self, obj: bytes, stream: IO[bytes], context: Any, path: str) -> Any:
        return raw._build(obj, stream, context, path)


class _UntilEnd(PartBase):
    """One after the other, as long as there are bytes."""

    def _parse(self, stream: IO[bytes], context: Any, path: str) -> list[Any]:
        tape = tape_of(stream)
        found = []
        while not tape.is_at_end:
            found.append(self.subcon._parsereport(stream, context, path))
        return found

    def _build(self, obj: Any, stream: IO[bytes], context: Any, path: str) -> Any:
        for each in obj:
            self.subcon._build(each, stream, context, path)
        return obj


_SIZE: Final = field("size", Int24ul)
_TAG: Final = field("tag", Bytes(_TAG_SIZE))
_E: Final = field("e", fixed32)
_S: Final = field("s", Struct(field("key", fixed32), _TAG))
_PLAIN: Final = field("payload", raw)
_SEALED: Final = field("payload", Struct(field("ciphertext", _UpToTag()), _TAG))

_NOISE: Final[dict[str, tuple[Format, ...]]] = {
    "XX": (Struct(_E, _PLAIN), Struct(_E, _S, _SEALED), Struct(_S, _SEALED)),
    "IK": (Struct(_E, _S, _SEALED), Struct(_E, _SEALED)),
    "XK": (Struct(_E, _SEALED), Struct(_E, _SEALED), Struct(_S, _SEALED)),
}

PATTERNS: Final = tuple(_NOISE)
"""Names of the patterns."""

header: Final[Format] = Struct(field("id", fixed32), field("start", Bytes(24)))
"""The first message of each side after the handshake."""

encrypted_frame: Final[Format] = Struct(
    field("secretstream_tag", Bytes(1)), field("ciphertext", _UpToTag()), _TAG
)
"""A frame as it travels, 17 bytes longer than it is."""

message: Final[Format] = _Message(field("body", raw), 0, _MAX_MESSAGE)
"""A message of any kind."""


def noise_messages(pattern: str) -> tuple[Format, ...]:
    """Return the Noise messages of a pattern, the initiator's and the responder's in turn."""
    return _NOISE[pattern]


def side(pattern: str, *, is_initiator: bool) -> Format:
    """Return the format of all that one side of a stream sends."""
    own = _NOISE[pattern][0 if is_initiator else 1 :: 2]
    return Sequence(
        *(field("noise", _Message(each, 0, _MAX_NOISE)) for each in own),
        field("header", _Message(header, 56, 56)),
        _UntilEnd(field("message", _Message(encrypted_frame, 17, _MAX_MESSAGE))),
    )
