from __future__ import annotations

from math import inf

from protomux.deadlines import Deadlines
from tests.stepped import SteppedLoop


def stepped() -> SteppedLoop:
    return SteppedLoop()  # type: ignore[abstract]


def test_each_expires_in_its_turn_on_one_timer() -> None:
    loop = stepped()
    expired: list[str] = []
    deadlines: Deadlines[str] = Deadlines(loop, 10, expired.append)
    deadlines.add("a")
    loop.advance(4)
    deadlines.add("b")
    deadlines.add("c")
    assert len(loop.timers) == 1
    assert list(deadlines) == ["a", "b", "c"]
    loop.advance(5)
    loop.tick()
    assert expired == []
    loop.advance(1)
    loop.tick()
    assert expired == ["a"]
    assert deadlines.discard("b")
    assert not deadlines.discard("b")
    loop.advance(4)
    loop.tick()
    assert expired == ["a", "c"]
    assert len(deadlines) == 0
    assert loop.timers == []


def test_without_items_there_is_no_timer() -> None:
    loop = stepped()
    deadlines: Deadlines[str] = Deadlines(loop, 10, print)
    deadlines.add("a")
    assert "a" in deadlines
    deadlines.discard("a")
    assert loop.timers == []
    deadlines.add("b")
    deadlines.clear()
    assert loop.timers == []


def test_what_expires_may_take_others_along() -> None:
    loop = stepped()
    expired: list[str] = []

    def expire(item: str) -> None:
        expired.append(item)
        deadlines.discard("b")

    deadlines: Deadlines[str] = Deadlines(loop, 1, expire)
    for item in "abc":
        deadlines.add(item)
    loop.advance(1)
    loop.tick()
    assert expired == ["a", "c"]


def test_an_endless_time_sets_no_timer() -> None:
    loop = stepped()
    deadlines: Deadlines[str] = Deadlines(loop, inf, print)
    deadlines.add("a")
    assert loop.timers == []
    assert len(deadlines) == 1
