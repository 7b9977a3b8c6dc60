"""Bytes in pieces of any size are cut into the messages that were sent, and nothing is held."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from protomux.encoding import BytesLike
from protomux.streams.incoming import Incoming, message_of

MESSAGES = [b"", b"a", b"b" * 300, bytes(70_000)]
STREAM = b"".join(len(message).to_bytes(3, "little") + message for message in MESSAGES)
LONGEST = len(MESSAGES[-1])


class Opener:
    """Finds every message as it was sent."""

    def decrypt(self, data: BytesLike, start: int, end: int) -> bytes:
        return message_of(data, start, end)


class Taker:
    """Takes frames, and does something with each."""

    def __init__(self, take: Callable[[bytes], object]) -> None:
        self.take = take

    def frame_received(self, frame: bytes) -> None:
        self.take(frame)


def received(found: list[bytes], longest: float = LONGEST) -> Incoming:
    incoming = Incoming(longest)
    incoming.opener = Opener()
    incoming.taker = Taker(found.append)
    return incoming


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
    found: list[bytes] = []
    incoming, waiting = received(found), Incoming(LONGEST)
    for start in range(0, len(STREAM), piece):
        memory = bytearray(STREAM[start : start + piece])
        assert incoming.feed(kind(memory))
        assert not waiting.feed(kind(memory))
        memory[:] = bytes(len(memory))  # it is used for something else now
    assert found == taken(waiting) == MESSAGES
    for one in (incoming, waiting):
        assert one.received == len(STREAM)
        assert (one.waiting, one.size) == (0, -1)


def test_the_size_is_known_before_the_message_is_there() -> None:
    incoming = Incoming(LONGEST)
    incoming.feed(b"\x01\x02")
    assert (incoming.size, incoming.waiting) == (-1, 2)
    incoming.feed(b"\x03")
    assert (incoming.size, incoming.waiting) == (0x030201, 3)
    assert incoming.take(message_of) is None
    incoming.clear()
    assert (incoming.size, incoming.waiting, incoming.received) == (-1, 0, 3)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_what_is_too_long_stops_what_is_behind_it_before_it_is_there(kind: type[bytes]) -> None:
    found: list[bytes] = []
    incoming = received(found, 300)
    head = len(STREAM) - LONGEST
    assert incoming.feed(kind(STREAM[: head - 1]))
    assert found == MESSAGES[:3]
    assert not incoming.feed(kind(STREAM[head - 1 : head]))
    assert not incoming.feed(kind(STREAM[head:] + STREAM))
    assert not incoming.hand_on()
    assert found == MESSAGES[:3]
    assert incoming.size == LONGEST


def test_messages_wait_until_somebody_receives_and_while_nobody_does() -> None:
    found: list[bytes] = []
    incoming = received(found)
    incoming.taker = None
    assert not incoming.feed(STREAM)

    def receive_one(message: bytes) -> None:
        found.append(message)
        incoming.taker = None

    incoming.taker = Taker(receive_one)
    assert not incoming.hand_on()
    assert found == MESSAGES[:1]

    def receive_another(message: bytes) -> None:
        found.append(message)
        incoming.taker = Taker(found.append)

    incoming.taker = Taker(receive_another)
    assert incoming.hand_on()
    assert found == MESSAGES


def test_what_was_handed_on_is_not_held() -> None:
    memory = bytearray(STREAM)
    with memoryview(memory) as view:
        assert received([]).feed(view)
    memory.clear()  # BufferError while anybody looks at it


def test_what_waits_does_not_hold_the_memory_it_came_in() -> None:
    incoming = Incoming(LONGEST)
    memory = bytearray(STREAM)
    with memoryview(memory) as view:
        incoming.feed(view)
    memory.clear()
    assert taken(incoming) == MESSAGES


def test_a_reader_or_receiver_that_raises_has_had_its_message() -> None:
    found: list[bytes] = []
    incoming = Incoming(LONGEST)
    incoming.feed(STREAM)

    def refuse(*_: object) -> None:
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - the reader's own, without a text
        incoming.take(refuse)
    incoming.opener, incoming.taker = Opener(), Taker(refuse)
    with pytest.raises(ValueError):  # noqa: PT011
        incoming.hand_on()
    incoming.taker = Taker(found.append)
    assert incoming.hand_on()
    assert found == MESSAGES[2:]


def test_what_comes_while_messages_are_handed_on_stays_in_order() -> None:
    found: list[bytes] = []
    incoming = received(found)

    def take(message: bytes) -> None:
        found.append(message)
        if len(found) == 2:
            with memoryview(bytearray(STREAM)) as view:
                incoming.feed(view)

    incoming.taker = Taker(take)
    with memoryview(bytearray(STREAM)) as view:
        assert incoming.feed(view)
    assert found == MESSAGES * 2


def test_bounds_beyond_every_message_are_none() -> None:
    found: list[bytes] = []
    assert received(found, 10**400).feed(STREAM)
    assert found == MESSAGES
