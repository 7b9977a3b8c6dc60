"""All backends, in memory as they are in the store, and news of them. Knows no engine.

A state is taken where it is later than the one before, and told to nobody before the store has it.
Where the store fails, states wait, and with them all that comes of them; they are tried again with
the next one, and after a while.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Final

from protomux.errors import ProtomuxError
from protomux_wakeup.host.backends.engine import Launch
from protomux_wakeup.host.backends.errors import ManagerClosed, UnknownBackend
from protomux_wakeup.host.backends.history import Bell
from protomux_wakeup.host.backends.record import Record
from protomux_wakeup.host.backends.store import BackendStore, StoredBackend
from protomux_wakeup.host.backends.types import BackendState, BackendStatus
from protomux_wakeup.host.errors import StoreFailed

__all__ = ["RETRY", "Ledger"]

_log = logging.getLogger("protomux_wakeup.host")

RETRY: Final = 30.0
"""Seconds until what the store has failed at is tried again."""

_PAGE: Final = 256
"""States that are read at once for who follows all."""


class Ledger:
    """All backends of one store.

    Attributes:
        records: of all of them by id, the oldest first.
        holders: those that have not ended, by key.
    """

    def __init__(
        self, store: BackendStore, kept: int, forget: Callable[[str], Awaitable[object]]
    ) -> None:
        """Have nothing yet.

        Of those that have ended, the newest `kept` are kept; `forget(backend_id)` is called for an
        older one before it is dropped.
        """
        self._store: Final = store
        self._kept: Final = kept
        self._forget: Final = forget
        self._records: dict[str, Record] = {}
        self._holders: dict[str, Record] = {}
        self.records: Final[Mapping[str, Record]] = self._records
        self.holders: Final[Mapping[str, Record]] = self._holders
        self._bell: Final = Bell()
        self._unsaved: deque[tuple[Record, BackendState]] = deque()
        self._saving: asyncio.TimerHandle | None = None
        self._forgetting: asyncio.Task[None] | None = None
        self._is_closed = False

    def load(self) -> None:
        """Have what is in the store."""
        for stored in self._store.backends():
            self._add(stored)

    async def close(self) -> None:
        """Tell nobody anything more: who waits gets ManagerClosed."""
        self._is_closed = True
        if self._saving is not None:
            self._saving.cancel()
        for record in self._records.values():
            record.stop()
            record.life.break_off()
        self._bell.break_off()
        if self._forgetting is not None:
            self._forgetting.cancel()
            await asyncio.wait((self._forgetting,))

    def find(self, backend_id: str) -> Record:
        """Return the record of a backend. Raises UnknownBackend where there is none."""
        record = self._records.get(backend_id)
        if record is None:
            raise UnknownBackend(f"expected the id of a backend that is kept, got {backend_id!r}")
        return record

    def add(self, launch: Launch, tag: str | None, created: float, state: BackendState) -> Record:
        """There is to be a backend; its key is free."""
        self._store.add_backend(launch, tag, created, state)
        stored = StoredBackend(launch.backend_id, launch.key, tag, created, launch, [state])
        record = self._add(stored)
        self._bell.ring()
        return record

    def _add(self, stored: StoredBackend) -> Record:
        record = self._records[stored.backend_id] = Record(stored)
        if not record.life.is_over:
            self._holders[stored.key] = record
        return record

    def move(self, record: Record, state: BackendState) -> bool:
        """A backend is in that state, unless it was further already; False while it waits."""
        self._unsaved.append((record, state))
        self._save()
        return not self._unsaved

    def _save(self) -> None:
        if self._saving is not None:
            self._saving.cancel()
            self._saving = None
        while self._unsaved:
            record, state = self._unsaved[0]
            try:
                is_later = self._store.move(record.backend_id, state)
            except StoreFailed as error:
                _log.error("what became of backends waits to be written down: %s", error)
                if not self._is_closed:
                    self._saving = asyncio.get_running_loop().call_later(RETRY, self._save)
                return
            self._unsaved.popleft()
            if is_later:
                self._tell(record, state)

    def _tell(self, record: Record, state: BackendState) -> None:
        is_over = state.status is BackendStatus.TERMINATED
        if is_over:
            del self._holders[record.key]
        record.moved(state)
        self._bell.ring()
        if is_over:
            self._forget_old()

    async def follow_all(self, after: int) -> AsyncIterator[tuple[int, str, BackendState]]:
        """Yield number, id and state of all that come after the number `after`, without end."""
        while True:
            if self._is_closed:
                raise ManagerClosed("the manager of the backends has closed")
            found = self._store.states_after(after, _PAGE)
            for each in found:
                after = each.number
                yield each
            if not found:
                await self._bell.wait()

    def _forget_old(self) -> None:
        if not self._is_closed and (self._forgetting is None or self._forgetting.done()):
            self._forgetting = asyncio.get_running_loop().create_task(self._forget_all())

    async def _forget_all(self) -> None:
        try:
            while old := self._store.ended(but=self._kept):
                for backend_id in old:
                    try:
                        await self._forget(backend_id)
                    except (ProtomuxError, OSError) as error:
                        _log.warning("the log of a backend stays: %s", error)
                    self._store.forget(backend_id)
                    del self._records[backend_id]
        except StoreFailed as error:
            _log.warning("backends that have ended are kept for now: %s", error)
