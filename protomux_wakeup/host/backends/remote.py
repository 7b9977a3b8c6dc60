"""One backend of a cluster: its states, its news, its end. Knows no file and no other backend.

The cluster tells the states in a stream, which breaks whenever it likes to. It is taken up again
where it was, and each state is told once, in order, whatever comes twice or late. A stream does not
always tell that there is no such backend (Plane's is silent then), so the state itself is asked for
first, each time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from itertools import islice
from typing import Any, Final

import msgspec
from yarl import URL

from protomux.errors import ProtocolError, ProtomuxError
from protomux_wakeup.host.backends.cluster import Backoff, Cluster, ClusterLimits, Refused
from protomux_wakeup.host.backends.dialects import Dialect, read_response, read_state
from protomux_wakeup.host.backends.engine import EngineError, Launch, Listener, News
from protomux_wakeup.host.backends.sse import Event, EventReader
from protomux_wakeup.host.backends.types import (
    BackendState,
    BackendStatus,
    ConnectResponse,
    HardTerminating,
    Terminated,
    Terminating,
    TerminationReason,
    encode,
    now,
)

__all__ = ["RemoteBackend"]

_log = logging.getLogger("protomux_wakeup.host")

_NOBODY: Final = frozenset((404, 409, 410))
"""Answers to who asks for the backend of a key, and for none to be started: there is none."""
_ID_SIZE: Final = 256
"""Characters of the id of an event that are sent back."""


class RemoteBackend:
    """A `Running`, followed until it has ended or `close()`.

    Attributes:
        address: None: it is not reached through us.
        response: what the cluster has answered; None while it is still to be found.
        is_over: it has ended, or was let go of.
    """

    def __init__(
        self,
        launch: Launch,
        listener: Listener,
        cluster: Cluster,
        dialect: Dialect,
        *,
        response: ConnectResponse | None,
        seen: BackendStatus | None,
        limits: ClusterLimits,
        on_found: Callable[[ConnectResponse], object],
    ) -> None:
        """Follow the backend of `launch`, and tell `listener` of states later than `seen`.

        Without a `response`, it is found by its key first, and `on_found(response)` called; where
        the cluster knows of none, it is lost.
        """
        self.address: tuple[str, int] | None = None
        self.response = response
        self.is_over = False
        self._launch = launch
        self._listener = listener
        self._cluster = cluster
        self._dialect = dialect
        self._limits = limits
        self._on_found = on_found
        self._tasks: set[asyncio.Task[None]] = set()
        # What was told.
        self._latest = seen
        self._last_id = ""
        # What the cluster has said.
        self._heard = asyncio.get_running_loop().time()
        self._answered: BackendState | None = None
        self._retry = 0.0
        self._backoff = Backoff(limits)
        self._is_found = asyncio.Event()
        self._is_ready = asyncio.Event()
        if response is not None:
            self._is_found.set()
        if seen is not None and not seen.is_before(BackendStatus.READY):
            self._is_ready.set()
        # What we want of it.
        self._reason: TerminationReason | None = None
        self._is_hard = False
        self._ending: asyncio.Task[None] | None = None
        self._news: dict[tuple[bytes, bytes], int] = {}
        self._posting: asyncio.Task[None] | None = None
        self._is_finished = False
        self._is_full = False
        self._start(self._follow())
        self.deliver(launch.news)

    def __repr__(self) -> str:
        return f"<RemoteBackend {self._launch.backend_id} {self._latest or 'unknown'}>"

    async def close(self) -> None:
        """Let go of it; it runs on."""
        self.is_over = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # Its states.

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        while not self.is_over:
            failure: Exception | None = None
            try:
                await self._find()
                await self._watch()
            except ProtomuxError as error:
                _log.info("backend %s: %s", self._launch.backend_id, error)
                failure = error
            except Exception as error:  # nothing that a cluster sends ends this
                _log.exception("backend %s is not heard of", self._launch.backend_id)
                failure = error
            silent = loop.time() - self._heard
            if isinstance(self._answered, Terminated) and (
                failure is None or silent >= self._limits.lost_time
            ):
                self._move(self._answered)  # though the stream did not say so
            elif silent >= self._limits.lost_time:
                self._lose(f"nothing was heard of it for {silent:.0f} s")
            elif not self.is_over:
                wait = max(self._backoff.next(failure), self._retry)
                await asyncio.sleep(min(wait, self._limits.lost_time - silent))

    def _hear(self) -> None:
        """The cluster knows it; when it has ended there, that is no sign of life."""
        if not isinstance(self._answered, Terminated):
            self._heard = asyncio.get_running_loop().time()

    async def _find(self) -> None:
        """Learn the cluster's id of it, by its key."""
        if self.response is not None:
            return
        request = self._dialect.request(self._launch, False)
        try:
            response = read_response(await self._cluster.ask(self._dialect.connect, request))
        except Refused as error:
            if error.status in _NOBODY:
                self._lose(str(error))
                return
            raise
        self._on_found(response)
        self.response = response
        self._is_found.set()

    async def _watch(self) -> None:
        """Read one stream of states to its end, whichever that is."""
        if self.response is None:
            return
        data = await self._cluster.get(self._path(self._dialect.status))
        try:
            self._answered = read_state(data)
        except ProtocolError as error:  # the stream may do better
            _log.info("backend %s: a state cannot be read: %s", self._launch.backend_id, error)
        self._hear()
        reader = EventReader(self._limits.event_size)
        path = self._path(self._dialect.stream)
        async with self._cluster.stream(path, self._last_id) as pieces:
            opened_at = self._heard
            async for piece in pieces:
                self._hear()
                if self._heard - opened_at > self._limits.longest_wait:
                    self._backoff.reset()
                for event in reader.feed(piece):
                    self._take(event)
                if reader.retry is not None:
                    self._retry = min(reader.retry / 1000, self._limits.longest_wait)
                if self.is_over:
                    return

    def _path(self, template: str) -> str:
        assert self.response is not None
        return template.format(id=self.response.backend_id)

    def _take(self, event: Event) -> None:
        if event.type != "message":
            return
        try:
            state = read_state(event.data)
        except ProtocolError as error:
            _log.warning("backend %s: a state cannot be read: %s", self._launch.backend_id, error)
            return
        self._move(state)
        # Only now: where it goes on after what we could not read, or not tell, that comes again.
        is_sent_back = len(event.id) <= _ID_SIZE and event.id.isascii() and event.id.isprintable()
        self._last_id = event.id if is_sent_back else ""

    def _move(self, state: BackendState) -> None:
        """Tell of `state`, unless it or a later one was told."""
        if self.is_over or (self._latest is not None and not self._latest.is_before(state.status)):
            return
        if (
            self._reason is not None
            and isinstance(state, Terminating | HardTerminating | Terminated)
            and state.termination_reason is TerminationReason.EXTERNAL
        ):
            # The cluster knows that somebody wanted it; we were that, and know why.
            state = msgspec.structs.replace(state, termination_reason=self._reason)
        self._listener.moved(state)
        self._latest = state.status
        self._heard = asyncio.get_running_loop().time()
        self._backoff.reset()
        if state.status is BackendStatus.READY:
            self._is_ready.set()
        elif state.status is BackendStatus.TERMINATED:
            self.is_over = True
            for task in (self._posting, self._ending):
                if task is not None:
                    task.cancel()

    def _lose(self, why: str) -> None:
        _log.warning("backend %s is lost: %s", self._launch.backend_id, why)
        self._move(Terminated(time=now(), termination_reason=TerminationReason.LOST))

    # Its end.

    def terminate(self, reason: TerminationReason, *, hard: bool) -> None:
        """See `Running`. The states tell `reason`, as long as we are there."""
        if self.is_over or self._is_hard or (self._reason is not None and not hard):
            return
        self._reason = self._reason or reason
        self._is_hard = hard
        if self._ending is not None:
            self._ending.cancel()
        self._ending = self._start(self._end(hard))

    async def _end(self, hard: bool) -> None:
        await self._is_found.wait()
        dialect = self._dialect
        path = self._path(dialect.hard if hard else dialect.soft)
        body = dialect.hard_request if hard else dialect.soft_request
        backoff = Backoff(self._limits)
        while True:
            try:
                await self._cluster.tell(path, body)
                return
            except EngineError as error:
                _log.warning("backend %s is not ended: %s", self._launch.backend_id, error)
                if isinstance(error, Refused) and error.is_final:
                    return
                wait = backoff.next(error)
            await asyncio.sleep(wait)

    # Its news.

    def deliver(self, news: Sequence[News]) -> None:
        """See `Running`. What does not fit is left for the next backend: nobody acknowledges it."""
        if self.is_over or self._is_finished:
            return
        for topic, key, length in news:
            known = self._news.get((topic, key))
            if known is not None or len(self._news) < self._limits.news:
                self._news[topic, key] = max(length, known or 0)
            elif not self._is_full:
                self._is_full = True
                _log.warning("backend %s takes no news in", self._launch.backend_id)
        if self._news and (self._posting is None or self._posting.done()):
            self._posting = self._start(self._post())

    def finish(self) -> None:
        """Take no more news; those that wait are still told. The backend does not hear of it."""
        self._is_finished = True

    async def _post(self) -> None:
        """Tell the backend of all news that wait."""
        await self._is_found.wait()
        await self._is_ready.wait()
        assert self.response is not None
        address = self.response.url
        url = str(URL(address if address.endswith("/") else address + "/").join(URL("hints")))
        backoff = Backoff(self._limits)
        while self._news:
            first = islice(self._news.items(), self._limits.news_at_once)
            some = [News(topic, key, length) for (topic, key), length in first]
            body = {"news": [(each.topic.hex(), each.key.hex(), each.length) for each in some]}
            try:
                await self._cluster.tell_backend(url, encode(body))
                self._listener.acknowledged(some)
            except ProtomuxError as error:
                _log.info("backend %s took no news: %s", self._launch.backend_id, error)
                await asyncio.sleep(backoff.next(error))
                continue
            backoff.reset()
            for each in some:
                if self._news[each.topic, each.key] == each.length:
                    del self._news[each.topic, each.key]
