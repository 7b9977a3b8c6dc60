"""Engines over one directory, and what they tell."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from protomux_wakeup.host.backends.engine import Command, Launch, News, Readiness, Running
from protomux_wakeup.host.backends.output import read_log
from protomux_wakeup.host.backends.process import ProcessEngine
from protomux_wakeup.host.backends.types import (
    BackendState,
    BackendStatus,
    ConnectRequest,
    Executable,
    ResourceLimits,
    SpawnConfig,
    Terminated,
)

__all__ = [
    "GUARD",
    "Heard",
    "Stage",
    "is_alive",
    "log_of",
    "marked",
    "news_of",
    "pids_of",
    "python",
    "shell",
    "until",
]

GUARD: Final = 60.0
"""Seconds after which a test hangs."""

ENV: Final = {"PATH": os.environ["PATH"]}


def shell(script: str, **more: Any) -> Command:
    """A command that is ready when it runs, unless told otherwise."""
    return _command(("sh", "-c", script), **more)


def python(script: str, **more: Any) -> Command:
    return _command((sys.executable, "-S", "-c", script), **more)


def _command(argv: tuple[str, ...], **more: Any) -> Command:
    fields = {"directory": "/", "env": ENV, "readiness": Readiness.STARTED, **more}
    return Command(argv=argv, **fields)


def news_of(log: int, length: int) -> News:
    return News(bytes([log]) * 32, log.to_bytes(32, "big"), length)


class Heard:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.states: list[BackendState] = []
        self.acknowledged_news: dict[tuple[bytes, bytes], int] = {}
        self.acks = 0
        self._turned = asyncio.Event()

    def moved(self, state: BackendState) -> None:
        self.states.append(state)
        self._turned.set()

    def acknowledged(self, news: Sequence[News]) -> None:
        assert not self.states or self.states[-1].status is not BackendStatus.TERMINATED
        self.acks += len(news)
        for topic, key, length in news:
            self.acknowledged_news[topic, key] = length
        self._turned.set()

    @property
    def statuses(self) -> list[str]:
        return [state.status.value for state in self.states]

    def length_of(self, news: News) -> int | None:
        return self.acknowledged_news.get((news.topic, news.key))

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(GUARD):
            while not condition():
                self._turned.clear()
                await self._turned.wait()

    async def until_status(self, status: BackendStatus) -> None:
        await self.until(lambda: status in [state.status for state in self.states])

    async def until_terminated(self) -> Terminated:
        await self.until_status(BackendStatus.TERMINATED)
        state = self.states[-1]
        assert isinstance(state, Terminated)
        return state


class Stage:
    """Engines, as managers of growing terms have them."""

    def __init__(self, place: Path) -> None:
        self.directory: Final = place / "d"
        self.logs: Final = place / "l"
        self.engines: list[ProcessEngine] = []
        self.launches: list[Launch] = []

    async def engine(self, term: int = 1, **more: Any) -> ProcessEngine:
        engine = ProcessEngine(self.directory, self.logs, **more)
        await engine.open(term)
        self.engines.append(engine)
        return engine

    def launch(
        self,
        command: Command | None,
        *,
        term: int = 1,
        key: str | None = None,
        news: Sequence[News] = (),
        limits: ResourceLimits | None = None,
        env: dict[str, str] | None = None,
    ) -> Launch:
        backend_id = secrets.token_hex(16)
        executable = Executable(resource_limits=limits, env=env)
        launch = Launch(
            backend_id=backend_id,
            key=key or backend_id,
            fencing_token=7,
            term=term,
            request=ConnectRequest(spawn=SpawnConfig(executable=executable)),
            command=command,
            news=tuple(news),
        )
        self.launches.append(launch)
        return launch

    async def start(self, command: Command, **more: Any) -> tuple[Launch, Heard, Running]:
        """Start a backend with the last engine."""
        launch = self.launch(command, **more)
        heard = Heard()
        running = await self.engines[-1].start(launch, heard)
        return launch, heard, running

    def files(self) -> list[str]:
        """What is in the directory, but for the terms."""
        names = os.listdir(self.directory) if self.directory.exists() else []
        return [name for name in names if not name.startswith("term-")]

    async def close(self) -> None:
        for engine in self.engines:
            await engine.close()


def pids_of(launch: Launch) -> list[int]:
    """The processes that were started with the id of that backend."""
    return marked("SESSION_BACKEND_ID", launch.backend_id)


def marked(variable: str, value: str) -> list[int]:
    """The processes that were started with that variable."""
    mark = f"{variable}={value}".encode()
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            environ = Path(f"/proc/{name}/environ").read_bytes()
        except OSError:
            continue
        if mark in environ.split(b"\0"):
            found.append(int(name))
    return found


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that nobody reaps does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


async def until(happened: Callable[[], object]) -> None:
    """Wait for what nobody tells of."""
    async with asyncio.timeout(GUARD):
        while not happened():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def log_of(stage: Stage, launch: Launch, word: str, count: int = 1) -> str:
    """What a backend has written, as soon as `word` is in it so many times."""
    await until(lambda: read_log(stage.logs, launch.backend_id).count(word.encode()) >= count)
    return read_log(stage.logs, launch.backend_id).decode()
