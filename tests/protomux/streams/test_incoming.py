"""Bytes in pieces of any size are cut into the messages that were sent, and nothing is held."""

from __future__ import annotations

import pytest

from protomux.streams.incoming import Incoming, message_of

MESSAGES = [b"", b"a", b"b" * 300, bytes(70_000)]
STREAM = b"".join(len(message).to_bytes(3, "little") + message for message in MESSAGES)


def taken(incoming: Incoming) -> list[bytes]:
    messages = []
    while (message := incoming.take(message_of)) is not None:
        messages.append(message)
    return messages


@pytest.mark.parametrize("piece", [1, 2, 3, 5, 302, 65_536, len(STREAM)])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_messages_come_out_as_they_went_in(
    piece: int, kind: type[bytes] | type[bytearray] | type[memoryview]
) -> None:
    incoming = Incoming()
    found = []
    for start in range(0, len(STREAM), piece):
        memory = bytearray(STREAM[start : start + piece])
        incoming.feed(kind(memory))
        found += taken(incoming)
        incoming.keep()
        memory[:] = bytes(len(memory))  # it is used for something else now
    assert found == MESSAGES
    assert incoming.received == len(STREAM)
    assert (incoming.waiting, incoming.size) == (0, -1)


def test_the_size_is_known_before_the_message_is_there() -> None:
    incoming = Incoming()
    incoming.feed(b"\x01\x02")
    assert (incoming.size, incoming.waiting) == (-1, 2)
    incoming.feed(b"\x03")
    assert (incoming.size, incoming.waiting) == (0x030201, 3)
    assert incoming.take(message_of) is None
    incoming.clear()
    assert (incoming.size, incoming.waiting, incoming.received) == (-1, 0, 3)


def test_what_was_taken_is_not_held() -> None:
    incoming = Incoming()
    memory = bytearray(STREAM)
    with memoryview(memory) as view:
        incoming.feed(view)
        assert taken(incoming) == MESSAGES
    memory.clear()  # BufferError while anybody looks at it


def test_a_reader_that_raises_has_had_its_message() -> None:
    incoming = Incoming()
    incoming.feed(STREAM)

    def refuse(_data: object, _start: int, _end: int) -> None:
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - the reader's own, without a text
        incoming.take(refuse)
    assert taken(incoming) == MESSAGES[1:]
