from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from protomux_wakeup.host.coordination import Coordination
from protomux_wakeup.host.limits import Limits
from protomux_wakeup.host.messages import Hello
from protomux_wakeup.host.places import lock_path, private_directory, socket_path
from protomux_wakeup.host.remains import sweep_all

from .members import QUICK, until_empty


@pytest.mark.parametrize("file", [socket_path, lock_path])
async def test_given_up_while_a_coordinator_starts(
    place: Path, file: Callable[[str, str], str]
) -> None:
    directory = str(place / "test")
    for _ in range(3):
        private_directory(directory)
        coordination = Coordination(
            directory,
            Hello(client_id="a", pid=1, program="test", is_keeper=False),
            Limits(**QUICK),  # type: ignore[arg-type]
            on_connect=lambda: None,
            on_message=lambda _name, _params: None,
        )
        running = asyncio.create_task(coordination.run())
        while not os.path.exists(file(directory, "coordinator")):  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0)  # it is killed in the moment in which it begins to listen
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        sweep_all(directory)
        await until_empty(place)
