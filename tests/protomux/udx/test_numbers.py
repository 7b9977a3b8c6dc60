"""Sets of numbers, and extremes of late, against the plainest way to have them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from protomux.udx.pacer import Pacer
from protomux.udx.ranges import Ranges
from protomux.udx.windowed import WindowedMax, WindowedMin
from tests.protomux.udx.referee import runs


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=60))
def test_ranges_are_a_set(steps: list[tuple[bool, int]]) -> None:
    ranges, numbers = Ranges(), set[int]()
    for is_added, number in steps:
        if not is_added:
            ranges.drop_below(number)
            numbers = {each for each in numbers if each >= number}
        elif number not in ranges:
            ranges.add(number)
            numbers.add(number)
        assert ranges.first(100) == runs(numbers)
        assert len(ranges) == len(runs(numbers))
        assert ranges.first(2) == runs(numbers)[:2]
        assert all((each in ranges) is (each in numbers) for each in range(42))


SEEN = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 30)), min_size=1, max_size=60)


@given(SEEN)
def test_the_least_of_late_was_seen_then_and_nothing_newer_is_less(
    seen: list[tuple[int, int]],
) -> None:
    window = 100
    least, most = WindowedMin(window), WindowedMax(window)
    assert least.value is most.value is None
    now = 0
    before: list[tuple[int, int]] = []
    for value, later in seen:
        now += later
        before.append((now, value))
        least.add(value, now)
        most.add(value, now)
        late = [value for at, value in before if now - at <= window]
        assert least.value is not None
        assert most.value is not None
        # The truth, or greater where the least has gone out of the window: but never a value that
        # is too old, and never more than the last.
        assert min(late) <= least.value <= value
        assert value <= most.value <= max(late)
        assert least.value in late
        assert most.value in late


def test_a_pacer_lets_a_first_burst_go_and_then_its_rate() -> None:
    pacer = Pacer(0.0)
    sent = 0
    now = 0.0
    while now < 1.0:
        pacer.fill(100.0, now)
        while pacer.packets:
            pacer.spend(1)
            sent += 1
        assert pacer.next_at > now
        now = pacer.next_at
    assert sent == 10 + 99


def test_a_pacer_saves_no_more_than_a_burst() -> None:
    pacer = Pacer(0.0)
    pacer.fill(1000.0, 0.0)
    for _ in range(10):
        pacer.spend(1)
    pacer.fill(1000.0, 60.0)
    sent = 0
    while pacer.packets:
        pacer.spend(1)
        sent += 1
    assert sent == 10
