"""What somebody sees who looks on: all backends and the service, as they change. Knows no HTTP.

States come when they are reached. What no state tells, who is connected and what the service has,
is looked at once a second while somebody looks on, and told where it has changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final, TypeAlias

import msgspec

from protomux.errors import ProtomuxError
from protomux_wakeup.host.backends.manager import Backend, Manager
from protomux_wakeup.host.backends.types import BackendState

__all__ = ["Changes", "Moved", "Service", "Sight", "Status", "overview"]

Status: TypeAlias = Callable[[], Awaitable[Any]]
"""status(): what the service says of itself, as JSON has it."""

_AGAIN: Final = 1.0
"""Seconds between two looks."""


class Moved(msgspec.Struct, frozen=True):
    """A backend is in a later state."""

    backend_id: str
    state: BackendState


class Changes(msgspec.Struct, frozen=True):
    """Backends that are new, or of which something has changed; and the ids of those not kept."""

    backends: list[Backend]
    gone: list[str]


class Service(msgspec.Struct, frozen=True):
    """What the service says of itself, None where there is none; or why it says nothing."""

    service: Any
    error: str | None = None


Sight: TypeAlias = Moved | Changes | Service


async def overview(
    manager: Manager, status: Status | None, after: int
) -> AsyncGenerator[tuple[int, Sight]]:
    """Yield what is to be seen, each with the number to go on from, as `after`; without end.

    First come all backends, as `Changes`, then states later than `after` as `Manager.follow_all`
    has them; none of them is of a backend that was not in `Changes` before, unless it is not kept.
    Raises ManagerClosed.
    """
    backends = _Backends(manager)
    number = after
    yield number, backends.changes()
    async with aclosing(_merged(manager.follow_all(after), _ticks(), _services(status))) as news:
        async for one in news:
            if isinstance(one, Service):
                yield number, one
                continue
            if one is None or not backends.has(one[1]):
                changes = backends.changes()
                if changes.backends or changes.gone:
                    yield number, changes
            if one is not None:
                number, backend_id, state = one
                yield number, Moved(backend_id, state)


class _Backends:
    """Those that were told of."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._told: dict[str, Backend] = {}

    def has(self, backend_id: str) -> bool:
        return backend_id in self._told

    def changes(self) -> Changes:
        now = {backend.backend_id: backend for backend in self._manager.backends()}
        told, self._told = self._told, now
        return Changes(
            [backend for id, backend in now.items() if told.get(id) != backend],
            [id for id in told if id not in now],
        )


async def _ticks() -> AsyncIterator[None]:
    while True:
        await asyncio.sleep(_AGAIN)
        yield None


async def _services(status: Status | None) -> AsyncIterator[Service]:
    """Yield what the service says, and what it says otherwise later."""
    told = None
    while True:
        try:
            service = Service(await status() if status is not None else None)
        except ProtomuxError as error:
            service = Service(None, str(error))
        if service != told:
            told = service
            yield service
        await asyncio.sleep(_AGAIN)


async def _merged(*sources: AsyncIterator[Any]) -> AsyncGenerator[Any]:
    """Yield what `sources`, which have no end, yield; raise what one of them raises."""
    following = {asyncio.create_task(_next(source)): source for source in sources}
    try:
        while True:
            done, _ = await asyncio.wait(following, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                source = following.pop(task)
                one = task.result()
                following[asyncio.create_task(_next(source))] = source
                yield one
    finally:
        for task in following:
            task.cancel()
        await asyncio.wait(following)
        for source in sources:
            if isinstance(source, AsyncGenerator):
                await source.aclose()


async def _next(source: AsyncIterator[Any]) -> Any:
    return await anext(source)
