"""The compiled twins that have a state do what their references do, whatever is done to them.

Each test makes steps of all kinds, and lets both twins go through them: what comes out, to whom and
in which order has to be the same. The codecs, which have no state, are in `test_speedups`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from random import Random
from typing import Any, Final, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl._sodium import ffi  # type: ignore[import-not-found]
from nacl.bindings import crypto_secretstream_xchacha20poly1305_push as push_tagged

from fuzz.test_speedups import (
    CHANNELS,
    ODD_NUMBERS,
    Number,
    Octets,
    Outcome,
    agree,
    examples,
    outcome,
    twins,
)
from protomux import Limits, ProtocolError
from protomux.encoding import MAX_UINT
from protomux.frames import encode_batch, encode_frame
from protomux.intake import SLICE, Intake
from protomux.outbox import FRAME_OVERHEAD, FrameWriter
from protomux.streams.cipher import HEADER_SIZE
from protomux.streams.incoming import Incoming
from protomux.streams.secretstream import CROSSOVER
from tests.stepped import SteppedLoop

Step: TypeAlias = tuple[Any, ...]
"""The name of what to do, and what it is given."""

Log: TypeAlias = list[Any]


def overwritable(data: bytes) -> memoryview:
    return memoryview(bytearray(data))


def strided(data: bytes) -> memoryview:
    return memoryview(bytes(byte for each in data for byte in (each, 0)))[::2]


KINDS: list[Callable[[bytes], Any]] = [bytes, bytes, bytearray, memoryview, overwritable, Octets]


class Reactions:
    """What somebody who is called does in his turn: by the number of the call, mostly nothing."""

    def __init__(self, act: Callable[[Step], object], planned: dict[int, Step]) -> None:
        self._act = act
        self._planned = planned
        self._count = 0

    def __call__(self) -> None:
        step = self._planned.get(self._count)
        self._count += 1
        if step is None:
            return
        if step[0] == "raise":
            raise step[1](*step[2:])
        self._act(step)


def planned(steps: st.SearchStrategy[Step], most: int) -> st.SearchStrategy[dict[int, Step]]:
    raised = st.sampled_from([ValueError, ProtocolError]).map(lambda kind: ("raise", kind, "a"))
    calls = st.integers(0, 5) | st.integers(0, most)
    return st.just({}) | st.dictionaries(calls, steps | raised, max_size=4)


# ---------------------------------------------------------------- what comes, in messages


def stream_of(messages: list[bytes | int], rest: bytes) -> bytes:
    bodies = [bytes(each) if isinstance(each, int) else each for each in messages]
    return b"".join(len(body).to_bytes(3, "little") + body for body in bodies) + rest


STREAMS = st.tuples(
    st.lists(st.binary(max_size=30) | st.sampled_from([0x102, 0x10203]), max_size=12),
    st.sampled_from([b"", b"\xff\xff\xff\x01", b"\x00\x00\x80"]) | st.binary(max_size=40),
)
FEEDS = st.tuples(
    st.just("feed"),
    st.integers(0, 40) | st.sampled_from([1, 3, 0x105, 0x10206, 0x20000]),
    st.sampled_from([*KINDS, strided, None, None, None]),
)
DIRECTIONS = st.sampled_from([("direct", True), ("direct", True), ("direct", False)])
READERS = st.sampled_from(["copy", "raise", "hold", ("take", "copy"), ("clear",)]) | DIRECTIONS
TAKES = st.just(("take", "copy")) | st.tuples(st.just("take"), READERS)
ARRIVALS = st.one_of(
    FEEDS, FEEDS, TAKES, DIRECTIONS, st.sampled_from([("hand_on",), ("hand_on",), ("clear",)])
)
LONGEST: Final = st.sampled_from([0, 20, 0x102, 0x10203, 5.5, math.inf])


class Arrival:
    """An Incoming, the memory that was lent to it, and all that it said.

    It is the opener of its messages, and their receiver.
    """

    def __init__(
        self, kind: Any, longest: float, stream: bytes, plans: Iterable[dict[int, Step]]
    ) -> None:
        self.incoming = kind(longest)
        self.incoming.opener = self
        self.rest = stream
        self.on_decrypt, self.on_receive = (Reactions(self.act, plan) for plan in plans)
        self.lent: list[bytearray] = []
        self.held: list[memoryview] = []
        self.log: Log = []

    def act(self, step: Step) -> None:
        match step:
            case "feed", size, kind:
                piece, self.rest = self.rest[:size], self.rest[size:]
                if kind is None:
                    self.lent.append(bytearray(piece))
                    said = outcome(self.incoming.feed, memoryview(self.lent[-1]))
                else:
                    said = outcome(self.incoming.feed, kind(piece))
                if said[0] == "raised":
                    self.incoming.clear()
                self.use_memory_again()
            case "direct", is_wanted:
                self.incoming.taker = self if is_wanted else None
                return
            case "take", reader:
                said = outcome(self.incoming.take, lambda *found: self.read(reader, *found))
            case name, *_:
                said = outcome(getattr(self.incoming, name))
        self.say(said)

    def read(self, reader: Any, data: Any, start: int, end: int) -> Any:
        self.say(("read", type(data), start, end, bytes(data[start:end])))
        match reader:
            case "raise":
                raise ValueError("unreadable")
            case "hold":
                self.held.append(memoryview(data))
            case (_, *_) as step:
                self.act(step)
        return end, data[start] if start < end else None

    def decrypt(self, data: Any, start: int, end: int) -> bytes:
        frame = bytes(data[start:end])
        self.log.append(("decrypt", type(data), start, end, frame))
        self.on_decrypt()
        return frame

    def frame_received(self, frame: bytes) -> None:
        self.log.append(("receive", frame, self.incoming.size, self.incoming.waiting))
        self.on_receive()

    def say(self, said: Outcome) -> None:
        now = self.incoming
        self.log.append((said, now.size, now.waiting, now.received))

    def use_memory_again(self) -> None:
        """Overwrite what was lent, and give it back: that fails if anything refers to it still."""
        while self.held:
            self.held.pop().release()
        while self.lent:
            lent = self.lent.pop()
            lent[:] = b"\xee" * len(lent)
            lent.clear()


INCOMING = Incoming, twins("Incoming")[1]


@examples(400)
@given(
    LONGEST,
    STREAMS,
    st.lists(ARRIVALS, max_size=40),
    st.tuples(*[planned(DIRECTIONS | st.just(("clear",)), 20)] * 2),
)
def test_what_comes_is_cut_alike(
    longest: float, parts: tuple[Any, Any], steps: list[Step], plans: tuple[dict[int, Step], ...]
) -> None:
    logs = []
    for kind in INCOMING:
        arrival = Arrival(kind, longest, stream_of(*parts), plans)
        for step in steps:
            arrival.act(step)
            arrival.held.clear()
        logs.append(arrival.log)
    compiled, reference = logs
    assert compiled == reference


@pytest.mark.parametrize("before", [b"", b"\x05"])
@pytest.mark.parametrize("odd", [None, 5, "abc", [1, 2, 3]])
def test_what_is_no_memory_is_refused_alike(before: bytes, odd: Any) -> None:
    compiled, reference = (kind(math.inf) for kind in INCOMING)
    for data in (before, odd, b"\x01\x00"):
        agree((compiled.feed, reference.feed), data)
        assert (compiled.size, compiled.waiting) == (reference.size, reference.waiting)


# ---------------------------------------------------------------- the cipher

ENCRYPTOR = twins("Encryptor")
DECRYPTOR = twins("Decryptor")
SECRETS: Final = (bytes(range(32)), True, bytes(range(64)))
NOISE: Final = Random(1).randbytes(2 * CROSSOVER + 300)
TEXTS = st.tuples(
    st.integers(0, 255),
    st.integers(0, 300)
    | st.sampled_from([0, 1, CROSSOVER - 1, CROSSOVER, CROSSOVER + 1, CROSSOVER, 2 * CROSSOVER]),
)
"""Where they begin in NOISE, and their bytes."""
COUNTERS = st.sampled_from([1, 1, 2**32 - 3, 2**32 - 2, 2**32 - 1])
ODD_KINDS: list[Callable[[bytes], Any]] = [
    *KINDS,
    strided,
    list,
    bytes.hex,
    len,
    lambda data: None,
]


def text_of(place: tuple[int, int]) -> bytes:
    start, size = place
    return NOISE[start : start + size]


def memory(half: Any) -> Any:
    """The bytes of libsodium's state: key (32), counter (4), nonce (8), 8 unused."""
    return ffi.buffer(half._state.statebuf)


def same_states(compiled: Any, reference: Any) -> None:
    assert bytes(memory(compiled)) == bytes(memory(reference))


LENGTH_SIZES = st.none() | st.sampled_from([0, 3, 3, 3, 1, 2, 9, -1, True, 3.0, "3", b"head"])


@examples(300)
@given(
    COUNTERS,
    st.lists(
        st.tuples(TEXTS, st.sampled_from([*KINDS, *KINDS, *ODD_KINDS]), LENGTH_SIZES), max_size=12
    ),
)
def test_messages_are_made_alike(counter: int, steps: list[Any]) -> None:
    compiled, reference = (kind(*SECRETS) for kind in ENCRYPTOR)
    memory(reference)[32:36] = counter.to_bytes(4, "little")
    memory(compiled)[:] = bytes(memory(reference))
    for place, kind, length_size in steps:
        arguments = [kind(text_of(place)), *(() if length_size is None else (length_size,))]
        agree((compiled.encrypt, reference.encrypt), *arguments)
        same_states(compiled, reference)


@pytest.mark.parametrize("kinds", [ENCRYPTOR, DECRYPTOR])
@pytest.mark.parametrize(
    "secrets", [(b"short", True, bytes(64)), (bytes(32), False, bytes(65)), (None, True, bytes(64))]
)
def test_secrets_are_refused_alike(kinds: Any, secrets: Any) -> None:
    logs = []
    for kind in kinds:
        made = outcome(kind, *secrets)
        logs.append(made if made[0] == "raised" else type(made[2]) is kind)
    assert logs[0] == logs[1]


ODD_BOUNDS = ODD_NUMBERS | st.integers(-60, 60) | st.sampled_from([2**63 - 1, Number(0), Number(9)])
WRONG = st.one_of(
    st.tuples(st.just("flip"), st.integers(0, 2**20)),
    st.tuples(st.just("cut"), st.integers(0, 2**20)),
    st.tuples(st.just("more"), st.binary(min_size=1, max_size=3)),
    st.tuples(st.just("replay"), st.integers(0, 20)),
    st.tuples(st.just("start"), ODD_BOUNDS),
    st.tuples(st.just("end"), ODD_BOUNDS),
    st.tuples(st.just("bounds"), ODD_BOUNDS, ODD_BOUNDS),
    st.tuples(st.just("kind"), st.sampled_from(ODD_KINDS)),
    st.sampled_from([("next",), ("header", 0), ("header", HEADER_SIZE - 1), ("short",)]),
)
PLACES = st.tuples(
    st.sampled_from(KINDS),
    st.binary(max_size=4),
    st.binary(max_size=4),
    st.sampled_from(["both", "both", "both", "both", "one", "whole", "negative", "no end"]),
)


def placed(data: bytes, place: Any) -> list[Any]:
    """Arguments of a decrypt of `data`, inside of more."""
    kind, before, after, form = place
    start, end = len(before), len(before) + len(data)
    match form:
        case "whole":
            return [kind(data)]
        case "one":
            return [kind(before + data), start]
        case "no end":
            return [kind(before + data), start, None]
        case "negative":
            return [kind(before + data + b"!"), start - end - 1, -1]
    return [kind(before + data + after), start, end]


def wrongly(wrong: Step, data: bytes, place: Any, past: list[bytes], following: bytes) -> list[Any]:
    """Arguments of a decrypt in which something is wrong, most often."""
    arguments = placed(data, (*place[:3], "both"))
    match wrong:
        case "flip", at:
            flipped = bytearray(data)
            flipped[at % len(data)] ^= 1 << at % 8
            return placed(bytes(flipped), place)
        case "cut", at:
            return placed(data[: at % len(data)], place)
        case "more", more:
            return placed(data + more, place)
        case "replay", index if past:
            return placed(past[index % len(past)], place)
        case "start", start:
            arguments[1] = start
        case "end", end:
            arguments[2] = end
        case "bounds", start, end:
            arguments[1:] = start, end
        case "kind", kind:
            arguments[0] = kind(data)
        case ("next",):
            return placed(following, place)
        case ("short",):
            return placed(data[:16], place)
    return arguments


MESSAGES = st.lists(
    st.tuples(
        TEXTS,
        st.sampled_from([0, 0, 0, 0, 1, 2, 3]),  # libsodium's tags; 2 asks for a new key
        PLACES,
        st.lists(WRONG, max_size=3),
    ),
    max_size=8,
)


@examples(250)
@given(COUNTERS, MESSAGES)
def test_messages_are_read_alike(counter: int, steps: list[Any]) -> None:
    sender = ENCRYPTOR[1](*SECRETS)
    compiled, reference = (kind(*SECRETS) for kind in DECRYPTOR)
    decrypt = compiled.decrypt, reference.decrypt
    start = compiled.start, reference.start
    for wrong in (b"", sender.header[:-1], bytes(HEADER_SIZE), None):
        agree(start, wrong)
    forger = ENCRYPTOR[1](*SECRETS)  # whoever knows what a state is before it is begun
    memory(forger)[:] = bytes(memory(reference))
    for size in (0, 40, CROSSOVER):
        forged = forger.encrypt(NOISE[:size])
        assert agree(decrypt, forged, 0, len(forged))[0] == "raised"
    assert agree(start, sender.header)[0] == "returned"
    for half in (sender, compiled, reference):
        memory(half)[32:36] = counter.to_bytes(4, "little")
    messages = [push_tagged(sender._state, text_of(text), tag=tag) for text, tag, *_ in steps]
    for index, (text, _, place, wrongs) in enumerate(steps):
        past, (data, following) = messages[:index], [*messages[index:], b"?" * 30][:2]
        for wrong in wrongs:
            if wrong[0] == "header":
                found = agree(start, sender.header[: wrong[1]])
            else:
                found = agree(decrypt, *wrongly(wrong, data, place, past, following))
            same_states(compiled, reference)
            if found[0] == "returned":
                break  # it was not wrong
        else:
            found = agree(decrypt, *placed(data, place))
            same_states(compiled, reference)
        assert found == ("returned", bytes, text_of(text))


@pytest.mark.parametrize("size", [1, 41])
@pytest.mark.parametrize("by", [1, 2])
def test_a_view_of_wide_items_is_read_alike(size: int, by: int) -> None:
    sender = ENCRYPTOR[1](*SECRETS)
    compiled, reference = (kind(*SECRETS) for kind in DECRYPTOR)
    agree((compiled.start, reference.start), sender.header)
    data = sender.encrypt(bytes(size))
    view = memoryview(data).cast("H")
    agree((compiled.decrypt, reference.decrypt), view, 0, len(data) // by)
    agree((compiled.decrypt, reference.decrypt), data, 0, len(data))


# ---------------------------------------------------------------- what is sent

SENDS = st.tuples(
    st.just("send"), st.sampled_from([1, 1, 2, 0x1000]), st.integers(1, 40), st.just(bytes)
)
ODD_SENDS = st.tuples(
    st.just("send"),
    CHANNELS | st.sampled_from([1, 1, MAX_UINT + 1, -1, None]),
    st.sampled_from([0, 1, 0xFC, 0xFD, 300]),
    st.sampled_from([*KINDS, *ODD_KINDS]),
)
WRITER_STEPS = st.one_of(
    SENDS,
    SENDS,
    SENDS,
    SENDS,
    ODD_SENDS,
    st.sampled_from([("tick",), ("tick",), ("cork",), ("uncork",), ("flush",), ("close",)]),
    st.sampled_from([("tick",), ("tick",), ("set_ready", True), ("set_ready", False)]),
    st.tuples(st.just("check_size"), st.integers(0, 300)),
)
WRITER_LIMITS = st.builds(
    Limits,
    batch_size=st.sampled_from([0, 10, 60, math.inf]),
    batch_messages=st.integers(0, 6),
    frame_size=st.sampled_from([0, 1, 8, 40, 40, 300, 300]).map(lambda size: FRAME_OVERHEAD + size),
    unsent_size=st.sampled_from([0, 20, 20.5, 100, math.inf]),
    unsent_most=st.sampled_from([0, 50, 200, math.inf]),
)
WRITER = FrameWriter, twins("FrameWriter")[1]


class Sender:
    """A FrameWriter with the stream and the mux around it, and all that is said between them."""

    def __init__(
        self, kind: Any, limits: Limits, answers: Sequence[Any], plans: Iterable[dict[int, Step]]
    ) -> None:
        self.log: Log = []
        self.loop = SteppedLoop()  # type: ignore[abstract]
        self.answers: Iterator[Any] = iter(answers)
        self.react = dict(
            zip(
                ("write", "drain", "fail"),
                (Reactions(self.act, plan) for plan in plans),
                strict=True,
            )
        )
        self.writer = kind(self, self.drain, self.fail, limits, self.loop)

    def act(self, step: Step) -> None:
        name, *arguments = step
        if name == "send":
            channel, size, kind = arguments
            arguments = [channel, kind(NOISE[:size])]
        call = self.loop.tick if name == "tick" else getattr(self.writer, name)
        self.say(name, outcome(call, *arguments))

    def say(self, *said: Any) -> None:
        self.log.append((*said, self.writer.drained))

    def write(self, frame: bytes) -> Any:
        self.say("write", type(frame), frame)
        self.react["write"]()
        return next(self.answers, True)

    def drain(self) -> None:
        self.say("drain")
        self.react["drain"]()

    def fail(self, error: Exception) -> None:
        self.say("fail", type(error), str(error))
        self.react["fail"]()


@examples(400)
@given(
    WRITER_LIMITS,
    st.lists(WRITER_STEPS, min_size=3, max_size=40),
    st.just([]) | st.lists(st.sampled_from([True, False, False, 1, None]), max_size=20),
    st.tuples(*[planned(WRITER_STEPS, 20)] * 3),
)
def test_frames_are_written_alike(
    limits: Limits, steps: list[Step], answers: list[Any], plans: tuple[dict[int, Step], ...]
) -> None:
    logs = []
    for kind in WRITER:
        sender = Sender(kind, limits, answers, plans)
        for step in (*steps, ("set_ready", True), ("tick",), ("tick",)):
            sender.act(step)
        logs.append(sender.log)
    compiled, reference = logs
    assert compiled == reference


# ---------------------------------------------------------------- what is handed on

RUNS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.sampled_from([1, 1, 2, 5, 17, 33, SLICE + 1]),
        st.binary(min_size=1, max_size=20),
    ),
    min_size=1,
    max_size=4,
)


def frame_of(runs: list[tuple[int, int, bytes]], edits: list[tuple[int, bytes]]) -> bytes:
    """A batch of so many equal bodies on a channel, and so on, with some bytes replaced."""
    frame = bytearray(
        encode_batch([(channel, body) for channel, count, body in runs for _ in range(count)])
    )
    for index, piece in edits:
        at = index % len(frame)
        frame[at : at + len(piece)] = piece
    return bytes(frame)


EDITS: st.SearchStrategy[Any] = st.just([]) | st.lists(
    st.tuples(st.integers(0, 2**12), st.sampled_from([b"", b"\x00", b"\xfd", b"\xff" * 9])),
    max_size=3,
)
SWITCHES = st.integers(0, 300).map(lambda count: b"\x00\x00\x01" + b"\x00\x02" * count)
FRAMES = st.one_of(
    SWITCHES,
    st.builds(encode_frame, CHANNELS, st.binary(max_size=20)),
    st.binary(max_size=20),
    st.sampled_from([b"", b"\x00\x01" * 20]),
)
FRAME_KINDS = st.sampled_from([bytes, bytes, bytes, bytes, bytes, *KINDS])
SECONDS = st.sampled_from([0.0, 0.001, 0.006, 0.5, 3.0, 9.0])
INTAKE_STEPS = st.one_of(
    st.tuples(st.just("take"), FRAMES, FRAME_KINDS),
    st.tuples(st.just("batch"), RUNS, EDITS, FRAME_KINDS),
    st.tuples(st.just("batch"), RUNS, EDITS, FRAME_KINDS),
    st.tuples(st.just("repeat"), st.sampled_from([b"", b"\x01\x01", b"\x00\x02\x01"])),
    st.sampled_from(
        [
            *(("tick",), ("tick",), ("pause",), ("resume",), ("resume",)),
            *(("pause_stream",), ("resume_stream",), ("close",), ("end",)),
        ]
    ),
    st.tuples(st.sampled_from(["pause_for", "advance", "spend"]), SECONDS),
)
HOOK_STEPS = (
    st.sampled_from([("pause",), ("pause",), ("pause_stream",), ("close",), ("spend", 0.006)])
    | st.just(("unroute",))
    | INTAKE_STEPS
)
INTAKE_LIMITS = st.builds(
    Limits,
    frame_size=st.sampled_from([10, 200, 2500, 2500, 2**20]),
    batch_messages=st.sampled_from([3, 30, 400, 2**20]),
    paused_time=st.sampled_from([4, 60, math.inf]),
)
INTAKE = Intake, twins("Intake")[1]


class Receiver:
    """An Intake with the stream and the mux around it, and all that is said between them."""

    def __init__(
        self,
        kind: Any,
        limits: Limits,
        cost: float,
        routed: Iterable[int],
        plans: Sequence[dict[int, Step]],
    ) -> None:
        self.log: Log = []
        self.loop = SteppedLoop()  # type: ignore[abstract]
        self.cost = cost
        self.on_receive, self.on_fail = (Reactions(self.act, plan) for plan in plans)
        self.intake = kind(self, self.fail, limits, self.loop)
        self.intake.receive = self.receive
        self.intake.routes = self.routes = dict.fromkeys(routed, self)

    @property
    def channel(self) -> Receiver:
        return self

    def deliver(self, type_: int, data: Any, start: int, end: int) -> None:
        self.receive(-1, type_, data, start, end)

    def act(self, step: Step) -> None:
        match step:
            case "tick" | "advance" as name, *arguments:
                said = outcome(getattr(self.loop, name), *arguments)
            case "spend", seconds:
                self.loop.now += seconds
                return
            case ("unroute",):
                self.routes.clear()
                return
            case "take", frame, kind:
                said = outcome(self.intake.take, kind(frame))
            case "batch", runs, edits, kind:
                said = outcome(self.intake.take, kind(frame_of(runs, edits)))
            case "repeat", frame:
                said = "", *(outcome(self.intake.take, frame) for _ in range(40))
            case ("end",):
                said = outcome(self.intake.end, self.ended)
            case name, *arguments:
                said = outcome(getattr(self.intake, name), *arguments)
        self.log.append((step[0], said))

    def receive(self, channel: int, type_: int, data: Any, start: int, end: int) -> None:
        self.log.append((channel, type_, type(data), start, end, bytes(data[start:end])))
        self.loop.now += self.cost
        self.on_receive()

    def fail(self, error: Exception) -> None:
        has_trace = error.__traceback__ is not None
        self.log.append(("fail", type(error), str(error), has_trace))
        try:
            self.on_fail()
        finally:  # as a mux does
            self.intake.close()

    def pause_reading(self) -> None:
        self.log.append("pause_reading")

    def resume_reading(self) -> None:
        self.log.append("resume_reading")

    def ended(self) -> None:
        self.log.append("ended")


@examples(250)
@given(
    INTAKE_LIMITS,
    st.lists(INTAKE_STEPS, min_size=1, max_size=20),
    st.sampled_from([0.0, 0.0, 0.0002, 0.001]),
    st.sets(CHANNELS | st.integers(0, 2), max_size=4),
    st.tuples(
        planned(HOOK_STEPS, 300),
        planned(INTAKE_STEPS, 3),
    ),
)
def test_frames_are_handed_on_alike(
    limits: Limits,
    steps: list[Step],
    cost: float,
    routed: set[int],
    plans: tuple[dict[int, Step], ...],
) -> None:
    logs = []
    for kind in INTAKE:
        receiver = Receiver(kind, limits, cost, routed, plans)
        for step in (*steps, *[("tick",)] * 5, ("end",), *[("tick",)] * 3):
            receiver.act(step)
        logs.append(receiver.log)
    compiled, reference = logs
    assert compiled == reference
