"""Who gets which backend, and when it has to go. Knows no process, no HTTP.

There is one manager at a time, that of the latest term. What it does is in the store before anybody
hears of it, so it may be killed at any moment: the next one takes over what runs, and ends what
cannot be found any more. Whoever follows a backend sees each of its states once, in order, across
managers.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

from protomux_wakeup.host.backends.engine import Command, Engine, Launch, News
from protomux_wakeup.host.backends.errors import (
    KeyUnheld,
    ManagerClosed,
    NotReady,
    OtherUser,
    TagMismatch,
    TooManyBackends,
    UnknownTag,
)
from protomux_wakeup.host.backends.launcher import Launcher
from protomux_wakeup.host.backends.ledger import Ledger
from protomux_wakeup.host.backends.limits import ManagerLimits
from protomux_wakeup.host.backends.record import Backend, Record
from protomux_wakeup.host.backends.routes import Routes
from protomux_wakeup.host.backends.store import BackendStore
from protomux_wakeup.host.backends.tokens import Route, new_token, secret_of
from protomux_wakeup.host.backends.types import (
    BackendState,
    BackendStatus,
    ConnectRequest,
    ConnectResponse,
    SpawnConfig,
    TerminationReason,
)
from protomux_wakeup.host.backends.urls import Urls

__all__ = ["Backend", "Manager", "Urls"]

_log = logging.getLogger("protomux_wakeup.host")

_DEFAULT: Final = "default"
"""The tag of who names none, where several things are set up."""


class Manager:
    """All backends of one store and one engine.

    Methods that take a `backend_id` raise UnknownBackend where there is none. After `close()`, what
    waits raises ManagerClosed. What is to be written raises StoreFailed where it cannot be.

    Attributes:
        urls: where the listeners are; may be set anew.
        on_acknowledged: hook, plain or None: on_acknowledged(backend_id, news) when a backend has
            done what was to be done for `news`, and all smaller lengths of those logs. The same may
            come again after a manager was replaced, also while this one opens.
    """

    def __init__(
        self,
        store: BackendStore,
        engine: Engine,
        commands: Mapping[str, Command] | None,
        *,
        term: int,
        urls: Urls,
        limits: ManagerLimits = ManagerLimits(),
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Manage what is in `store`, which is not closed here, by `engine`, which is.

        Args:
            store: open.
            engine: not opened yet.
            commands: what can be started, by tag; looked up anew each time. None for a cluster,
                which knows them itself.
            term: higher than that of any manager before.
            urls: where the listeners are.
            limits: bounds.
            clock: the time in seconds since 1970.
        """
        self.urls = urls
        self.on_acknowledged: Callable[[str, Sequence[News]], object] | None = None
        self._store: Final = store
        self._engine: Final = engine
        self._commands: Final = commands
        self._term: Final = term
        self._limits: Final = limits
        self._clock: Final = clock
        self._routes: Final = Routes(store, clock)
        self._ledger: Final = Ledger(store, limits.kept, engine.forget)
        self._launcher: Final = Launcher(
            engine, self._ledger, clock=clock, acknowledged=self._was_acknowledged
        )
        self._taken_over: dict[str, str] = {}
        self._refuses = False
        self._is_closed = False

    async def open(self) -> None:
        """Take over all backends that have not ended.

        One that cannot be found is `terminated`, as lost. Raises Superseded, and changes nothing,
        where the store has seen a later term; EngineError where the engine has.
        """
        self._store.open(self._term)
        self._ledger.load()
        self._taken_over = {key: record.backend_id for key, record in self._ledger.holders.items()}
        try:
            await self._launcher.open(self._term)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Let go of all backends, and leave them running; does nothing the second time."""
        if self._is_closed:
            return
        self._is_closed = self._refuses = True
        await self._launcher.close()  # until then, what the engine tells is written down
        await self._ledger.close()

    async def shut_down(self) -> None:
        """End all backends, by force those that do not end when they are asked to; then close."""
        self._refuses = True
        try:
            for hard in (False, True):
                left = list(self._ledger.holders.values())
                for record in left:
                    record.terminate(TerminationReason.EXTERNAL, hard=hard)
                try:
                    async with asyncio.timeout(self._limits.shut_down_time):
                        for record in left:
                            await record.life.over()
                except TimeoutError:
                    _log.warning("%d backends have not ended", len(self._ledger.holders))
        finally:
            await self.close()

    # Getting backends

    async def connect(self, request: ConnectRequest, news: Sequence[News] = ()) -> ConnectResponse:
        """Return where the backend of the request's key is; start one where none runs.

        `news` is what it is to hear of, whether it has just been started or runs. Where one is
        about to end, or takes no news any more, this waits for that, and starts the next.

        Raises KeyUnheld where none runs and none was to be started; TagMismatch where one runs that
        is of another tag; UnknownTag; TooManyBackends; OtherUser; EngineError where it cannot be
        started.
        """
        spawn = SpawnConfig() if request.spawn is True else request.spawn or None
        tag = self._tag_of(spawn) if spawn is not None else None
        key = request.key or secrets.token_hex(16)
        while True:
            if self._refuses:
                raise ManagerClosed("the manager of the backends closes")
            record = self._ledger.holders.get(key)
            if record is None:
                if spawn is None:
                    raise KeyUnheld("no backend has the key, and spawn was not asked for")
                record = self._start(request, key, tag, news)
                await self._started(record)
                return self._respond(record, request, spawned=True)
            if not record.is_going:
                if spawn is not None and tag != record.tag:
                    raise TagMismatch(
                        f"expected the tag {record.tag!r}, which the backend of the key has, "
                        f"got {tag!r}"
                    )
                await self._started(record)
                if record.deliver(news):
                    return self._respond(record, request, spawned=False)
            await record.life.over()

    def terminate(
        self,
        backend_id: str,
        *,
        hard: bool = False,
        reason: TerminationReason = TerminationReason.EXTERNAL,
    ) -> None:
        """Ask a backend to end, or make it; does nothing where it has ended."""
        self._ledger.find(backend_id).terminate(reason, hard=hard)

    def _tag_of(self, spawn: SpawnConfig) -> str | None:
        if spawn.tag is not None or self._commands is None:
            return spawn.tag
        return next(iter(self._commands)) if len(self._commands) == 1 else _DEFAULT

    def _start(
        self, request: ConnectRequest, key: str, tag: str | None, news: Sequence[News]
    ) -> Record:
        command = None
        if self._commands is not None:
            command = self._commands.get(tag or _DEFAULT)
            if command is None:
                raise UnknownTag(f"expected one of the tags {sorted(self._commands)}, got {tag!r}")
        if len(self._ledger.holders) >= self._limits.backends:
            raise TooManyBackends(f"expected at most {self._limits.backends} backends at once")
        created = self._clock()
        launch = Launch(
            backend_id=secrets.token_hex(16),
            key=key,
            fencing_token=self._store.fencing_token(int(created * 1000)),
            term=self._term,
            request=request,
            command=command,
            news=tuple(news),
            token=new_token(),
        )
        record = self._launcher.start(launch, tag, created)
        self._routes.add_static(launch.backend_id, launch.token)
        return record

    async def _started(self, record: Record) -> None:
        await record.started()
        if self._is_closed:
            raise ManagerClosed("the manager of the backends has closed")

    def _respond(
        self, record: Record, request: ConnectRequest, *, spawned: bool
    ) -> ConnectResponse:
        answer = record.running.response if record.running is not None else None
        if answer is None:
            token = self._routes.add(record.backend_id, request.user, request.auth)
            url: str = self.urls.backend(token)
            secret: str | None = secret_of(token)
        else:
            first = record.launch.request if record.launch is not None else request
            if (first.user, first.auth) != (request.user, request.auth):
                raise OtherUser("expected the user that the backend was started for, got another")
            token, url, secret = answer.token, answer.url, answer.secret_token
        return ConnectResponse(
            backend_id=record.backend_id,
            spawned=spawned,
            status=record.life.status,
            token=token,
            url=url,
            secret_token=secret,
            status_url=self.urls.status(record.backend_id),
            ready_url=self.urls.ready(record.backend_id),
        )

    # Looking at them

    def backends(self) -> list[Backend]:
        """Return all backends, the oldest first, with those that have ended and are kept."""
        return [record.backend for record in self._ledger.records.values()]

    def backend(self, backend_id: str) -> Backend:
        """Return one."""
        return self._ledger.find(backend_id).backend

    def key_of(self, key: str) -> Backend | None:
        """Return the backend that has `key`; None where none has, or it has ended."""
        record = self._ledger.holders.get(key)
        return record.backend if record is not None else None

    def taken_over(self, key: str) -> Backend | None:
        """Return the backend that had `key` when this manager opened; it may have ended since.

        None where none had, or it is not kept any more.
        """
        record = self._ledger.records.get(self._taken_over.get(key, ""))
        return record.backend if record is not None else None

    def states(self, backend_id: str) -> list[BackendState]:
        """Return all states that a backend has been in."""
        return list(self._ledger.find(backend_id).life.states)

    def follow(
        self, backend_id: str, after: BackendStatus | None = None
    ) -> AsyncIterator[BackendState]:
        """Return an iterator over the states later than `after`: the past ones, then as they come.

        It ends after `terminated`. UnknownBackend is raised by this call, not by the iterator.
        """
        return self._ledger.find(backend_id).life.follow(after)

    def follow_all(self, after: int = 0) -> AsyncIterator[tuple[int, str, BackendState]]:
        """Return an iterator over the states of all backends: number, id of the backend, state.

        Those numbered later than `after` that are kept, then as they come, without end. Numbers
        grow, also across managers, and may leave out some.
        """
        return self._ledger.follow_all(after)

    async def wait_ready(self, backend_id: str) -> None:
        """Wait until a backend is ready.

        Raises NotReady where it is about to end, or has ended. Without a bound, but for that which
        a backend has to become ready in.
        """
        await self._ledger.find(backend_id).life.ready()

    async def log(self, backend_id: str) -> bytes:
        """Return what is kept of the stdout and stderr of a backend."""
        self._ledger.find(backend_id)
        return await self._engine.log(backend_id)

    # For the proxy

    def route(self, token: str) -> Route | None:
        """Return where `token` leads, which is good for longer by that.

        None where it is unknown, too old, or of a backend that has ended: nobody can tell which.
        """
        route = self._routes.find(token)
        if route is None or self._ledger.find(route.backend_id).life.is_over:
            return None
        return route

    @asynccontextmanager
    async def connection(self, backend_id: str) -> AsyncIterator[tuple[str, int]]:
        """Return a context that holds one connection to a backend open, and is its address.

        Entering it waits until the backend is ready, ManagerLimits.ready_time at most, and raises
        NotReady where it does not come to that or is not reached through us. While somebody is in
        there, or waits, the backend is not idle.
        """
        record = self._ledger.find(backend_id)
        record.idle.enter()
        try:
            try:
                async with asyncio.timeout(self._limits.ready_time):
                    address = await record.address()
            except TimeoutError:
                raise NotReady(
                    f"expected a backend to be ready in {self._limits.ready_time} seconds"
                ) from None
            yield address
        finally:
            record.idle.leave()

    # For what has news

    def deliver(self, backend_id: str, news: Sequence[News]) -> bool:
        """Tell a backend that logs have grown.

        Returns False where it takes none: it has ended, is about to, or was told to finish. It is
        for the next one then, which `connect` waits for.
        """
        return self._ledger.find(backend_id).deliver(news)

    def finish(self, backend_id: str) -> None:
        """Tell a backend that no more news will come; does nothing where it has ended."""
        self._ledger.find(backend_id).finish()

    def _was_acknowledged(self, record: Record, news: Sequence[News]) -> None:
        record.acknowledged(news)
        if self.on_acknowledged is not None:
            try:
                self.on_acknowledged(record.backend_id, news)
            except Exception:
                _log.exception("a hook of the manager failed for %s", record.backend_id)
