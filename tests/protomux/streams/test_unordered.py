"""Encrypted messages in any order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protomux.streams.unordered import OVERHEAD, WINDOW, Unordered

HASH = bytes(range(64))


def pair() -> tuple[Unordered, Unordered]:
    return Unordered(True, HASH), Unordered(False, HASH)


@given(st.binary(max_size=2000), st.booleans())
def test_what_one_seals_the_other_opens_once(data: bytes, back: bool) -> None:
    one, other = pair()[:: -1 if back else 1]
    message = one.seal(data)
    assert len(message) == len(data) + OVERHEAD
    assert other.open(message) == data
    assert other.open(message) is None


def test_nobody_else_opens_it() -> None:
    one, other = pair()
    message = one.seal(b"data")
    assert one.open(message) is None  # not its own direction
    assert Unordered(False, HASH[::-1]).open(message) is None
    for place in range(len(message)):
        changed = bytearray(message)
        changed[place] ^= 1
        assert other.open(changed) is None
    for size in range(len(message)):
        assert other.open(message[:size]) is None
    assert other.open(message) == b"data"  # none of which did any harm


@given(st.permutations(range(12)))
def test_any_order_will_do(order: list[int]) -> None:
    one, other = pair()
    messages = [one.seal(b"%d" % number) for number in range(12)]
    assert [other.open(messages[number]) for number in order] == [b"%d" % n for n in order]
    assert [other.open(message) for message in messages] == [None] * 12


def test_one_that_is_very_late_is_refused() -> None:
    one, other = pair()
    messages = [one.seal(b"") for _ in range(WINDOW + 2)]
    assert other.open(messages[-1]) == b""
    assert other.open(messages[2]) == b""
    assert other.open(messages[1]) is None
    assert other.open(messages[0]) is None
    assert other.open(messages[2]) is None


def test_the_counter_goes_round() -> None:
    one, other = pair()
    one._counter = 2**64 - 2
    one._first = 5
    messages = [one.seal(b"%d" % number) for number in range(4)]
    assert messages[1][:8] == bytes(8)
    assert [other.open(message) for message in messages[::-1]] == [b"3", b"2", b"1", b"0"]
    one._counter = 4
    with pytest.raises(OverflowError, match="fewer than"):
        one.seal(b"")
