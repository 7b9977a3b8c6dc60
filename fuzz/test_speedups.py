"""The compiled twins return and raise what their references in Python do, whatever they are given.

Valid input, changed input, and any input; also of types that nobody should hand in.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeAlias

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from protomux import speedups
from protomux.encoding import MAX_ARRAY, MAX_UINT, uint
from protomux.frames import encode_batch
from protomux_wakeup.limits import Rate
from protomux_wakeup.messages import Writer

if speedups.implementation == "python":
    pytest.skip(
        "the compiled twins were not built, or PROTOMUX_PURE is set", allow_module_level=True
    )

from protomux import _speedups

Outcome: TypeAlias = tuple[Any, ...]
Twins: TypeAlias = tuple[Any, Any]

_IS_LONG: Final = os.environ.get("FUZZ") == "long"


def twins(name: str) -> Twins:
    return getattr(_speedups, name), _speedups.references[name]


def shape(value: object) -> object:
    """The types of a value and of what is in it: equal values may differ in those."""
    if isinstance(value, list | tuple):
        return type(value), [shape(each) for each in value]
    return type(value)


def outcome(call: Callable[..., Any], *arguments: Any) -> Outcome:
    try:
        value = call(*arguments)
    except Exception as error:
        return "raised", type(error), str(error), type(error.__cause__)
    if isinstance(value, tuple) and value and isinstance(value[0], memoryview):
        value = (bytes(value[0]), *value[1:])
    return "returned", shape(value), value


def agree(pair: Twins, *arguments: Any) -> Outcome:
    compiled, reference = pair
    found = outcome(compiled, *arguments)
    assert found == outcome(reference, *arguments)
    return found


# ---------------------------------------------------------------- what they are given


class Octets(bytes):
    """Bytes that are not exactly bytes."""


class Number(int):
    """An int that is not exactly an int."""


def viewed(data: bytes) -> memoryview:
    return memoryview(data)


class Pair(tuple[Any, ...]):
    """A tuple that is unpacked in a way of its own."""

    def __iter__(self) -> Iterator[Any]:
        return iter((self[0], 7))


NUMBERS = (
    st.integers(0, MAX_UINT)
    | st.sampled_from([0xFC, 0xFD, 0xFFFF, 0x10000, 2**32 - 1, 2**32, MAX_UINT, MAX_UINT + 1])
    | st.integers(0, 300)
)
ODD_NUMBERS = (
    st.sampled_from([None, True, 1.5, "1", -1, 2**63, 2**64, -(2**70), Number(5), Number(-5)])
    | st.integers()
)
KEYS = st.binary(min_size=32, max_size=32)
ODD_KEYS = st.one_of(
    st.binary(max_size=40),
    KEYS.map(bytearray),
    KEYS.map(viewed),
    KEYS.map(Octets),
    st.none(),
    st.text(max_size=40),
    st.integers(),
)
PAIRS = st.tuples(KEYS, NUMBERS)
ODD_PAIRS = st.one_of(
    st.tuples(ODD_KEYS, NUMBERS),
    st.tuples(KEYS, ODD_NUMBERS),
    PAIRS.map(list),
    PAIRS.map(Pair),
    st.tuples(KEYS),
    st.tuples(KEYS, NUMBERS, NUMBERS),
    st.text(max_size=3),
    st.integers(),
    st.none(),
)
ENTRIES = st.lists(PAIRS | PAIRS.map(lambda pair: Writer(*pair)), max_size=6)
ODD_ENTRIES = st.lists(PAIRS | ODD_PAIRS, max_size=6)
CONTAINERS: list[Callable[[Iterable[Any]], Any]] = [
    list,
    tuple,
    iter,
    lambda entries: (entry for entry in entries),
    lambda entries: dict.fromkeys(entries, 5).items(),
    lambda entries: dict.fromkeys(entries, 5),
    lambda entries: 5,
]


@st.composite
def changed(draw: st.DrawFn, valid: st.SearchStrategy[bytes]) -> bytes:
    """Bytes near valid ones: some replaced, some put in, the rest cut off."""
    data = bytearray(draw(valid))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        piece = draw(
            st.sampled_from([b"\x00", b"\xfc", b"\xfd", b"\xfe", b"\xff", b"\xff" * 9])
            | st.binary(max_size=4)
        )
        data[at : at + draw(st.sampled_from([0, len(piece)]))] = piece
    return bytes(data[: draw(st.sampled_from([len(data), draw(st.integers(0, len(data)))]))])


@st.composite
def readings(draw: st.DrawFn, valid: st.SearchStrategy[bytes]) -> tuple[Any, Any, Any]:
    """Arguments (data, start, end) of a decode, most of them such as the library uses."""
    data = draw(changed(valid) | st.binary(max_size=60))
    before, after = draw(st.binary(max_size=3)), draw(st.binary(max_size=12))
    whole: Any = before + data + after
    start: Any = len(before)
    end: Any = start + len(data)
    match draw(st.integers(0, 9)):
        case 0:
            whole = draw(st.sampled_from([bytearray, memoryview, Octets]))(whole)
        case 1:
            start = draw(ODD_NUMBERS)
        case 2:
            end = draw(ODD_NUMBERS)
        case 3:
            start, end = draw(st.integers(-3, len(whole) + 3)), draw(st.integers(-3, 300))
        case 4:
            whole = draw(st.none() | st.text() | st.lists(st.integers(0, 255)))
    return whole, start, end


def examples(count: int) -> settings:
    """As many examples, or a hundred times that where there is time."""
    return settings(max_examples=100 * count if _IS_LONG else count, deadline=None)


# ---------------------------------------------------------------- encodings

UINT = twins("_Uint")
ANNOUNCE = twins("AnnounceEncoding")


@examples(300)
@given(NUMBERS | ODD_NUMBERS | st.binary() | st.text(st.characters()))
def test_uint_writes_alike(value: Any) -> None:
    compiled, reference = UINT
    agree((compiled().encode, reference().encode), value)


@examples(500)
@given(readings(st.integers(0, MAX_UINT).map(uint.encode)))
def test_uint_reads_alike(arguments: tuple[Any, Any, Any]) -> None:
    compiled, reference = UINT
    agree((compiled().decode, reference().decode), *arguments)


@examples(500)
@given(
    entries=ENTRIES | ODD_ENTRIES,
    container=st.sampled_from(CONTAINERS),
    name=st.sampled_from(["encode", "writers_of"]),
)
def test_writers_are_written_alike(
    entries: list[Any], container: Callable[[Iterable[Any]], Any], name: str
) -> None:
    if name == "encode":
        call, reference = (getattr(twin(), name) for twin in ANNOUNCE)
    else:
        call, reference = twins(name)
    try:
        container(entries)
    except TypeError:
        return  # not hashable, for a dict
    # Each has its own: an iterator can be read once.
    assert outcome(lambda: call(container(entries))) == outcome(
        lambda: reference(container(entries))
    )


def failing(error: Exception) -> Iterator[tuple[bytes, int]]:
    yield bytes(32), 1
    raise error


@pytest.mark.parametrize("error", [TypeError("a"), ValueError("b"), KeyError("c")])
def test_an_iterator_fails_alike(error: Exception) -> None:
    call, reference = twins("writers_of")
    assert outcome(lambda: call(failing(error))) == outcome(lambda: reference(failing(error)))


def announced(entries: list[Any]) -> bytes:
    data: bytes = ANNOUNCE[1]().encode(entries)
    return data


SMALL = st.lists(st.tuples(KEYS, st.integers(0, MAX_UINT)), max_size=6)


@examples(700)
@given(
    readings(SMALL.map(announced)),
    st.sampled_from([MAX_ARRAY, 3, 0, -1, 2**70]),
)
@example((uint.encode(MAX_ARRAY + 1) + bytes(99), 0, 99), 2**70)
@example((uint.encode(MAX_UINT) + bytes(99), 0, 99), 2**70)
@example((uint.encode(MAX_ARRAY) + bytes(99), 0, 99), MAX_ARRAY)
def test_an_announce_reads_alike(arguments: tuple[Any, Any, Any], most: int) -> None:
    compiled, reference = ANNOUNCE
    agree((compiled(most).decode, reference(most).decode), *arguments)


def test_too_long_an_announce_is_refused_alike() -> None:
    compiled, reference = ANNOUNCE
    entries = [(bytes(32), 1)] * (MAX_ARRAY + 1)
    agree((compiled().encode, reference().encode), entries)


# ---------------------------------------------------------------- frames

OPEN_BODY = twins("open_body")
HEADS = st.builds(
    lambda numbers, rest: b"".join(map(uint.encode, numbers)) + rest,
    st.lists(st.integers(0, 3) | st.integers(0, MAX_UINT), max_size=3),
    st.binary(max_size=9),
)


@examples(300)
@given(
    changed(HEADS) | HEADS,
    st.sampled_from([bytes, bytes, bytes, bytearray, memoryview, Octets, list, len, bytes.hex]),
)
@example(b"", bytes)
@example(b"\x00", bytes)
@example(b"\x00\xff" + bytes(7), bytes)
@example(b"\xff" + b"\xff" * 8 + b"\x00", bytes)
def test_a_head_is_read_alike(frame: bytes, kind: Callable[[bytes], Any]) -> None:
    agree(twins("frame_head"), kind(frame))


@examples(300)
@given(
    NUMBERS | ODD_NUMBERS,
    st.text() | st.text(st.characters()) | st.binary(max_size=5),
    st.none() | st.binary(max_size=300) | ODD_KEYS,
    st.binary(max_size=300) | st.binary().map(bytearray) | st.none(),
)
def test_an_open_is_written_alike(channel: Any, protocol: Any, id: Any, handshake: Any) -> None:
    agree(OPEN_BODY, channel, protocol, id, handshake)


OPENS = st.builds(
    lambda *parts: OPEN_BODY[1](*parts)[1:],
    st.integers(0, MAX_UINT),
    st.text(max_size=20),
    st.none() | st.binary(max_size=40),
    st.binary(max_size=10),
)


@examples(500)
@given(readings(OPENS))
def test_an_open_is_read_alike(arguments: tuple[Any, Any, Any]) -> None:
    agree(twins("decode_open"), *arguments)


CHANNELS = st.integers(0, 3) | st.integers(0, MAX_UINT)
BODIES = st.lists(st.tuples(CHANNELS, st.binary(min_size=1, max_size=40)), min_size=1, max_size=8)


def read_batch(call: Callable[..., Iterator[Any]], *arguments: Any) -> list[Outcome]:
    """Every step, and two behind the last."""
    bodies = call(*arguments)
    assert iter(bodies) is bodies
    steps: list[Outcome] = []
    while not steps or steps[-1][0] == "returned":
        steps.append(outcome(next, bodies))
    return [*steps, outcome(next, bodies), outcome(next, bodies)]


@examples(700)
@given(readings(BODIES.map(lambda bodies: encode_batch(bodies)[2:])))
@example((b"", 0, 0))
@example((b"\x05", 0, 1))
def test_a_batch_is_read_alike(arguments: tuple[Any, Any, Any]) -> None:
    compiled, reference = twins("iter_batch")
    assert read_batch(compiled, *arguments) == read_batch(reference, *arguments)


BOUNDS = st.integers(0, 200) | st.floats(0, 200) | st.sampled_from([2**20, 2**70, math.inf])
SIZES = st.integers(0, 20) | st.sampled_from([0xFC, 0xFD, 300, 0x10000])


@examples(500)
@given(
    st.tuples(BOUNDS, BOUNDS, BOUNDS),
    st.lists(st.none() | st.tuples(CHANNELS, SIZES), max_size=20),
)
def test_frames_are_built_alike(
    bounds: tuple[float, float, float], steps: list[tuple[int, int] | None]
) -> None:
    compiled, reference = (twin(*bounds) for twin in twins("FrameBuilder"))
    for index, step in enumerate([*steps, None, None]):
        if step is None:
            agree((compiled.take, reference.take))
        else:
            body = bytes([index]) * step[1]
            agree((compiled.add, reference.add), step[0], body)
        assert compiled.size == reference.size


@pytest.mark.parametrize("body", [bytearray(b"abc"), memoryview(b"abc"), Octets(b"abc")])
def test_a_body_may_be_like_bytes(body: Any) -> None:
    compiled, reference = (twin(99, 99, 99) for twin in twins("FrameBuilder"))
    for number in range(3):
        agree((compiled.add, reference.add), number, body)
    agree((compiled.take, reference.take))


@pytest.mark.parametrize(("channel", "body"), [(-1, b"a"), (2**53, b"a"), (None, b"a"), (1, "a")])
def test_a_body_that_is_none_is_refused_and_leaves_no_trace(channel: Any, body: Any) -> None:
    builder = twins("FrameBuilder")[0](99, 99, 99)
    builder.add(1, b"x")
    with pytest.raises((TypeError, ValueError)):
        builder.add(channel, body)
    builder.add(2, b"y")
    assert builder.take() == encode_batch([(1, b"x"), (2, b"y")])


AMOUNTS = st.floats(0, 1e9) | st.just(math.inf)
RATES = st.builds(Rate, st.integers(0, 2**40), AMOUNTS)


@examples(300)
@given(
    RATES,
    st.lists(st.tuples(st.booleans(), AMOUNTS, st.floats(0, 1e6)), max_size=20),
)
def test_a_bucket_counts_alike(rate: Rate, steps: list[tuple[bool, float, float]]) -> None:
    now = 0.0
    compiled, reference = (twin(rate, now) for twin in twins("TokenBucket"))
    for if_there, cost, later in steps:
        now += later
        name = "take_if_there" if if_there else "take"
        found, expected = (getattr(each, name)(cost, now) for each in (compiled, reference))
        assert type(found) is type(expected)
        assert found == pytest.approx(expected, rel=1e-12, nan_ok=True)


@examples(300)
@given(RATES, RATES, st.lists(st.tuples(AMOUNTS, st.floats(0, 1e6)), max_size=20))
def test_a_meter_counts_alike(messages: Rate, entries: Rate, steps: list[Any]) -> None:
    now = 0.0
    compiled, reference = (twin(messages, entries, now) for twin in twins("Meter"))
    for taken, later in steps:
        now += later
        found, expected = (each.take(taken, now) for each in (compiled, reference))
        assert type(found) is type(expected)
        assert found == pytest.approx(expected, rel=1e-12, nan_ok=True)
