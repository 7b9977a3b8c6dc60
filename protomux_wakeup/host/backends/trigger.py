"""Runs a command for a topic when its logs have grown. Knows the manager and the service.

A topic has one backend at a time, under the key that is the topic's id in hex digits. It is started
with all that is known and not acknowledged, and hears of more while it runs. What it has not
acknowledged when it ends, the next one gets; and only what it has acknowledged is acknowledged to
the service, so whoever dies, nothing is lost, and some may come twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections.abc import Callable, MutableMapping, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec

from protomux import ProtomuxError
from protomux.crypto import discovery_key
from protomux_wakeup.host.backends.engine import Command, News
from protomux_wakeup.host.backends.manager import Backend, Manager
from protomux_wakeup.host.backends.types import (
    BackendState,
    BackendStatus,
    ConnectRequest,
    SpawnConfig,
    Terminated,
    TerminationReason,
)
from protomux_wakeup.host.errors import WatcherReplaced
from protomux_wakeup.host.service_client import Hint, ServiceClient

__all__ = ["Conflict", "Trigger"]

_log = logging.getLogger("protomux_wakeup.host")

WATCHER: Final = "on"
"""The name under which the service keeps what was acknowledged."""

FIRST_DELAY: Final = 1.0
"""Seconds before the next backend, after one that acknowledged nothing; twice as many each time."""

LONGEST_DELAY: Final = 60.0
"""Seconds that are waited at most."""

RETRY: Final = 1.0
"""Seconds before the service is asked again, where it could not store what was acknowledged."""

STORE_TIME: Final = 5.0
"""Seconds that who leaves waits for the service to store what was acknowledged."""

_TAG: Final = "on-"
_TOPIC: Final = re.compile(r"[0-9a-f]{64}")


class Conflict(ProtomuxError):
    """Another command is set up for the topic."""


class _Topic:
    """A topic for which something is run.

    Attributes:
        users: who wants that.
        leaving: who does not any more, and hears of what runs until it has ended.
        pending: what has grown and is not acknowledged, by the key of the log.
        done: what is acknowledged and the service does not know yet.
        has_acknowledged: the one that runs, or ran last, has come further with what was pending.
        is_watched: hints of it come, and the service takes what is acknowledged.
        backend: the one that runs; it may be of an earlier manager.
        ended: one of an earlier manager that has ended before anybody was here to hear of it.
        is_running: there is one, or is about to be.
    """

    def __init__(self, id: bytes) -> None:
        self.id: Final = id
        self.key: Final = id.hex()
        self.tag = ""
        self.idle: int | None = None
        self.users: set[object] = set()
        self.leaving: set[object] = set()
        self.pending: dict[bytes, int] = {}
        self.done: dict[bytes, int] = {}
        self.is_watched = False
        self.backend: str | None = None
        self.ended: str | None = None
        self.is_running = False
        self.has_acknowledged = False
        self._reached: dict[bytes, int] = {}  # of what is pending, how far it was acknowledged
        self.serving: asyncio.Task[None] | None = None
        self._turned = asyncio.Event()

    @property
    def news(self) -> list[News]:
        return [News(self.id, key, length) for key, length in self.pending.items()]

    @property
    def is_wanted(self) -> bool:
        return bool(self.pending and self.users)

    def check(self, user: object, tag: str) -> None:
        """Raise Conflict where somebody else has another command run."""
        if self.users - {user} and self.tag != tag:
            raise Conflict(
                f"another process has another command run for the topic {self.key}, and there can "
                "be one"
            )

    def take_note(self, key: bytes, length: int) -> None:
        """That log is done up to that length."""
        pending = self.pending.get(key)
        if pending is None or length <= self._reached.get(key, -1):
            return  # no more than was known
        self.has_acknowledged = True
        self._reached[key] = length
        if pending <= length:
            del self.pending[key], self._reached[key]

    def turn(self) -> None:
        """Something is another way now."""
        self._turned.set()
        self._turned = asyncio.Event()

    async def until(self, holds: Callable[[], object]) -> None:
        while not holds():
            await self._turned.wait()


class Trigger:
    """What is run for which topics, while `run()` runs.

    Attributes:
        on_state: hook or None: on_state(topic, backend_id, state) when a backend that runs for
            the topic, 32 bytes, has moved. Each state comes once, also those of before this
            trigger was there.
    """

    def __init__(
        self,
        manager: Manager,
        commands: MutableMapping[str, Command],
        service: ServiceClient,
    ) -> None:
        """Take hints of `service`, and run `commands`, which are those of `manager`, by it.

        To be made before the manager opens: what is acknowledged meanwhile is heard here.
        """
        self.on_state: Callable[[bytes, str, BackendState], object] | None = None
        self._manager = manager
        self._commands = commands
        self._service = service
        self._topics: dict[bytes, _Topic] = {}
        self._is_to_tell = asyncio.Event()
        self._is_new = True
        manager.on_acknowledged = self._on_acknowledged

    async def add(
        self, user: object, capability: bytes, command: Command, *, idle: int | None
    ) -> bytes:
        """Run `command` for the topic of `capability`, as long as `user` wants it; return its id.

        `idle` is in seconds: with no news for so long, its stdin ends; when it still runs
        `Command.grace` later, it is asked to end: at once where it has acknowledged all, else when
        it has acknowledged nothing for `idle` seconds more. None is no such limit. Raises Conflict
        where another user has another command there, and what `ServiceClient.watch` raises: the
        wish is as it was then.
        """
        tag = _tag_of(command)
        topic = self._topic(discovery_key(capability))
        topic.check(user, tag)
        await self._service.watch(capability, watcher=WATCHER)
        topic.check(user, tag)  # again, for who came meanwhile
        topic.is_watched = True
        self._is_to_tell.set()
        topic.tag, topic.idle = tag, idle
        topic.users.add(user)
        self._commands[tag] = command
        if topic.serving is None:
            topic.ended = self._ended(topic)
            topic.serving = asyncio.create_task(self._serve(topic))
        topic.turn()
        return topic.id

    async def remove(self, user: object, id: bytes) -> None:
        """`user` does not want it any more, or did not, where an earlier manager knew.

        Where nobody else does, no backend runs when this returns. What was acknowledged by then is
        stored, if the service can store it in `STORE_TIME`; what comes later is kept for the next
        user.
        """
        topic = self._topic(id)
        topic.users.discard(user)
        if not topic.users:
            topic.leaving.add(user)
            topic.turn()
            try:
                while not topic.users:
                    backend = self._manager.key_of(topic.key)
                    if backend is None:
                        break
                    await self._end(backend.backend_id, TerminationReason.EXTERNAL)
                await topic.until(lambda: topic.users or not topic.is_running)
            finally:
                topic.leaving.discard(user)
        with suppress(TimeoutError):  # the next manager hears it again, of what did it
            async with asyncio.timeout(STORE_TIME):
                await topic.until(lambda: not (topic.done and topic.is_watched))

    async def abandon(self) -> None:
        """End what an earlier manager has run for users of whom none has come to this one.

        Who comes from now on does not hear of what it has run and has ended.
        """
        self._is_new = False
        for backend in self._manager.backends():
            id = _topic_of(backend)
            if id is not None and not self._topic(id).users:
                await self._end(backend.backend_id, TerminationReason.KEY_EXPIRED)

    def wanted_by(self, user: object) -> list[bytes]:
        """Return the topics that `user` wants."""
        return [topic.id for topic in self._topics.values() if user in topic.users]

    def is_told(self, user: object, id: bytes) -> bool:
        """Tell whether `user` is to hear of what runs for the topic."""
        topic = self._topics.get(id)
        return topic is not None and user in topic.users | topic.leaving

    def states(self, id: bytes) -> list[tuple[str, BackendState]]:
        """Return what there was to hear of the topic so far, for a user who was not there.

        The states, each with the id of its backend, of what an earlier manager had run when this
        one came, and of what runs.
        """
        topic = self._topic(id)
        backends = dict.fromkeys((self._ended(topic), topic.backend))
        return [
            (backend, state)
            for backend in backends
            if backend is not None
            for state in self._manager.states(backend)
        ]

    async def run(self) -> None:
        """Take in hints, until cancelled, or the service's client has left."""
        flushing = asyncio.create_task(self._tell())
        try:
            while True:
                try:
                    async for hint in self._service.hints(acknowledge=False):
                        self._learn(hint)
                    return
                except WatcherReplaced as error:
                    _log.error("nothing is run any more for a topic: %s", error)
        finally:
            tasks = [flushing, *(each.serving for each in self._topics.values() if each.serving)]
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    def _topic(self, id: bytes) -> _Topic:
        topic = self._topics.get(id)
        if topic is None:
            topic = self._topics[id] = _Topic(id)
        return topic

    def _learn(self, hint: Hint) -> None:
        topic = self._topic(hint.topic)
        if hint.length <= max(topic.pending.get(hint.key, -1), topic.done.get(hint.key, -1)):
            return
        topic.pending[hint.key] = hint.length
        topic.turn()
        if topic.backend is not None:
            self._manager.deliver(topic.backend, [News(*hint)])

    # Backends

    async def _serve(self, topic: _Topic) -> None:
        """Have a backend for `topic` whenever it is wanted; follow one that runs already."""
        delay = FIRST_DELAY
        while True:
            await topic.until(lambda: topic.is_wanted or topic.ended or self._runs(topic))
            topic.is_running, topic.has_acknowledged = True, False
            try:
                await self._run_backend(topic)
            except ProtomuxError as error:
                _log.error("nothing can be run for %s: %s", topic.key, error)
            except Exception:
                _log.exception("nothing can be run for %s", topic.key)
            finally:
                topic.backend = None
                topic.is_running = False
                topic.turn()
            if topic.has_acknowledged:
                delay = FIRST_DELAY
            elif topic.pending:
                await asyncio.sleep(delay)
                delay = min(2 * delay, LONGEST_DELAY)

    def _runs(self, topic: _Topic) -> bool:
        return bool(topic.users) and self._manager.key_of(topic.key) is not None

    def _ended(self, topic: _Topic) -> str | None:
        """Return the backend of an earlier manager that has ended since this one came."""
        backend = self._manager.taken_over(topic.key) if self._is_new else None
        if backend is None or not isinstance(backend.state, Terminated):
            return None
        return backend.backend_id

    async def _run_backend(self, topic: _Topic) -> None:
        """Return when it has ended."""
        ended, topic.ended = topic.ended, None
        if ended is not None:
            await self._follow(topic, ended)
        running = self._manager.key_of(topic.key)
        if running is None:
            if not topic.is_wanted:
                return
            request = ConnectRequest(
                key=topic.key, spawn=SpawnConfig(tag=topic.tag, max_idle_seconds=topic.idle)
            )
            topic.backend = (await self._manager.connect(request, topic.news)).backend_id
        else:
            topic.backend = running.backend_id
            if running.tag != topic.tag:  # of a command that nobody wants any more
                self._manager.terminate(topic.backend, reason=TerminationReason.SWEPT)
        self._manager.deliver(topic.backend, topic.news)  # it drops what it knows
        if not topic.users:  # who wanted it has gone meanwhile
            self._manager.terminate(topic.backend, reason=TerminationReason.EXTERNAL)
        await self._follow(topic, topic.backend)

    async def _follow(self, topic: _Topic, backend_id: str) -> None:
        async for state in self._manager.follow(backend_id, None):
            if self.on_state is not None:
                self.on_state(topic.id, backend_id, state)

    async def _end(self, backend_id: str, reason: TerminationReason) -> None:
        self._manager.terminate(backend_id, reason=reason)
        async for _ in self._manager.follow(backend_id, BackendStatus.HARD_TERMINATING):
            pass

    # What backends have done

    def _on_acknowledged(self, _backend_id: str, news: Sequence[News]) -> None:
        for id, key, length in news:
            topic = self._topic(id)
            topic.take_note(key, length)
            topic.done[key] = max(length, topic.done.get(key, 0))
        self._is_to_tell.set()

    async def _tell(self) -> None:
        """Tell the service what was acknowledged, until it has stored it."""
        while True:
            await self._is_to_tell.wait()
            self._is_to_tell.clear()
            for topic in list(self._topics.values()):
                # The service takes none for what is not watched yet: it will be.
                if topic.done and topic.is_watched:
                    done = dict(topic.done)
                    try:
                        await self._service.acknowledge(
                            *(Hint(topic.id, key, length) for key, length in done.items())
                        )
                    except ProtomuxError as error:
                        _log.warning("what was acknowledged is not stored yet: %s", error)
                        self._is_to_tell.set()
                        continue
                    for key, length in done.items():
                        if topic.done[key] == length:
                            del topic.done[key]
                    topic.turn()
            if self._is_to_tell.is_set():
                await asyncio.sleep(RETRY)


def _topic_of(backend: Backend) -> bytes | None:
    """Return the id of the topic for which a trigger has started it; None where it was another."""
    is_ours = (backend.tag or "").startswith(_TAG) and _TOPIC.fullmatch(backend.key)
    if not is_ours or isinstance(backend.state, Terminated):
        return None
    return bytes.fromhex(backend.key)


def _tag_of(command: Command) -> str:
    """Return a name for `command`, of what it runs and where."""
    words: Any = (command.argv, command.directory)
    return f"{_TAG}{hashlib.sha256(msgspec.json.encode(words)).hexdigest()[:12]}"
