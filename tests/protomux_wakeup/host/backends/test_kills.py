from __future__ import annotations

from pathlib import Path

from .kills import VICTIMS, Kills


async def test_whoever_is_killed_nothing_is_lost_and_nothing_runs_twice(place: Path) -> None:
    await Kills(place, seed=1).run(VICTIMS)
