from __future__ import annotations

import pytest

from protomux.errors import LimitExceeded
from protomux_wakeup.host.backends.sse import Event, EventReader

A = Event("message", "a", "")


def read(*pieces: bytes) -> list[Event]:
    reader = EventReader(1_000)
    return [event for piece in pieces for event in reader.feed(piece)]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"", []),
        (b"\n\n", []),
        (b"data: a\n\n", [A]),
        (b"data:a\n\n", [A]),
        (b"data:  a\n\n", [Event("message", " a", "")]),
        (b"data: a\r\n\r\n", [A]),
        (b"data: a\r\r", [A]),
        (b"data: a\r\n\r", [A]),
        (b"data: a\n\r\n", [A]),
        (b"data: a\r\n\n", [A]),
        (b"data: a\n", []),
        (b"data: a", []),
        (b"data\n\n", [Event("message", "", "")]),
        (b"data:\n\n", [Event("message", "", "")]),
        (b"data\ndata\n\n", [Event("message", "\n", "")]),
        (b"data: a\ndata: b\n\n", [Event("message", "a\nb", "")]),
        (b"data: a: b\n\n", [Event("message", "a: b", "")]),
        (b"data: a\x0b\xe2\x80\xa8b\n\n", [Event("message", "a\x0b\u2028b", "")]),
        (b": a\n\n", []),
        (b":data: a\ndata: a\n:\n\n", [A]),
        (b"Data: a\n data: a\nnone: a\nnone\n\n", []),
        (b"event: e\ndata: a\n\ndata: a\n\n", [Event("e", "a", ""), A]),
        (b"event: e\n\ndata: a\n\n", [A]),
        (b"event: e\nevent:\ndata: a\n\n", [A]),
        (b"id: 1\ndata: a\n\ndata: a\n\n", [Event("message", "a", "1")] * 2),
        (b"id: 1\n\ndata: a\n\n", [Event("message", "a", "1")]),
        (b"id: 1\nid\ndata: a\n\n", [A]),
        (b"id: 1\nid: 2\0\ndata: a\n\n", [Event("message", "a", "1")]),
        (b"\xef\xbb\xbfdata: a\n\n", [A]),
        (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", []),
        (b"data: a\n\n\xef\xbb\xbfdata: a\n\n", [A]),
        (b"\xef\xbbdata: a\n\ndata: a\n\n", [A]),
        (b"data: \xff\xc3\n\n", [Event("message", "\ufffd\ufffd", "")]),
        (b"data: \xc3\xa4\xf0\x9f\x98\x80\n\n", [Event("message", "\xe4\U0001f600", "")]),
    ],
)
def test_events_are_read_however_they_are_cut(stream: bytes, events: list[Event]) -> None:
    assert read(stream) == events
    assert read(*(bytes([byte]) for byte in stream)) == events
    for cut in range(len(stream)):
        assert read(stream[:cut], b"", stream[cut:]) == events


@pytest.mark.parametrize(
    ("line", "retry"),
    [
        (b"retry: 1500", 1500),
        (b"retry:0", 0),
        (b"retry: 1500ms", None),
        (b"retry: -1", None),
        (b"retry: 1.5", None),
        (b"retry", None),
        (b"retry: \xd9\xa3", None),
        (b"retry: " + b"9" * 900, 10**9),
    ],
)
def test_the_time_to_wait_is_read(line: bytes, retry: int | None) -> None:
    reader = EventReader(1_000)
    assert reader.feed(line) == []
    assert reader.retry is None
    assert reader.feed(b"\n") == []
    assert reader.retry == retry


def test_a_line_without_an_end_is_refused() -> None:
    reader = EventReader(1_000)
    reader.feed(b"x" * 1_000)
    reader.feed(b"\n" + b"y" * 999)
    with pytest.raises(LimitExceeded, match="a line of at most 1000 bytes, got 1001"):
        reader.feed(b"yy")


def test_a_line_that_ends_is_held_to_it_too() -> None:
    with pytest.raises(LimitExceeded, match="got 1001"):
        EventReader(1_000).feed(b"x" * 1_001 + b"\n")


@pytest.mark.parametrize("line", [b"data\n", b"data: " + b"x" * 99 + b"\n"])
def test_an_event_without_an_end_is_refused(line: bytes) -> None:
    with pytest.raises(LimitExceeded, match="an event of at most 1000 bytes"):
        read(*[line] * 1_001)


def test_what_is_no_data_may_come_for_ever() -> None:
    reader = EventReader(1_000)
    for _ in range(10_000):
        assert reader.feed(b":\nnone: a\nid: 1\nevent: e\n") == []
    assert reader.feed(b"data: a\n\n") == [Event("e", "a", "1")]
