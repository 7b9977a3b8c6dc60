"""A manager that is killed when it has committed so often. For test_takeover.

Its arguments: the place, after how many commits it dies, the function of `world` that makes its
engine, and the tag of what it starts first. It prints each state that is told to somebody who
follows all, as `NUMBER ID STATUS`, and does the same things each time.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from protomux_wakeup.host.backends.engine import Engine
from protomux_wakeup.host.backends.manager import Manager
from protomux_wakeup.host.backends.store import BackendStore
from protomux_wakeup.host.backends.types import BackendStatus
from tests.protomux_wakeup.host.backends import world
from tests.protomux_wakeup.host.backends.world import COMMANDS, URLS, news, reach, request

TERM = 1


class DyingStore(BackendStore):
    """Kills its process right before the commit with the number `last`, the first being 0."""

    def __init__(self, path: Path, last: int) -> None:
        super().__init__(path)
        self._left = last
        commit = self._db.commit

        def count() -> None:
            if not self._left:
                os.kill(os.getpid(), signal.SIGKILL)
            self._left -= 1
            commit()

        self._db.commit = count  # type: ignore[method-assign]


async def tell(manager: Manager) -> None:
    async for number, backend_id, state in manager.follow_all():
        print(number, backend_id, state.status.value, flush=True)


async def run(place: Path, last: int, make: Callable[[Path], Engine], tag: str) -> None:
    store = DyingStore(place / "backends.db", last)
    manager = Manager(store, make(place), COMMANDS, term=TERM, urls=URLS)
    await manager.open()
    telling = asyncio.create_task(tell(manager))
    ends = await manager.connect(request("ends", tag))
    manager.deliver(ends.backend_id, [news(1)])
    await manager.wait_ready(ends.backend_id)
    await manager.connect(request("stays"))
    manager.terminate(ends.backend_id)
    await reach(manager, ends.backend_id, BackendStatus.TERMINATED)
    await manager.connect(request("ends"))
    await asyncio.sleep(0)  # for what is told last
    print("done", flush=True)
    await telling


if __name__ == "__main__":
    _, place, last, make, tag = sys.argv
    asyncio.run(run(Path(place), int(last), getattr(world, make), tag))
