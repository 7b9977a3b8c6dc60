from __future__ import annotations

import asyncio
import time

from protomux_wakeup.host.pulse import Pulse


class Record:
    """What a pulse did; the beats that are named are answered."""

    def __init__(self, most: int, *answered: int) -> None:
        self.said: list[str] = []
        self.beats = 0
        self.lost = asyncio.Event()
        self._answered = answered
        self.pulse = Pulse(0.01, most, beat=self.beat, lost=self.on_lost)

    def beat(self) -> None:
        self.beats += 1
        self.said.append("beat")
        if self.beats in self._answered:
            asyncio.get_running_loop().call_soon(self.pulse.heard)

    def on_lost(self) -> None:
        self.said.append("lost")
        self.lost.set()


async def test_silence_is_noticed_after_so_many_beats() -> None:
    record = Record(3)
    await record.lost.wait()
    assert record.said[:4] == ["beat", "beat", "beat", "lost"]
    record.pulse.stop()


async def test_a_sign_of_life_begins_anew() -> None:
    record = Record(3, 2)
    await record.lost.wait()
    assert record.said[:5] == ["beat"] * 4 + ["lost"]
    record.pulse.stop()


async def test_it_goes_on_after_the_loss() -> None:
    record = Record(2)
    for _ in range(3):
        record.lost.clear()
        await record.lost.wait()
    record.pulse.stop()
    assert record.said[:9] == ["beat", "beat", "lost"] * 3


async def test_it_can_be_stopped_by_the_loss() -> None:
    record = Record(1)
    record.pulse._lost = record.pulse.stop
    await asyncio.sleep(0.05)
    assert record.said == ["beat"]


async def test_a_loop_that_was_busy_has_missed_one_beat() -> None:
    record = Record(3)
    time.sleep(0.2)  # noqa: ASYNC251 - that is the subject: far longer than all of the beats
    record.pulse._loop.call_soon(record.said.append, "busy no more")
    await record.lost.wait()
    assert record.said[:5] == ["beat", "busy no more", "beat", "beat", "lost"]
    record.pulse.stop()
