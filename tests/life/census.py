"""Counts what a test leaves behind: objects of ours, tasks, timers, sockets and other files.

A test that is decorated with `leaves_nothing` runs on a loop of its own that knows its timers.
"""

from __future__ import annotations

import asyncio
import gc
import os
from collections import Counter
from collections.abc import Callable, Coroutine
from contextvars import Context
from functools import wraps
from itertools import count
from typing import Any, ParamSpec

from protomux import Channel, Protomux
from protomux.link import OwnLink
from protomux.pairing import RemoteChannel, Rendezvous
from protomux.streams import MemoryStream, SecretStream, Server
from protomux_wakeup import Peer, Session, Topic, Wakeup
from protomux_wakeup.carrier import Carrier
from protomux_wakeup.events import EventStream
from tests.ticking import ticks

KINDS = (
    asyncio.Transport,
    asyncio.Server,
    SecretStream,
    MemoryStream,
    Server,
    Protomux,
    Channel,
    OwnLink,
    RemoteChannel,
    Rendezvous,
    Wakeup,
    Topic,
    Session,
    EventStream,
    Carrier,
    Peer,
)
"""Classes of which nothing may stay."""

PATIENCE = 120.0
"""Seconds after which a test hangs."""

P = ParamSpec("P")


class CountingLoop(asyncio.SelectorEventLoop):
    """An event loop that can say which timers are still to fire."""

    def __init__(self) -> None:
        super().__init__()
        self._pending: dict[int, asyncio.TimerHandle] = {}
        self._numbers = count()

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        number = next(self._numbers)

        def fire(*args: Any) -> None:
            del self._pending[number]
            callback(*args)

        handle = super().call_at(when, fire, *args, context=context)
        self._pending[number] = handle
        return handle

    @property
    def timers(self) -> list[asyncio.TimerHandle]:
        """Those that have not fired and are not cancelled."""
        self._pending = {n: timer for n, timer in self._pending.items() if not timer.cancelled()}
        return list(self._pending.values())


def _is_ours(kind: type, known: dict[type, bool]) -> bool:
    found = known.get(kind)
    if found is None:
        found = known[kind] = issubclass(kind, KINDS)
    return found


def _objects() -> list[object]:
    known: dict[type, bool] = {}
    return [found for found in gc.get_objects() if _is_ours(type(found), known)]


def _files() -> Counter[str]:
    names: Counter[str] = Counter()
    for number in os.listdir("/dev/fd"):
        try:
            names[os.readlink(f"/dev/fd/{number}")] += 1
        except FileNotFoundError:
            continue  # the listing's own
    return names


class Census:
    """What there is when it is made, to compare with what there is later."""

    def __init__(self) -> None:
        gc.collect()
        self._loop = asyncio.get_running_loop()
        self._objects = Counter(type(found).__name__ for found in _objects())
        self._files = _files()
        self._tasks = asyncio.all_tasks()
        self._timers = self._count_timers()

    def _count_timers(self) -> int:
        assert isinstance(self._loop, CountingLoop)
        return len(self._loop.timers)

    async def check(self, occasion: object = "") -> None:
        """Fail if there is more than at first, once the last ticks have gone by."""
        await ticks()
        gc.collect()
        tasks = asyncio.all_tasks() - self._tasks
        assert not tasks, f"tasks left {occasion}"
        objects = _objects()
        left = Counter(type(found).__name__ for found in objects) - self._objects
        assert not left, f"left {occasion}: {[repr(found) for found in objects][-10:]}"
        assert not _files() - self._files, f"files left {occasion}"
        assert self._count_timers() <= self._timers, f"timers left {occasion}"


def leaves_nothing(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run the async `test` with a census around it."""

    async def watched(*args: P.args, **kwargs: P.kwargs) -> None:
        census = Census()
        async with asyncio.timeout(PATIENCE):
            await test(*args, **kwargs)
        await census.check()

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        # What other tests have left is collected here and then set aside: it would be looked
        # through by every collection in between, of which a test makes many.
        gc.collect()
        gc.freeze()
        try:
            with asyncio.Runner(loop_factory=CountingLoop) as runner:
                runner.run(watched(*args, **kwargs))
        finally:
            gc.unfreeze()

    return run
