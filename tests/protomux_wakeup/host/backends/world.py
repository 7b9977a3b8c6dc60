"""A store, an engine and the managers that follow each other over them."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from protomux_wakeup.host.backends.engine import Command, Engine, News, Readiness
from protomux_wakeup.host.backends.limits import ManagerLimits
from protomux_wakeup.host.backends.manager import Manager, Urls
from protomux_wakeup.host.backends.process import ProcessEngine
from protomux_wakeup.host.backends.store import BackendStore
from protomux_wakeup.host.backends.types import (
    BackendState,
    BackendStatus,
    ConnectRequest,
    SpawnConfig,
)
from tests.protomux_wakeup.host.backends.local_engine import LocalEngine, pid_of

__all__ = [
    "COMMANDS",
    "URLS",
    "World",
    "command",
    "key",
    "local_engine",
    "monitors_gone",
    "news",
    "opened",
    "process_engine",
    "reach",
    "request",
    "seen",
    "shell",
]

LIMIT = 60.0
"""Seconds that a test may take."""


URLS = Urls(control="http://127.0.0.1:1", proxy="http://127.0.0.1:2")
START = 1_700_000_000.0


def command(*argv: str, readiness: Readiness = Readiness.STARTED, grace: float = 30.0) -> Command:
    return Command(
        argv=argv,
        directory="/",
        env={"PATH": os.environ["PATH"]},
        readiness=readiness,
        grace=grace,
    )


def shell(script: str, readiness: Readiness = Readiness.NOTIFY, grace: float = 30.0) -> Command:
    return command("sh", "-c", script, readiness=readiness, grace=grace)


# Those that have to be asked twice say when they are ready to be asked.
COMMANDS = {
    "default": command("sleep", "1000"),
    "other": command("sleep", "1001"),
    "exits": command("true"),
    "fails": command("false"),
    "missing": command("/no/such/program"),
    "unready": command("sleep", "1002", readiness=Readiness.NOTIFY),
    "told": shell("read hint; echo READY=1; exec sleep 1003"),
    "stubborn": shell("trap '' TERM; echo READY=1; while :; do sleep 1004; done", grace=0.1),
    "very stubborn": shell(
        "trap '' TERM; echo READY=1; while :; do sleep 1005; done", grace=1_000.0
    ),
    "acknowledges": shell("echo READY=1; exec sed -u s/^hint/ack/", grace=0.1),
    "acknowledges the first at the end": shell(
        """read hint first; echo READY=1; while read hint; do :; done; echo "ack $first"
        exec sleep 1006""",
        grace=0.1,
    ),
    "acknowledges all at the end": shell(
        """echo READY=1; while read hint rest; do all="$all
ack $rest"; done; echo "$all"; exec sleep 1007""",
        grace=0.1,
    ),
    "ends at the end": shell("echo READY=1; while read hint; do :; done"),
    "never ends": shell("echo READY=1; while read hint; do :; done; exec sleep 1008"),
}


def request(key: str | None = "k", spawn: bool | str | None = "default", **more: Any) -> Any:
    """Return a request for a backend of the tag `spawn`."""
    limits = {name: more.pop(name) for name in list(more) if name.endswith("_seconds")}
    if isinstance(spawn, str):
        return ConnectRequest(key=key, spawn=SpawnConfig(tag=spawn, **limits), **more)
    return ConnectRequest(key=key, spawn=spawn, **more)


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def news(number: int, length: int = 1) -> News:
    return News(key(0), key(number), length)


def local_engine(place: Path) -> LocalEngine:
    (place / "engine").mkdir(exist_ok=True)
    return LocalEngine(place / "engine")


def process_engine(place: Path) -> ProcessEngine:
    return ProcessEngine(place / "run", place / "logs")


class World:
    """What managers of one place share.

    Attributes:
        time: what the clock of the managers says.
        manager: the one of the latest term.
        engine: its engine.
        acknowledged: what backends have acknowledged, with their ids.
    """

    def __init__(self, place: Path, make: Callable[[Path], Engine]) -> None:
        self.place = place
        self._make = make
        self.time = START
        self.term = 0
        self.commands = dict(COMMANDS)
        self.acknowledged: asyncio.Queue[tuple[str, News]] = asyncio.Queue()
        self.manager: Manager
        self.engine: Any
        self.store: BackendStore
        self._managers: list[Manager] = []

    async def next(
        self, engine: Engine | None = None, *, is_cluster: bool = False, **limits: Any
    ) -> Manager:
        """Begin a manager of the next term, which has no commands where the engine knows them."""
        self.term += 1
        self.engine = engine if engine is not None else self._make(self.place)
        self.store = BackendStore(self.place / "backends.db")
        self.manager = Manager(
            self.store,
            self.engine,
            None if is_cluster else self.commands,
            term=self.term,
            urls=URLS,
            limits=ManagerLimits(**limits),
            clock=lambda: self.time,
        )
        self.manager.on_acknowledged = self._was_acknowledged
        await self.manager.open()
        return self.manager

    def _was_acknowledged(self, backend_id: str, news: Iterable[News]) -> None:
        for each in news:
            self.acknowledged.put_nowait((backend_id, each))

    async def leave(self) -> None:
        """Let the manager go, which leaves all running."""
        await self.manager.close()
        self.store.close()

    async def drop(self) -> None:
        """Take everything from the manager, without a word to it.

        What it does from now on is lost; what is in the files by now is what the next one finds.
        """
        copy = self.place / "copy"
        copy.mkdir()
        for file in self.place.glob("backends.db*"):
            shutil.copyfile(file, copy / file.name)
        await self.engine.close()
        self.store.close()
        for file in self.place.glob("backends.db*"):
            file.unlink()
        for file in copy.iterdir():
            file.rename(self.place / file.name)
        copy.rmdir()
        self._managers.append(self.manager)

    def kill(self, backend_id: str) -> None:
        """End the process of a backend that was left running, and wait for it."""
        pid = pid_of(backend_id)
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    async def end(self) -> None:
        for manager in self._managers:
            await manager.close()
        await self.manager.shut_down()
        self.store.close()


async def reach(manager: Manager, backend_id: str, status: BackendStatus) -> BackendState:
    """Wait for the first state of a backend that is `status` or later."""
    async for state in manager.follow(backend_id):
        if not state.status.is_before(status):
            return state
    raise AssertionError("expected `terminated` to be the last")


async def seen(states: AsyncIterator[BackendState]) -> list[str]:
    """Return the names of all states."""
    return [state.status.value async for state in states]


@asynccontextmanager
async def opened(
    place: Path, *, make: Callable[[Path], Engine] = local_engine, term: int = 0
) -> AsyncIterator[World]:
    """Yield a world with a manager of the term after `term`; what runs at the end is ended.

    Whatever waits for longer than a test may take is cancelled.
    """
    loop = asyncio.get_running_loop()
    bound = loop.call_later(LIMIT, lambda: [task.cancel() for task in asyncio.all_tasks(loop)])
    world = World(place, make)
    world.term = term
    await world.next()
    try:
        yield world
    finally:
        await world.end()
        bound.cancel()


async def monitors_gone(place: Path) -> None:
    """Wait until nothing but locks and terms is left of a `process_engine`."""
    async with asyncio.timeout(LIMIT):
        while any((place / "run").glob("*.sock")):  # noqa: ASYNC110 - no event tells it
            await asyncio.sleep(0.01)
