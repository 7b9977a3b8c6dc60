"""Every encoding gives back what it was given, and refuses what it cannot read."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from protomux.encoding import (
    MAX_INT,
    MAX_UINT,
    MIN_INT,
    Encoding,
    array,
    bool_,
    buffer,
    fixed,
    fixed32,
    fixed64,
    int_,
    json,
    optional_buffer,
    raw,
    string,
    uint,
)
from protomux.errors import EncodingError
from protomux.frames import decode_open
from protomux_wakeup import messages

T = TypeVar("T")

KEYS = st.binary(min_size=32, max_size=32)
LENGTHS = st.integers(0, MAX_UINT)
TEXT = st.text()
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # lone surrogates too: JSON can say them
    | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)

CASES: dict[str, tuple[Encoding[Any], st.SearchStrategy[Any]]] = {
    "uint": (uint, LENGTHS),
    "int": (int_, st.integers(MIN_INT, MAX_INT)),
    "fixed32": (fixed32, KEYS),
    "fixed64": (fixed64, st.binary(min_size=64, max_size=64)),
    "fixed5": (fixed(5), st.binary(min_size=5, max_size=5)),
    "buffer": (buffer, st.binary(max_size=70_000)),
    "optional_buffer": (optional_buffer, st.none() | st.binary(min_size=1)),
    "string": (string, TEXT),
    "bool": (bool_, st.booleans()),
    "raw": (raw, st.binary()),
    "json": (json, JSON),
    "array of uint": (array(uint), st.lists(LENGTHS)),
    "array of array": (array(array(string)), st.lists(st.lists(TEXT))),
    "handshake": (
        messages.handshake,
        st.builds(messages.Handshake, LENGTHS, KEYS, st.booleans()),
    ),
    "lookup": (messages.lookup, st.builds(messages.Lookup, st.none() | KEYS)),
    "announce": (messages.announce, st.lists(st.builds(messages.Writer, KEYS, LENGTHS))),
    "info": (messages.info, st.builds(messages.Info, st.booleans())),
}
NAMES = pytest.mark.parametrize("name", CASES)
# Those whose values end by themselves: raw takes all there is.
ENDING = pytest.mark.parametrize("name", [name for name in CASES if name != "raw"])


@NAMES
@given(data=st.data(), before=st.binary(max_size=8))
def test_what_was_encoded_decodes_to_itself(name: str, data: st.DataObject, before: bytes) -> None:
    encoding, values = CASES[name]
    value = data.draw(values)
    encoded = before + encoding.encode(value)
    assert encoding.decode(encoded, len(before), len(encoded)) == (value, len(encoded))


@ENDING
@given(data=st.data(), after=st.binary(max_size=8))
def test_decoding_ends_where_the_value_ends(name: str, data: st.DataObject, after: bytes) -> None:
    encoding, values = CASES[name]
    value = data.draw(values)
    encoded = encoding.encode(value)
    whole = encoded + after
    assert encoding.decode(whole, 0, len(whole)) == (value, len(encoded))


@ENDING
@given(data=st.data())
def test_what_is_cut_short_is_refused_even_if_the_bytes_are_there(
    name: str, data: st.DataObject
) -> None:
    encoding, values = CASES[name]
    encoded = encoding.encode(data.draw(values))
    end = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(EncodingError):
        encoding.decode(encoded, 0, end)


@NAMES
@given(data=st.binary(), start=st.integers(0, 8))
def test_any_bytes_give_a_value_or_an_encoding_error(name: str, data: bytes, start: int) -> None:
    encoding, _ = CASES[name]
    assume(start <= len(data))
    try:
        value, after = encoding.decode(data, start, len(data))
    except EncodingError:
        return
    assert start <= after <= len(data)
    encoded = encoding.encode(value)
    again, _ = encoding.decode(encoded, 0, len(encoded))
    assert again == value


@NAMES
@given(
    value=st.none()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary()
    | st.booleans()
    | st.lists(st.integers())
    | st.builds(object)
)
def test_any_value_gives_bytes_or_an_encoding_error(name: str, value: Any) -> None:
    encoding, _ = CASES[name]
    # The messages of a protocol take their own types; what is inside may be anything.
    if name in ("handshake", "lookup", "info"):
        value = {
            "handshake": messages.Handshake(value, value, True),
            "lookup": messages.Lookup(value),
            "info": messages.Info(bool(value)),
        }[name]
    try:
        encoded = encoding.encode(value)
    except EncodingError:
        return
    assert isinstance(encoded, bytes)
    encoding.decode(encoded, 0, len(encoded))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_refuses_what_it_cannot_say(value: float) -> None:
    with pytest.raises(EncodingError):
        json.encode([value])


@given(st.binary())
def test_any_bytes_are_an_open_or_an_encoding_error(data: bytes) -> None:
    try:
        _, _, _, handshake = decode_open(data, 0, len(data))
    except EncodingError:
        return
    assert 3 <= handshake <= len(data)
