"""Compact encoding, declared with Construct. Knows values, no message.

The bytes are those of the npm package compact-encoding 3.5.2, and what is refused is what
`protomux.encoding` refuses; the two share no code, so each checks the other.
"""

from __future__ import annotations

import json as _json
from math import isinf
from typing import IO, Any, Final, NoReturn

from construct import Byte, Bytes, GreedyBytes, Int16ul, Int32ul, Int64ul, stream_read

from protomux.dissect.tree import (
    AdapterBase,
    Format,
    FormatBase,
    PartBase,
    Wrong,
    field,
    refuse,
    tape_of,
)

__all__ = [
    "MAX_COUNT",
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

MAX_COUNT: Final = 0x100000
"""Most items of an array."""

_MOST: Final = 2**53 - 1


class _Uint(FormatBase):
    """One byte, or a mark and the integer behind it."""

    _behind: Final = {0xFD: Int16ul, 0xFE: Int32ul, 0xFF: Int64ul}

    def _parse(self, stream: IO[bytes], context: Any, path: str) -> int:
        first: int = Byte._parsereport(stream, context, path)
        if first not in self._behind:
            return first
        value: int = self._behind[first]._parsereport(stream, context, path)
        if value > _MOST:
            # Little endian: 2^53-1 ends in 1f 00, so one of the last two bytes is too large.
            after = tape_of(stream).position
            is_second_last = value >> 48 & 0xFF > 0x1F
            raise Wrong(after - 2 if is_second_last else after - 1, _too_large(value))
        return value

    def _build(self, obj: object, stream: IO[bytes], context: Any, path: str) -> Any:
        if type(obj) is not int or not 0 <= obj <= _MOST:
            refuse(obj, "an integer from 0 to 2^53-1")
        if obj < 0xFD:
            return Byte._build(obj, stream, context, path)
        mark = 0xFD if obj < 2**16 else 0xFE if obj < 2**32 else 0xFF
        Byte._build(mark, stream, context, path)
        return self._behind[mark]._build(obj, stream, context, path)


def _too_large(value: int) -> str:
    return f"expected an integer up to 2^53-1, got {value}"


class _Int(AdapterBase):
    """Zig-zag: 0, -1, 1, -2, 2, ..."""

    def _decode(self, obj: int, context: Any, path: str) -> int:
        half, is_negative = divmod(obj, 2)
        return -half - 1 if is_negative else half

    def _encode(self, obj: object, context: Any, path: str) -> int:
        if type(obj) is not int or not -(2**52) <= obj < 2**52:
            refuse(obj, "an integer from -2^52 to 2^52-1")
        return obj * 2 if obj >= 0 else -obj * 2 - 1


class _Octets(AdapterBase):
    """Bytes, of whatever type that has them."""

    def _decode(self, obj: bytes, context: Any, path: str) -> bytes:
        return obj

    def _encode(self, obj: object, context: Any, path: str) -> bytes:
        if not isinstance(obj, bytes | bytearray | memoryview):
            refuse(obj, "bytes")
        return bytes(obj)


class _Buffer(FormatBase):
    """A length and as many bytes."""

    def _parse(self, stream: IO[bytes], context: Any, path: str) -> bytes:
        size = uint._parsereport(stream, context, path)
        return stream_read(stream, size, path)

    def _build(self, obj: object, stream: IO[bytes], context: Any, path: str) -> Any:
        if not isinstance(obj, bytes | bytearray | memoryview):
            refuse(obj, "bytes")
        data = bytes(obj)
        uint._build(len(data), stream, context, path)
        return raw._build(data, stream, context, path)


class _OptionalBuffer(AdapterBase):
    """A buffer; None stands for no bytes."""

    def _decode(self, obj: bytes, context: Any, path: str) -> bytes | None:
        return obj or None

    def _encode(self, obj: object, context: Any, path: str) -> object:
        return b"" if obj is None else obj


class _String(PartBase):
    """A buffer of UTF-8."""

    def _parse(self, stream: IO[bytes], context: Any, path: str) -> str:
        data: bytes = self.subcon._parsereport(stream, context, path)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            begin = tape_of(stream).position - len(data)
            wrong = data[error.start : error.end].hex()
            raise Wrong(begin + error.start, f"expected UTF-8 text, got {wrong}") from error

    def _build(self, obj: object, stream: IO[bytes], context: Any, path: str) -> Any:
        if not isinstance(obj, str):
            refuse(obj, "a str")
        try:
            data = obj.encode()
        except UnicodeEncodeError:
            refuse(obj, "text without lone surrogates")
        return self.subcon._build(data, stream, context, path)


class _Bool(AdapterBase):
    """One byte: 1 is true."""

    def _decode(self, obj: int, context: Any, path: str) -> bool:
        return obj == 1

    def _encode(self, obj: object, context: Any, path: str) -> int:
        if not isinstance(obj, bool):
            refuse(obj, "a bool")
        return int(obj)


class _Json(PartBase):
    """A string of JSON. What JSON has no word for is refused: NaN, infinities."""

    def _parse(self, stream: IO[bytes], context: Any, path: str) -> Any:
        text: str = self.subcon._parsereport(stream, context, path)
        begin = tape_of(stream).position - len(text.encode())
        try:
            return _json.loads(text, parse_constant=_no_constant, parse_float=_finite)
        except _json.JSONDecodeError as error:
            offset = begin + len(text[: error.pos].encode())
            raise Wrong(offset, f"expected JSON text: {error.msg}") from error
        except (ValueError, RecursionError) as error:
            raise Wrong(begin, f"expected JSON text: {error}") from error

    def _build(self, obj: Any, stream: IO[bytes], context: Any, path: str) -> Any:
        try:
            text = _json.dumps(obj, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        except (TypeError, ValueError, RecursionError):
            refuse(obj, "a value that JSON can say")
        # JSON.stringify escapes the surrogates that have no UTF-8.
        data = text.encode("utf-8", "backslashreplace")
        return buffer._build(data, stream, context, path)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def _finite(text: str) -> float:
    value = float(text)
    if isinf(value):
        raise ValueError("a number is too large")
    return value


class _Count(PartBase):
    """How many items an array has."""

    def _parse(self, stream: IO[bytes], context: Any, path: str) -> int:
        begin = tape_of(stream).position
        count: int = self.subcon._parsereport(stream, context, path)
        if count > MAX_COUNT:
            raise Wrong(begin, f"expected at most {MAX_COUNT} items, got {count}")
        return count


class _Array(PartBase):
    """A count and as many items."""

    def _parse(self, stream: IO[bytes], context: Any, path: str) -> list[Any]:
        count = _COUNT._parsereport(stream, context, path)
        return [self.subcon._parsereport(stream, context, path) for _ in range(count)]

    def _build(self, obj: Any, stream: IO[bytes], context: Any, path: str) -> Any:
        items = list(obj)
        if len(items) > MAX_COUNT:
            refuse(obj, f"at most {MAX_COUNT} items")
        _COUNT._build(len(items), stream, context, path)
        for item in items:
            self.subcon._build(item, stream, context, path)
        return obj


uint: Final[Format] = _Uint()
int_: Final[Format] = _Int(uint)
raw: Final[Format] = _Octets(GreedyBytes)
buffer: Final[Format] = _Buffer()
optional_buffer: Final[Format] = _OptionalBuffer(buffer)
string: Final[Format] = _String(buffer)
bool_: Final[Format] = _Bool(Byte)
json: Final[Format] = _Json(string)

_COUNT: Final = field("count", _Count(uint))


def fixed(size: int) -> Format:
    """Return the format of exactly `size` bytes."""
    return _Octets(Bytes(size))


fixed32: Final = fixed(32)
fixed64: Final = fixed(64)


def array(item: Format, name: str = "item") -> Format:
    """Return the format of a list of `item`s, each of which has that name in the tree."""
    return _Array(field(name, item))
