"""A file of frames: its format, declared with Construct, and how it is written and read.

    capture  magic, u16 version, u64 microseconds since 1970 when it began; then records
    record   u32 size of what follows, u8 kind, u32 number of the stream, u64 microseconds since
             the capture began, by a clock that never steps back; then by kind
      start    u8 1 for the initiator, 64 bytes handshake hash, 32 bytes key of the peer
      frame    the frame; its kind tells whether it came in or went out
      end      u8 1 if an error ended the stream, UTF-8 text of it

Integers are little endian. A record is written in one piece behind those before it, so a process
that is killed leaves at most its last record torn.

Frames stand in a capture as they were before the cipher: the ids of topics, the proofs of
capabilities, the announced keys and lengths can all be read. Capabilities and the keys of the
cipher are not in it. A file is for its owner only (mode 0600).
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from enum import IntEnum
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, TypeAlias

from construct import Bytes, Int8ul, Int16ul, Int32ul, Int64ul, Struct, Switch, this

from protomux.dissect.compact import fixed32, fixed64, raw
from protomux.dissect.conversation import Direction
from protomux.dissect.ownfile import OnError, OwnFile
from protomux.dissect.tree import (
    Format,
    PartBase,
    Problem,
    Wrong,
    build,
    dissect,
    field,
    tape_of,
    torn,
)

__all__ = [
    "MAGIC",
    "VERSION",
    "CaptureWriter",
    "Entry",
    "Frame",
    "StreamEnd",
    "StreamStart",
    "capture_header",
    "read_capture",
    "record",
]

MAGIC: Final = b"\x89PMUXCAP"
VERSION: Final = 1
_HEADER_SIZE: Final = 8 + 2 + 8
_SIZE_SIZE: Final = 4
_MOST: Final = 2**24 + 1024
"""Bytes of a record: a frame has less than 2^24."""
_MAX_ERROR: Final = 512


class _Kind(IntEnum):
    START = 1
    IN = 2
    OUT = 3
    END = 4


class StreamStart(NamedTuple):
    """A stream is open.

    Attributes:
        stream: its number in the capture, from 1.
        time: seconds since the capture began.
        is_initiator: the recording side began the handshake.
        handshake_hash: 64 bytes.
        remote_public_key: 32 bytes.
    """

    stream: int
    time: float
    is_initiator: bool
    handshake_hash: bytes
    remote_public_key: bytes


class Frame(NamedTuple):
    """A frame.

    Attributes:
        stream: its stream's number in the capture.
        time: seconds since the capture began; None where nobody wrote that down.
        direction: which way it went, seen from the recording side.
        data: all of it.
        offset: of its first byte in the file.
    """

    stream: int
    time: float | None
    direction: Direction
    data: bytes
    offset: int


class StreamEnd(NamedTuple):
    """A stream is gone.

    Attributes:
        stream, time: as of a StreamStart.
        error: what ended it, None after an orderly close.
    """

    stream: int
    time: float
    error: str | None


Entry: TypeAlias = StreamStart | Frame | StreamEnd


class _Magic(PartBase):
    """The bytes by which a capture is known."""

    def _parse(self, stream: IO[bytes], context: Any, path: str) -> bytes:
        begin = tape_of(stream).position
        found: bytes = self.subcon._parsereport(stream, context, path)
        if found != MAGIC:
            offset = next(i for i, (a, b) in enumerate(zip(found, MAGIC, strict=True)) if a != b)
            raise Wrong(begin + offset, f"expected a capture, which begins with {MAGIC!r}")
        return found

    def _build(self, obj: None, stream: IO[bytes], context: Any, path: str) -> Any:
        return self.subcon._build(MAGIC, stream, context, path)


class _Among(PartBase):
    """A number that is one of a few."""

    def __init__(self, subcon: Format, known: Collection[int]) -> None:
        super().__init__(subcon)
        self._known = known

    def _parse(self, stream: IO[bytes], context: Any, path: str) -> int:
        begin = tape_of(stream).position
        found: int = self.subcon._parsereport(stream, context, path)
        if found not in self._known:
            known = " or ".join(str(int(each)) for each in self._known)
            raise Wrong(begin, f"expected {known}, got {found}")
        return found

    def _build(self, obj: int, stream: IO[bytes], context: Any, path: str) -> Any:
        return self.subcon._build(obj, stream, context, path)


capture_header: Final[Format] = Struct(
    field("magic", _Magic(Bytes(len(MAGIC)))),
    field("version", _Among(Int16ul, [VERSION])),
    field("began", Int64ul),
)
"""The first bytes of a capture."""

_start: Final = Struct(
    field("is_initiator", Int8ul),
    field("handshake_hash", fixed64),
    field("remote_public_key", fixed32),
)
_end: Final = Struct(field("has_error", Int8ul), field("error", raw))
_frame: Final = field("frame", raw)

record: Final[Format] = Struct(
    field("kind", _Among(Int8ul, list(_Kind))),
    field("stream", Int32ul),
    field("time", Int64ul),
    "content"
    / Switch(
        this.kind, {_Kind.START: _start, _Kind.IN: _frame, _Kind.OUT: _frame, _Kind.END: _end}
    ),
)
"""A record behind its size."""


class CaptureWriter:
    """Writes a capture, until it is closed or cannot go on.

    Each record is handed to the operating system at once, from the event loop: what a program
    has said it did is in the file when the program is killed.
    """

    def __init__(self, path: Path, on_error: OnError | None = None) -> None:
        """Begin a capture in a new file, or in one that is empty.

        `on_error(error)` is called once, where a write fails; the capture ends there, with the
        last whole record. Raises FileExistsError for a file that is not empty, and OSError for
        one that cannot be written or that another process records to.
        """
        self._file: Final = OwnFile(path, on_error)
        self._streams = 0
        self._began = time.monotonic_ns()
        # It is written with the first record, so that what records nothing leaves an empty file,
        # which the next may use.
        now = time.time_ns() // 1000
        self._header = build(capture_header, {"magic": None, "version": VERSION, "began": now})

    @property
    def error(self) -> OSError | None:
        """Why nothing is written any more; None while all is well, and after `close()`."""
        return self._file.error

    def start(self, is_initiator: bool, handshake_hash: bytes, remote_public_key: bytes) -> int:
        """A stream is open; return its number."""
        self._streams += 1
        self._write(
            _Kind.START,
            self._streams,
            {
                "is_initiator": int(is_initiator),
                "handshake_hash": handshake_hash,
                "remote_public_key": remote_public_key,
            },
        )
        return self._streams

    def frame(self, stream: int, direction: Direction, data: bytes) -> None:
        """A frame came in on the stream of that number, or went out."""
        self._write(_Kind.IN if direction is Direction.IN else _Kind.OUT, stream, data)

    def end(self, stream: int, error: Exception | None) -> None:
        """The stream of that number is gone."""
        text = "" if error is None else (str(error) or type(error).__name__)
        content = {"has_error": int(error is not None), "error": text.encode()[:_MAX_ERROR]}
        self._write(_Kind.END, stream, content)

    def close(self) -> None:
        """Write no more."""
        self._file.close()

    def _write(self, kind: _Kind, stream: int, content: object) -> None:
        if not self._file.is_open:
            return
        passed = (time.monotonic_ns() - self._began) // 1000
        value = {"kind": kind, "stream": stream, "time": passed, "content": content}
        data = build(record, value)
        header, self._header = self._header, b""
        self._file.append(header + len(data).to_bytes(_SIZE_SIZE, "little") + data)


def read_capture(file: IO[bytes]) -> Iterator[Entry | Problem]:
    """Yield what a capture holds, record by record, and what is wrong with it, where it is.

    An empty file holds nothing. Offsets of problems are those in the file. Nothing is read beyond
    a record whose size is wrong or that is cut short. Raises OSError where it cannot be read.
    """
    data = file.read(_HEADER_SIZE)
    if not data:
        return
    problem = dissect(capture_header, data, name="header").problem
    offset = len(data)
    while problem is None:
        size_field = file.read(_SIZE_SIZE)
        if not size_field:
            return
        size = int.from_bytes(size_field, "little")
        begin = offset + _SIZE_SIZE
        if len(size_field) < _SIZE_SIZE:
            problem = torn(_SIZE_SIZE, offset, len(size_field))
        elif size > _MOST:
            problem = Problem(offset, f"expected a record of at most {_MOST} bytes, got {size}")
        elif len(data := file.read(size)) < size:
            problem = torn(size, begin, len(data))
        else:
            yield _entry(data, begin)
            offset = begin + size
    yield problem


def _entry(data: bytes, offset: int) -> Entry | Problem:
    found = dissect(record, data, name="record")
    if found.problem is not None:
        return Problem(offset + found.problem.offset, found.problem.reason)
    value = found.value
    stream, seconds, content = value.stream, value.time / 1e6, value.content
    if value.kind == _Kind.START:
        return StreamStart(
            stream,
            seconds,
            content.is_initiator == 1,
            content.handshake_hash,
            content.remote_public_key,
        )
    if value.kind == _Kind.END:
        text = content.error.decode(errors="replace")
        return StreamEnd(stream, seconds, text if content.has_error else None)
    direction = Direction.IN if value.kind == _Kind.IN else Direction.OUT
    return Frame(stream, seconds, direction, content, offset + len(data) - len(content))
