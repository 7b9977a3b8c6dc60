"""What must hold of a stream at any time, whatever its peer sends."""

from __future__ import annotations

from math import inf

from protomux.udx.reassembly import FARTHEST
from protomux.udx.stream import WINDOW, Life, Stream

__all__ = ["check_books"]


def check_books(stream: Stream) -> None:
    """AssertionError where what is counted is not what is there, or is not within its bounds."""
    recovery = stream.recovery
    out = list(recovery.out)
    assert {each.seq for each in out} == {*recovery.in_flight, *recovery.lost}
    assert all(recovery.acked <= each.seq < recovery.next_seq for each in out)
    assert recovery.next_seq <= recovery.acked + FARTHEST
    assert stream.congestion.window >= 1
    assert 0 <= stream.window <= WINDOW
    if stream.life is Life.OPEN:
        assert stream.waiting == stream.queued + sum(len(each.payload) for each in out)
        assert stream.deadline < inf or not stream.waiting, "something waits, and no timer runs"
