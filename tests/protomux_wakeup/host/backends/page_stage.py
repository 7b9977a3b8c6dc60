"""All that stands behind the page: a manager with an engine, backends that are real processes, the
service of a host, and the listeners. Knows no browser.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final, TypeAlias

from protomux_wakeup import host
from protomux_wakeup.host.backends.engine import Command, Engine, Readiness
from protomux_wakeup.host.backends.limits import ManagerLimits
from protomux_wakeup.host.backends.manager import Manager
from protomux_wakeup.host.backends.overview import Status
from protomux_wakeup.host.backends.process import ProcessEngine
from protomux_wakeup.host.backends.serving import serving
from protomux_wakeup.host.backends.store import BackendStore
from protomux_wakeup.host.backends.types import ConnectRequest, SpawnConfig
from protomux_wakeup.host.backends.urls import Urls
from protomux_wakeup.host.limits import Limits
from tests.protomux_wakeup.host.members import QUICK

from .local_engine import LocalEngine

__all__ = [
    "TOKEN",
    "Stage",
    "local",
    "monitored",
    "python",
    "shell",
    "staged",
    "wakeup_service",
]

TOKEN: Final = "control-token-of-the-tests-0123456789abcdefg"

Make: TypeAlias = Callable[[Path], Engine]
"""Makes the engine of the next manager."""

_READY: Final = """import os, socket, sys
def ready():
    note = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    name = os.environ["NOTIFY_SOCKET"]
    note.sendto(b"READY=1", chr(0) + name[1:] if name[0] == "@" else name)
"""


def shell(script: str, *, grace: float = 30.0) -> Command:
    """A command that is ready at once."""
    return _command(("sh", "-c", script), Readiness.STARTED, grace)


def python(script: str, *, grace: float = 30.0) -> Command:
    """A command that is ready when it calls `ready()`."""
    return _command((sys.executable, "-c", _READY + script), Readiness.NOTIFY, grace)


def _command(argv: tuple[str, ...], readiness: Readiness, grace: float) -> Command:
    return Command(
        argv=argv,
        directory="/",
        env={"PATH": os.environ["PATH"]},
        readiness=readiness,
        grace=grace,
    )


def local(place: Path) -> Engine:
    """An engine that begins at once, for what is not about one."""
    directory = place / "engine"
    directory.mkdir(exist_ok=True)
    return LocalEngine(directory)


def monitored(place: Path) -> Engine:
    """The engine that is shipped."""
    return ProcessEngine(place / "m", place / "logs")


class Stage:
    """Managers that follow each other at one place, and at one address.

    Attributes:
        manager: the one that is there.
        url: of the control API; stays the same.
        token: that the next one asks for.
    """

    def __init__(
        self, place: Path, commands: Mapping[str, Command], engine: Make, status: Status | None
    ) -> None:
        self._place = place
        self._engine = engine
        self._commands = commands
        self._status = status
        self._term = 0
        self._stack = AsyncExitStack()
        self._port = 0
        self.manager: Manager
        self.url = ""
        self.token = TOKEN

    @property
    def link(self) -> str:
        """What opens the page without asking for the token."""
        return f"{self.url}/#{self.token}"

    async def open(self) -> None:
        """Begin with a manager, and let it be reached."""
        self._term += 1
        store = BackendStore(self._place / "backends.db")
        self._stack.callback(store.close)
        self.manager = Manager(
            store,
            self._engine(self._place),
            self._commands,
            term=self._term,
            urls=Urls(control="http://127.0.0.1", proxy="http://127.0.0.1"),
            limits=ManagerLimits(shut_down_time=0.1),
        )
        await self.manager.open()
        self._stack.push_async_callback(self.manager.close)
        urls = await self._stack.enter_async_context(
            serving(
                self.manager,
                ("127.0.0.1", self._port),
                ("127.0.0.1", 0),
                token=self.token,
                status=self._status,
            )
        )
        self.url = urls.control
        self._port = int(self.url.rpartition(":")[2])

    async def leave(self) -> None:
        """The manager goes; what runs goes on."""
        await self._stack.aclose()

    async def start(self, key: str, tag: str = "default") -> str:
        """Have a backend started; return its id."""
        asked = ConnectRequest(key=key, spawn=SpawnConfig(tag=tag))
        return (await self.manager.connect(asked)).backend_id


@asynccontextmanager
async def staged(
    place: Path, commands: Mapping[str, Command], engine: Make, status: Status | None = None
) -> AsyncIterator[Stage]:
    """Yield a stage with a manager; what runs at the end is ended."""
    stage = Stage(place, commands, engine, status)
    await stage.open()
    try:
        yield stage
    finally:
        await stage.manager.shut_down()
        await stage.leave()


@asynccontextmanager
async def wakeup_service(place: Path) -> AsyncIterator[host.ServiceClient]:
    """Yield a client of the service of a host of its own, which this process leads."""
    async with host.join(
        "page",
        directory=place / "host",
        state=place / "state",
        limits=Limits(**QUICK),  # type: ignore[arg-type]
    ) as service:
        yield service
