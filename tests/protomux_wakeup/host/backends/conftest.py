from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.protomux_wakeup.host.backends.stage import Stage, pids_of, until
from tests.protomux_wakeup.host.backends.world import World, opened


@pytest.fixture
async def stage(place: Path) -> AsyncIterator[Stage]:
    """Engines over one directory, of which nothing is left in the end."""
    stage = Stage(place)
    yield stage
    await stage.close()
    left = [pid for launch in stage.launches for pid in pids_of(launch)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []
    await until(lambda: not stage.directory.exists() or not stage.files())  # the last monitors end


@pytest.fixture
async def world(place: Path) -> AsyncIterator[World]:
    """A manager over a local engine."""
    async with opened(place) as world:
        yield world
