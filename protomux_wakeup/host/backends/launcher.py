"""Gets backends from an engine, and takes over those of an earlier manager. Knows no request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from protomux.errors import ProtomuxError
from protomux_wakeup.host.backends.engine import Engine, Launch, News
from protomux_wakeup.host.backends.ledger import Ledger
from protomux_wakeup.host.backends.record import Record
from protomux_wakeup.host.backends.types import (
    BackendState,
    Scheduled,
    Terminated,
    TerminationReason,
    now,
)

__all__ = ["Launcher"]

_log = logging.getLogger("protomux_wakeup.host")

_Acknowledged: TypeAlias = Callable[[Record, Sequence[News]], object]


class _Listener:
    """What an engine tells of one backend."""

    def __init__(self, record: Record, ledger: Ledger, acknowledged: _Acknowledged) -> None:
        self._record: Final = record
        self._ledger: Final = ledger
        self._acknowledged: Final = acknowledged

    def moved(self, state: BackendState) -> bool:
        return self._ledger.move(self._record, state)

    def acknowledged(self, news: Sequence[News]) -> None:
        self._acknowledged(self._record, news)


class Launcher:
    """The way between an engine and what is known of its backends.

    It calls `acknowledged(record, news)` when a backend has done what was to be done for `news`.
    """

    def __init__(
        self,
        engine: Engine,
        ledger: Ledger,
        *,
        clock: Callable[[], float],
        acknowledged: _Acknowledged,
    ) -> None:
        self._engine: Final = engine
        self._ledger: Final = ledger
        self._clock: Final = clock
        self._acknowledged: Final = acknowledged

    async def open(self, term: int) -> None:
        """Take over all that has not ended. What cannot be found is `terminated`, as lost."""
        await self._engine.open(term)
        records = self._ledger.records.values()
        await self._engine.settle([each.backend_id for each in records if each.life.is_over])
        adoptions = map(self._adopt, list(self._ledger.holders.values()))
        for result in await asyncio.gather(*adoptions, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    async def close(self) -> None:
        """Let go of all backends, and leave them running."""
        starting = [record.starting for record in self._ledger.holders.values()]
        tasks = [task for task in starting if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._engine.close()

    def start(self, launch: Launch, tag: str | None, created: float) -> Record:
        """Begin to start a backend, whose key is free, `created` seconds after 1970.

        Raises StoreFailed, and starts nothing, where that cannot be written down.
        """
        record = self._ledger.add(launch, tag, created, Scheduled(time=now()))
        record.limit(self._clock())
        record.starting = asyncio.get_running_loop().create_task(self._launch(record, launch))
        return record

    async def _launch(self, record: Record, launch: Launch) -> None:
        try:
            running = await self._engine.start(launch, self._listener(record))
        except (ProtomuxError, OSError) as error:
            _log.warning("a backend could not be started: %s", error)
            record.failure = error
            self._end(record, TerminationReason.INTERNAL_ERROR)
        else:
            record.runs(running)

    async def _adopt(self, record: Record) -> None:
        assert record.launch is not None
        running = await self._engine.adopt(
            record.launch, self._listener(record), record.life.status
        )
        if running is not None:
            record.runs(running)
            record.limit(self._clock())
        else:
            self._end(record, TerminationReason.LOST)

    def _listener(self, record: Record) -> _Listener:
        return _Listener(record, self._ledger, self._acknowledged)

    def _end(self, record: Record, reason: TerminationReason) -> None:
        """Nothing of it runs, and the engine does not tell of it; or has done so."""
        self._ledger.move(record, Terminated(time=now(), termination_reason=reason))
