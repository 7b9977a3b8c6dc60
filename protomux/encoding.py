"""Compact encoding: the byte format of every value on the wire. Knows bytes, no protocol.

An `Encoding` turns a value into bytes and reads it back from a position:

    encode(value) -> bytes
    decode(data, start, end) -> (value, next)     # reads data[start:next], next <= end

Reading never passes `end`: what is cut short raises `EncodingError`, as does a value of the
wrong type or size. The formats are those of the npm package compact-encoding 3.5.2.
"""

from __future__ import annotations

import json as _json
from collections.abc import Iterable
from math import isinf
from typing import Any, Final, Generic, NoReturn, Protocol, TypeAlias, TypeVar

from protomux.errors import EncodingError
from protomux.speedups import twin

__all__ = [
    "MAX_ARRAY",
    "MAX_INT",
    "MAX_UINT",
    "MIN_INT",
    "BytesLike",
    "Encoding",
    "array",
    "bool_",
    "buffer",
    "fixed",
    "fixed32",
    "fixed64",
    "int_",
    "json",
    "optional_buffer",
    "raw",
    "string",
    "uint",
]

BytesLike: TypeAlias = bytes | bytearray | memoryview

MAX_UINT: Final = 2**53 - 1
"""Largest integer sent or accepted: JavaScript's Number.MAX_SAFE_INTEGER."""
MAX_INT: Final = 2**52 - 1
"""Largest signed integer: zig-zag doubles it, and the result must not pass MAX_UINT."""
MIN_INT: Final = -(2**52)
"""Smallest signed integer."""
MAX_ARRAY: Final = 0x100000
"""Most items that an array may announce."""

T = TypeVar("T")


class Encoding(Protocol[T]):
    """How values of one type look on the wire."""

    def encode(self, value: T, /) -> bytes:
        """Return the bytes of `value`; raise EncodingError where it does not fit."""
        ...

    def decode(self, data: bytes, start: int, end: int, /) -> tuple[T, int]:
        """Read one value from `data[start:end]`; return it and the position after it.

        Raises EncodingError where the bytes end too early or mean nothing.
        """
        ...


def _refuse(value: object, expected: str) -> NoReturn:
    text = repr(value)
    if len(text) > 60:
        text = f"{text[:57]}..."
    raise EncodingError(f"expected {expected}, got {type(value).__name__} {text}")


def _cut_short(needed: int, what: str, start: int, end: int) -> NoReturn:
    raise EncodingError(f"expected {needed} bytes of {what} at {start}, got {max(end - start, 0)}")


def _as_bytes(value: object, what: str) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    _refuse(value, f"bytes for {what}")


@twin
class _Uint:
    """Unsigned integer, 0 to 2^53-1: 1, 3, 5 or 9 bytes, little endian behind a length mark."""

    def encode(self, value: int, /) -> bytes:
        if not isinstance(value, int) or isinstance(value, bool):
            _refuse(value, "an int")
        if 0 <= value <= 0xFC:
            return value.to_bytes(1, "little")
        if not 0 <= value <= MAX_UINT:
            _refuse(value, "an integer from 0 to 2^53-1")
        if value <= 0xFFFF:
            return b"\xfd" + value.to_bytes(2, "little")
        if value <= 0xFFFFFFFF:
            return b"\xfe" + value.to_bytes(4, "little")
        return b"\xff" + value.to_bytes(8, "little")

    def decode(self, data: bytes, start: int, end: int, /) -> tuple[int, int]:
        if start >= end:
            _cut_short(1, "an integer", start, end)
        first = data[start]
        if first <= 0xFC:
            return first, start + 1
        size = 1 << (first - 0xFC)
        after = start + 1 + size
        if after > end:
            _cut_short(size, "an integer", start + 1, end)
        value = int.from_bytes(data[start + 1 : after], "little")
        if value > MAX_UINT:
            _refuse(value, "an integer up to 2^53-1")
        return value, after


class _Int:
    """Signed integer, -2^52 to 2^52-1, as the zig-zag of a uint: 0, -1, 1, -2, 2, ..."""

    def encode(self, value: int, /) -> bytes:
        if not isinstance(value, int) or isinstance(value, bool):
            _refuse(value, "an int")
        if not MIN_INT <= value <= MAX_INT:
            _refuse(value, "an integer from -2^52 to 2^52-1")
        return uint.encode(-2 * value - 1 if value < 0 else 2 * value)

    def decode(self, data: bytes, start: int, end: int, /) -> tuple[int, int]:
        value, after = uint.decode(data, start, end)
        return (-((value + 1) >> 1) if value & 1 else value >> 1), after


class _Fixed:
    """Exactly `size` bytes, without a length in front."""

    def __init__(self, size: int) -> None:
        if size < 0:
            raise ValueError(f"expected a size of 0 or more, got {size}")
        self.size: Final = size

    def encode(self, value: BytesLike, /) -> bytes:
        data = _as_bytes(value, f"a fixed {self.size}")
        if len(data) != self.size:
            raise EncodingError(f"expected {self.size} bytes, got {len(data)}: {data[:16].hex()}")
        return data

    def decode(self, data: bytes, start: int, end: int, /) -> tuple[bytes, int]:
        after = start + self.size
        if after > end:
            _cut_short(self.size, "a fixed field", start, end)
        return data[start:after], after


class _Buffer:
    """Bytes behind their length."""

    def encode(self, value: BytesLike, /) -> bytes:
        data = _as_bytes(value, "a buffer")
        return uint.encode(len(data)) + data

    def decode(self, data: bytes, start: int, end: int, /) -> tuple[bytes, int]:
        size, begin = uint.decode(data, start, end)
        after = begin + size
        if after > end:
            _cut_short(size, "a buffer", begin, end)
        return data[begin:after], after


class _OptionalBuffer:
    """Bytes behind their length; None and no bytes at all are one and the same: length 0."""

    def encode(self, value: BytesLike | None, /) -> bytes:
        return b"\x00" if value is None else buffer.encode(value)

    def decode(self, data: bytes, start: int, end: int, /) -> tuple[bytes | None, int]:
        value, after = buffer.decode(data, start, end)
        return value or None, after


class _String:
    """Text as UTF-8 behind its length in bytes. Bytes that are no UTF-8 are refused."""

    def encode(self, value: str, /) -> bytes:
        if not isinstance(value, str):
            _refuse(value, "a str")
        try:
            data = value.encode()
        except UnicodeEncodeError:
            _refuse(value, "text without lone surrogates")
        return uint.encode(len(data)) + data

    def decode(self, data: bytes, start: int, end: int, /) -> tuple[str, int]:
        value, after = buffer.decode(data, start, end)
        try:
            return value.decode(), after
        except UnicodeDecodeError:
            _refuse(value, "UTF-8 text")


class _Bool:
    """One byte. 1 is True, everything else reads as False."""

    def encode(self, value: bool, /) -> bytes:
        if not isinstance(value, bool):
            _refuse(value, "a bool")
        return b"\x01" if value else b"\x00"

    def decode(self, data: bytes, start: int, end: int, /) -> tuple[bool, int]:
        if start >= end:
            _cut_short(1, "a bool", start, end)
        return data[start] == 1, start + 1


class _Raw:
    """All that is left of the message."""

    def encode(self, value: BytesLike, /) -> bytes:
        return _as_bytes(value, "raw bytes")

    def decode(self, data: bytes, start: int, end: int, /) -> tuple[bytes, int]:
        return data[start:end], max(start, end)


class _Json:
    """JSON text as a string, written as JavaScript's JSON.stringify does: no blanks, UTF-8.

    NaN and the infinities are refused both ways, since JSON has no word for them.
    """

    def encode(self, value: Any, /) -> bytes:
        try:
            text = _json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        except (TypeError, ValueError, RecursionError) as error:
            raise EncodingError(f"expected a value that JSON can say: {error}") from error
        # A lone surrogate has no UTF-8; JSON.stringify writes it as \udXXX, and so do we.
        data = text.encode("utf-8", "backslashreplace")
        return uint.encode(len(data)) + data

    def decode(self, data: bytes, start: int, end: int, /) -> tuple[Any, int]:
        text, after = string.decode(data, start, end)
        try:
            return _json.loads(text, parse_constant=_no_constant, parse_float=_finite), after
        except (ValueError, RecursionError) as error:
            raise EncodingError(f"expected JSON text: {error}") from error


def _finite(text: str) -> float:
    value = float(text)
    if isinf(value):
        raise ValueError(f"{text} is too large a number")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


class _Array(Generic[T]):
    """A count and that many items, at most 0x100000."""

    def __init__(self, item: Encoding[T]) -> None:
        self.item: Final = item

    def encode(self, value: Iterable[T], /) -> bytes:
        try:
            items = list(value)
        except TypeError:
            _refuse(value, "an iterable of items")
        if len(items) > MAX_ARRAY:
            raise EncodingError(f"expected at most {MAX_ARRAY} items, got {len(items)}")
        encode = self.item.encode
        return uint.encode(len(items)) + b"".join([encode(item) for item in items])

    def decode(self, data: bytes, start: int, end: int, /) -> tuple[list[T], int]:
        count, position = uint.decode(data, start, end)
        if count > MAX_ARRAY:
            raise EncodingError(f"expected at most {MAX_ARRAY} items, got {count}")
        decode = self.item.decode
        items = []
        for _ in range(count):
            item, position = decode(data, position, end)
            items.append(item)
        return items, position


def fixed(size: int) -> Encoding[bytes]:
    """Return the encoding of exactly `size` bytes."""
    return _Fixed(size)


def array(item: Encoding[T]) -> Encoding[list[T]]:
    """Return the encoding of a list of `item`s; anything iterable can be encoded."""
    return _Array(item)


uint: Final = _Uint()
int_: Final = _Int()
fixed32: Final = _Fixed(32)
fixed64: Final = _Fixed(64)
buffer: Final = _Buffer()
optional_buffer: Final = _OptionalBuffer()
string: Final = _String()
bool_: Final = _Bool()
raw: Final = _Raw()
json: Final = _Json()
