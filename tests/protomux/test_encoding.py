"""The encodings, where a value or a byte is at its limit. The shapes in general: fuzz/."""

from __future__ import annotations

from typing import Any

import pytest

from protomux.encoding import (
    MAX_ARRAY,
    MAX_UINT,
    Encoding,
    array,
    bool_,
    buffer,
    fixed,
    fixed32,
    int_,
    json,
    optional_buffer,
    raw,
    string,
    uint,
)
from protomux.errors import EncodingError


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "00"),
        (0xFC, "fc"),
        (0xFD, "fdfd00"),
        (0xFFFF, "fdffff"),
        (0x10000, "fe00000100"),
        (0xFFFFFFFF, "feffffffff"),
        (0x100000000, "ff0000000001000000"),
        (MAX_UINT, "ffffffffffffff1f00"),
    ],
)
def test_uint_takes_the_shortest_form(value: int, encoded: str) -> None:
    assert uint.encode(value).hex() == encoded
    assert uint.decode(bytes.fromhex(encoded), 0, len(encoded) // 2) == (
        value,
        len(encoded) // 2,
    )


@pytest.mark.parametrize("encoded", ["fd0700", "fe07000000", "ff0700000000000000"])
def test_uint_accepts_longer_forms_than_needed(encoded: str) -> None:
    data = bytes.fromhex(encoded)
    assert uint.decode(data, 0, len(data)) == (7, len(data))


@pytest.mark.parametrize(
    ("encoding", "value", "text"),
    [
        (uint, -1, r"from 0 to 2\^53-1, got int -1"),
        (uint, MAX_UINT + 1, "got int 9007199254740992"),
        (uint, True, "expected an int, got bool True"),
        (uint, 1.0, "expected an int, got float 1.0"),
        (uint, "1", "expected an int, got str '1'"),
        (int_, 2**52, r"from -2\^52 to 2\^52-1, got int 4503599627370496"),
        (int_, None, "expected an int, got NoneType None"),
        (fixed32, bytes(31), "expected 32 bytes, got 31: 0000"),
        (fixed32, "x" * 100, r"expected bytes for a fixed 32, got str 'x{56}\.\.\."),
        (buffer, None, "expected bytes for a buffer, got NoneType"),
        (optional_buffer, 5, "expected bytes for a buffer, got int 5"),
        (raw, [1], "expected bytes for raw bytes, got list"),
        (string, b"x", "expected a str, got bytes b'x'"),
        (string, "\ud800", "without lone surrogates"),
        (bool_, 1, "expected a bool, got int 1"),
        (json, {1, 2}, "expected a value that JSON can say"),
        (json, float("nan"), "expected a value that JSON can say"),
        (array(uint), 5, "expected an iterable of items, got int 5"),
        (array(uint), [0, -1], "got int -1"),
        (array(uint), bytes(MAX_ARRAY + 1), "at most 1048576 items, got 1048577"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    encoding: Encoding[Any], value: object, text: str
) -> None:
    with pytest.raises(EncodingError, match=text):
        encoding.encode(value)


@pytest.mark.parametrize(
    ("encoding", "encoded", "text"),
    [
        (uint, "ff0000000000002000", r"up to 2\^53-1, got int 9007199254740992"),
        (string, "01ff", r"expected UTF-8 text, got bytes b'\\xff'"),
        (json, "034e614e", "NaN is no JSON value"),
        (json, "017b", "expected JSON text"),
        (json, "0531653939395d"[:12], "1e999 is too large a number"),
        (array(uint), "fe01001000", "at most 1048576 items, got 1048577"),
        (array(uint), "0201", "expected 1 bytes of an integer at 2, got 0"),
        (buffer, "0501", "expected 5 bytes of a buffer at 1, got 1"),
    ],
)
def test_what_does_not_decode_is_refused_by_name(
    encoding: Encoding[Any], encoded: str, text: str
) -> None:
    data = bytes.fromhex(encoded)
    with pytest.raises(EncodingError, match=text):
        encoding.decode(data, 0, len(data))


def test_deep_json_is_refused_not_a_crash() -> None:
    text = b"[" * 100_000
    with pytest.raises(EncodingError, match="expected JSON text"):
        json.decode(uint.encode(len(text)) + text, 0, len(text) + 5)
    value: list[Any] = []
    value.append(value)
    with pytest.raises(EncodingError, match="expected a value that JSON can say"):
        json.encode(value)


def test_anything_bytes_like_encodes() -> None:
    for data in (b"abc", bytearray(b"abc"), memoryview(b"abc")):
        assert raw.encode(data) == b"abc"
        assert buffer.encode(data) == optional_buffer.encode(data) == b"\x03abc"


def test_none_and_nothing_are_the_same_optional_buffer() -> None:
    assert optional_buffer.encode(None) == optional_buffer.encode(b"") == b"\x00"
    assert optional_buffer.decode(b"\x00", 0, 1) == (None, 1)


def test_only_one_is_true() -> None:
    assert [bool_.decode(bytes([byte]), 0, 1)[0] for byte in (0, 1, 2, 255)] == [
        False,
        True,
        False,
        False,
    ]


def test_fixed_needs_a_size() -> None:
    with pytest.raises(ValueError, match="0 or more, got -1"):
        fixed(-1)
    assert fixed(0).encode(b"") == b""
