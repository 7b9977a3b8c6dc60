"""A manager in a process of its own: starts one backend, and says what it is told.

python -m tests.protomux_wakeup.host.backends.manager DIRECTORY LOGS LAUNCH
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

import msgspec

from protomux_wakeup.host.backends.engine import Launch, News
from protomux_wakeup.host.backends.process import ProcessEngine
from protomux_wakeup.host.backends.types import BackendState


class Speaking:
    def moved(self, state: BackendState) -> None:
        print(state.status, flush=True)

    def acknowledged(self, news: Sequence[News]) -> None:
        pass


async def main(directory: str, logs: str, launch: Launch) -> None:
    engine = ProcessEngine(directory, logs)
    await engine.open(launch.term)
    await engine.start(launch, Speaking())
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], msgspec.json.decode(sys.argv[3], type=Launch)))
