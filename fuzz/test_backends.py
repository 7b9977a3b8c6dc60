"""The JSON of session backends, what clusters answer, and streams of events, against models."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protomux.errors import LimitExceeded, ProtocolError
from protomux_wakeup.host.backends.dialects import read_response, read_state
from protomux_wakeup.host.backends.sse import Event, EventReader
from protomux_wakeup.host.backends.types import (
    BackendState,
    ConnectRequest,
    ConnectResponse,
    decode,
    encode,
)

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)

CHARACTERS = [*map(chr, range(0x180)), "\u2028", "\ufeff", "\uffff", "\U0001f600"]


def values_of(kind: msgspec.inspect.Type) -> st.SearchStrategy[Any]:
    """All values that a type may have, as its declaration says."""
    match kind:
        case msgspec.inspect.UnionType():
            return st.one_of([values_of(each) for each in kind.types])
        case msgspec.inspect.NoneType():
            return st.none()
        case msgspec.inspect.BoolType():
            return st.booleans()
        case msgspec.inspect.IntType():
            return st.integers(kind.ge, kind.le)
        case msgspec.inspect.StrType(pattern=None):
            return st.text(max_size=kind.max_length or 300)
        case msgspec.inspect.StrType():
            allowed = [each for each in CHARACTERS if re.search(kind.pattern or "", each)]
            return st.text(
                st.sampled_from(allowed), min_size=kind.min_length or 1, max_size=kind.max_length
            )
        case msgspec.inspect.EnumType():
            return st.sampled_from(list(kind.cls))
        case msgspec.inspect.DictType(value_type=msgspec.inspect.AnyType()):
            return st.dictionaries(values_of(kind.key_type), JSON, max_size=5)
        case msgspec.inspect.DictType():
            return st.dictionaries(values_of(kind.key_type), values_of(kind.value_type), max_size=5)
        case msgspec.inspect.StructType():
            fields = {field.name: values_of(field.type) for field in kind.fields}
            return st.builds(kind.cls, **fields)
    raise AssertionError(kind)


KINDS: dict[str, Any] = {
    "request": ConnectRequest,
    "response": ConnectResponse,
    "state": BackendState,
}
VALUES = {name: values_of(msgspec.inspect.type_info(kind)) for name, kind in KINDS.items()}
kinds = pytest.mark.parametrize("name", list(KINDS))


@kinds
@given(data=st.data())
def test_what_is_written_is_read_again(name: str, data: st.DataObject) -> None:
    value = data.draw(VALUES[name])
    written = encode(value)
    assert decode(written, KINDS[name]) == value
    assert decode(written.decode(), KINDS[name]) == value
    fields = json.loads(written)
    assert None not in fields.values()


def changed(written: bytes) -> st.SearchStrategy[bytes]:
    """What is nearly that."""

    def splice(first: int, last: int, between: bytes) -> bytes:
        return written[:first] + between + written[last:]

    places = st.integers(0, len(written))
    pieces = st.binary(max_size=4) | st.sampled_from(
        [b"null", b"1e999", b"-", b"[" * 2_000, b'"', b'\\ud800"', b"\xed\xa0\x80", b"9" * 5_000]
    )
    return st.builds(splice, places, places, pieces)


@kinds
@given(data=st.data())
def test_whatever_is_read_is_right_or_a_protocol_error(name: str, data: st.DataObject) -> None:
    text = data.draw(st.binary() | VALUES[name].map(encode).flatmap(changed))
    for kind in KINDS.values():
        try:
            value = decode(text, kind)
        except ProtocolError as error:
            message = str(error)
        else:
            message = ""
            assert decode(encode(value), kind) == value
        assert message.isprintable()
        assert len(message) < 300
    for read in (read_state, read_response):
        try:
            found = read(text)
        except ProtocolError:
            continue
        kind = BackendState if read is read_state else ConnectResponse
        assert decode(encode(found), kind) == found


def model(stream: bytes) -> list[Event]:
    """The algorithm of the standard, of a whole stream."""
    text = stream.decode(errors="replace").removeprefix("\ufeff")
    *lines, _ = re.split("\r\n|\r|\n", text)
    events: list[Event] = []
    kind = data = last = ""
    for line in lines:
        if not line:
            if data:
                events.append(Event(kind or "message", data.removesuffix("\n"), last))
            kind = data = ""
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            kind = value
        elif name == "data":
            data += value + "\n"
        elif name == "id" and "\0" not in value:
            last = value
    return events


STREAMS = st.lists(
    st.sampled_from(
        [b"data", b"event", b"id", b"retry", b":", b": ", b"\n", b"\r", b"\r\n", b"\n\n", b"a"]
    )
    | st.sampled_from([b"\xef\xbb\xbf", b"\xef", b"\xc3\xa4", b"\xff", b"\0", b"\xe2\x80\xa8"])
    | st.binary(max_size=2),
    max_size=40,
).map(b"".join)


@given(stream=STREAMS, cuts=st.lists(st.integers(0, 100)))
@example(stream=b"\xef\xbb\xbf" * 2 + b"data\n\n", cuts=[1, 2, 3])
@example(stream=b"data\r\n\r\ndata\r\r", cuts=[5, 7])
def test_events_are_those_of_the_standard(stream: bytes, cuts: list[int]) -> None:
    reader = EventReader(10_000)
    ends = sorted(min(cut, len(stream)) for cut in cuts)
    events = [
        event
        for begin, end in zip([0, *ends], [*ends, len(stream)], strict=True)
        for event in reader.feed(stream[begin:end])
    ]
    assert events == model(stream)


@given(stream=STREAMS, size=st.integers(1, 12))
def test_what_is_held_of_a_stream_is_bounded(stream: bytes, size: int) -> None:
    reader = EventReader(size)
    try:
        events = [event for byte in stream for event in reader.feed(bytes([byte]))]
    except LimitExceeded:
        longest = max(map(len, re.split(b"\r\n|\r|\n", stream)))
        # What is not UTF-8 is replaced by what is longer.
        assert longest > size or len(stream.decode(errors="replace").encode()) > size
    else:
        assert events == model(stream)
        assert all(len(event.data.encode()) <= size for event in events)
