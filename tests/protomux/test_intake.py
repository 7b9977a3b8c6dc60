from __future__ import annotations

import gc
from collections.abc import Callable

import pytest

from protomux import LimitExceeded, Limits, ProtocolError
from protomux.encoding import uint
from protomux.frames import encode_batch, encode_frame
from protomux.intake import SLICE, Intake
from tests.stepped import SteppedLoop, WireEnd, wire

DEFAULTS = Limits()


class Taken:
    """An intake on a wire, what it handed on, and what it failed with."""

    def __init__(self, limits: Limits = DEFAULTS) -> None:
        self.loop = SteppedLoop()  # type: ignore[abstract]
        self.stream: WireEnd
        self.stream, _ = wire(self.loop)
        self.bodies: list[tuple[int, bytes]] = []
        self.errors: list[Exception] = []
        self.on_body: Callable[[], object] = lambda: None
        self.ends = 0
        self.intake = Intake(self.stream, self.fail, limits, self.loop)
        self.intake.receive = self.receive

    def receive(self, channel: int, type: int, data: bytes, start: int, end: int) -> None:
        self.bodies.append((channel, uint.encode(type) + data[start:end]))
        self.on_body()

    def fail(self, error: Exception) -> None:
        self.errors.append(error)
        self.intake.close()

    def ended(self) -> None:
        self.ends += 1


def batch(count: int) -> bytes:
    return encode_batch([(1, b"\x00%d" % number) for number in range(count)])


def test_a_large_batch_takes_turns_with_the_loop_and_the_stream_waits() -> None:
    taken = Taken()
    taken.intake.take(batch(2 * SLICE + 10))
    for turn in (1, 2):
        assert len(taken.bodies) == turn * SLICE
        assert taken.stream.is_paused
        taken.loop.tick()
    assert len(taken.bodies) == 2 * SLICE + 10
    assert not taken.stream.is_paused
    assert taken.bodies[-1] == (1, b"\x00%d" % (2 * SLICE + 9))


def test_many_small_frames_take_turns_as_well() -> None:
    taken = Taken()
    for _ in range(SLICE):
        assert not taken.stream.is_paused
        taken.intake.take(encode_frame(1, b"\x00"))
    assert taken.stream.is_paused
    taken.loop.tick()
    assert not taken.stream.is_paused


def test_switches_between_channels_count_as_steps() -> None:
    taken = Taken()
    taken.intake.take(b"\x00\x00\x01" + b"\x00\x02" * (SLICE + 1) + b"\x01\x07")
    assert taken.bodies == []
    assert taken.stream.is_paused
    taken.loop.tick()
    assert taken.bodies == [(2, b"\x07")]


def test_a_pause_stops_the_batch_in_hand() -> None:
    taken = Taken()

    def pause() -> None:
        if len(taken.bodies) == 3:
            taken.intake.pause()

    taken.on_body = pause
    taken.intake.take(batch(5))
    taken.intake.take(encode_frame(9, b"\x01"))  # a stream that had one on the way
    for _ in range(3):
        taken.loop.tick()
    assert len(taken.bodies) == 3
    assert taken.stream.is_paused
    taken.intake.resume()
    assert len(taken.bodies) == 3  # never inside the call of another
    taken.loop.tick()
    assert len(taken.bodies) == 6
    assert taken.bodies[-1] == (9, b"\x01")
    assert not taken.stream.is_paused


def test_pauses_are_counted_and_the_longest_time_counts() -> None:
    taken = Taken()
    taken.intake.pause()
    taken.intake.pause_for(5)
    taken.intake.pause_for(9)
    taken.intake.pause_for(2)
    assert len(taken.loop.timers) == 1
    taken.intake.resume()
    taken.loop.advance(8.5)
    taken.loop.tick()
    taken.loop.tick()
    assert taken.stream.is_paused
    taken.loop.advance(0.5)
    taken.loop.tick()
    taken.loop.tick()
    assert not taken.stream.is_paused
    assert taken.loop.timers == []


def test_a_stream_that_ignores_the_pause_is_cut_off() -> None:
    taken = Taken(Limits(frame_size=100))
    taken.intake.pause()
    for _ in range(3):
        taken.intake.take(bytes(40))
    (error,) = taken.errors
    assert isinstance(error, LimitExceeded)
    assert "at most 100 bytes while reading is paused, got 120" in str(error)


def test_a_frame_beyond_the_limit_is_refused() -> None:
    taken = Taken(Limits(frame_size=100))
    taken.intake.take(encode_frame(1, bytes(99)))
    assert not taken.errors
    taken.intake.take(encode_frame(1, bytes(100)))
    assert "at most 100 bytes in a frame, got 101" in str(taken.errors[0])
    assert isinstance(taken.errors[0], LimitExceeded)


@pytest.mark.parametrize("count", [SLICE, SLICE + 1, 3 * SLICE])
def test_a_batch_of_too_many_messages_is_refused(count: int) -> None:
    taken = Taken(Limits(batch_messages=SLICE))
    taken.intake.take(batch(count))
    while taken.loop.tick():
        pass
    if count == SLICE:
        assert not taken.errors
        return
    assert f"at most {SLICE} messages in a batch, got" in str(taken.errors[0])
    assert isinstance(taken.errors[0], LimitExceeded)
    assert len(taken.bodies) <= 2 * SLICE


def test_what_is_wrong_later_in_a_batch_fails_in_its_turn() -> None:
    taken = Taken()
    taken.intake.take(batch(SLICE + 5) + b"\x05\x00")
    assert not taken.errors
    taken.loop.tick()
    assert isinstance(taken.errors[0], ProtocolError)
    assert len(taken.bodies) == SLICE + 5


def test_an_orderly_end_waits_for_the_batch_in_hand() -> None:
    taken = Taken()
    taken.intake.take(batch(2 * SLICE + 1))
    taken.intake.end(taken.ended)
    assert taken.ends == 0
    while taken.loop.tick():
        pass
    assert len(taken.bodies) == 2 * SLICE + 1
    assert taken.ends == 1


def test_an_end_does_not_wait_for_whoever_pauses() -> None:
    taken = Taken()
    taken.intake.pause()
    taken.intake.take(batch(3))
    taken.intake.end(taken.ended)
    assert taken.ends == 1
    assert taken.loop.timers == []


def test_who_said_too_much_need_not_wait_after_the_end() -> None:
    taken = Taken()
    taken.intake.pause_for(60)
    taken.intake.take(batch(3))
    taken.on_body = lambda: taken.intake.pause_for(60)
    taken.intake.end(taken.ended)
    while taken.loop.tick():
        pass
    assert len(taken.bodies) == 3
    assert taken.ends == 1
    assert taken.loop.timers == []


def test_a_pause_after_the_end_drops_the_rest() -> None:
    taken = Taken()

    def pause() -> None:
        if len(taken.bodies) == SLICE + 1:
            taken.intake.pause()

    taken.on_body = pause
    taken.intake.take(batch(3 * SLICE))
    taken.intake.end(taken.ended)
    while taken.loop.tick():
        pass
    assert len(taken.bodies) == SLICE + 1
    assert taken.ends == 1
    assert taken.loop.timers == []


def test_a_stream_pause_lets_the_batch_in_hand_go_on() -> None:
    taken = Taken()
    taken.on_body = lambda: len(taken.bodies) == 3 and taken.intake.pause_stream()  # type: ignore[func-returns-value]
    taken.intake.take(batch(2 * SLICE))
    while taken.loop.tick():
        pass
    assert len(taken.bodies) == 2 * SLICE
    assert taken.stream.is_paused
    taken.intake.take(encode_frame(9, b"\x01"))  # it was on the way
    assert len(taken.bodies) == 2 * SLICE
    taken.intake.resume_stream()
    while taken.loop.tick():
        pass
    assert taken.bodies[-1] == (9, b"\x01")
    assert not taken.stream.is_paused


def test_slow_hooks_make_a_turn_shorter() -> None:
    taken = Taken()

    def take_long() -> None:
        taken.loop.now += 0.001

    taken.on_body = take_long
    taken.intake.take(batch(SLICE))
    assert len(taken.bodies) < 40
    while taken.loop.tick():
        pass
    assert len(taken.bodies) == SLICE


def test_empty_frames_count_as_well() -> None:
    taken = Taken()
    for _ in range(SLICE):
        assert not taken.stream.is_paused
        taken.intake.take(b"")
    assert taken.stream.is_paused


def test_who_is_always_paused_has_an_end() -> None:
    taken = Taken(Limits(paused_time=10))
    for _ in range(9):
        taken.intake.pause_for(1)
        taken.loop.advance(1)
        taken.loop.tick()
        taken.loop.tick()
    taken.loop.advance(1.5)  # it keeps within its rates for a while
    for _ in range(10):
        assert not taken.errors
        taken.intake.pause_for(1)
        taken.loop.advance(1)
        taken.loop.tick()
        taken.loop.tick()
    taken.intake.pause_for(1)
    (error,) = taken.errors
    assert "paused for 10 s at most" in str(error)


def test_after_the_close_nothing_comes() -> None:
    taken = Taken()
    taken.intake.pause_for(60)
    taken.intake.take(batch(3))
    taken.intake.close()
    taken.intake.close()
    taken.intake.pause_for(60)
    taken.intake.take(batch(3))
    taken.intake.resume()
    while taken.loop.tick():
        pass
    assert taken.bodies == []
    assert taken.loop.timers == []
    taken.intake.end(taken.ended)
    assert taken.ends == 1


def test_whoever_keeps_the_error_does_not_keep_the_frame() -> None:
    taken = Taken()
    frame = batch(3) + b"\x05\x00"
    taken.intake.take(frame)
    (error,) = taken.errors
    assert isinstance(error, ProtocolError)
    assert error.__traceback__ is None
    assert not any(reference is frame for reference in gc.get_referents(error, taken.intake))
