"""Reads server-sent events (WHATWG HTML, section 9.2). Knows no HTTP and no connection.

Lines end with LF, CR or CRLF, wherever the bytes are cut into pieces; a byte order mark may come
first. What is not UTF-8 is replaced, as the standard has it. What has begun when the stream ends is
no event.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from protomux.errors import LimitExceeded

__all__ = ["Event", "EventReader"]

_BOM: Final = b"\xef\xbb\xbf"
_DIGITS: Final = 9
"""Of a time to wait; a longer one is weeks, and may be too long to be read."""
_LINE_ENDS: Final = re.compile(rb"\r\n|\r|\n")


class Event(NamedTuple):
    """One event.

    Attributes:
        type: "message" where the stream did not name one.
        data: its lines, with a line feed between them.
        id: the last that the stream has told; "" before there is one.
    """

    type: str
    data: str
    id: str


class EventReader:
    """Reads one stream, which comes in pieces.

    Attributes:
        retry: milliseconds to wait before connecting again, where the stream has told.
    """

    def __init__(self, size: int) -> None:
        """Hold at most `size` bytes: of one line, and of the data of one event."""
        self.retry: int | None = None
        self._size = size
        self._is_first = True
        self._begun = bytearray()
        self._after_cr = False
        self._type = ""
        self._data: list[str] = []
        self._data_size = 0
        self._id = ""

    def feed(self, piece: bytes) -> list[Event]:
        """Return the events that end in `piece`.

        Raises LimitExceeded where a line or an event is too long; nothing may come after that.
        """
        if self._after_cr and piece:
            piece = piece.removeprefix(b"\n")
            self._after_cr = False
        if self._is_first:
            piece = self._without_mark(piece)
        if not piece:
            return []
        self._after_cr = piece.endswith(b"\r")
        first, *rest = _LINE_ENDS.split(piece)
        self._begun += first
        events: list[Event] = []
        for line in rest:
            self._end_line(events)
            self._begun += line
        self._check(len(self._begun), "a line")
        return events

    def _without_mark(self, piece: bytes) -> bytes:
        """Return what is to be read: nothing as long as it may be the start of a mark."""
        self._begun += piece
        if len(self._begun) < len(_BOM) and _BOM.startswith(self._begun):
            return b""
        self._is_first = False
        whole = bytes(self._begun).removeprefix(_BOM)
        self._begun.clear()
        return whole

    def _check(self, size: int, what: str) -> None:
        if size > self._size:
            raise LimitExceeded(f"expected {what} of at most {self._size} bytes, got {size}")

    def _end_line(self, events: list[Event]) -> None:
        self._check(len(self._begun), "a line")
        line = self._begun.decode(errors="replace")
        self._begun.clear()
        if not line:
            self._end_event(events)
            return
        name, _, value = line.partition(":")  # a comment is a field without a name
        value = value.removeprefix(" ")
        if name == "data":
            self._data_size += len(value.encode()) + 1
            self._check(self._data_size, "an event")
            self._data.append(value)
        elif name == "event":
            self._type = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdecimal():
            self.retry = int(value) if len(value) <= _DIGITS else 10**_DIGITS

    def _end_event(self, events: list[Event]) -> None:
        if self._data:
            events.append(Event(self._type or "message", "\n".join(self._data), self._id))
        self._type = ""
        self._data.clear()
        self._data_size = 0
