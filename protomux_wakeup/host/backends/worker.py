"""The manager of backends as a worker: what its clients may ask. Knows no election, no backend.

It is the one worker of a host of its own, beside the host whose hints it takes: what is meant by a
host's name stays one thing. While it is replaced, backends run on, and its clients say anew what
they want to be run.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any, Final

import msgspec

from protomux.crypto import discovery_key
from protomux_wakeup.host.backends.engine import Command
from protomux_wakeup.host.backends.manager import Manager, Urls
from protomux_wakeup.host.backends.process import ProcessEngine
from protomux_wakeup.host.backends.serving import Address, control_token, serving
from protomux_wakeup.host.backends.store import BackendStore
from protomux_wakeup.host.backends.trigger import Trigger
from protomux_wakeup.host.backends.types import BackendState, ConnectRequest, Seconds
from protomux_wakeup.host.joining import join
from protomux_wakeup.host.limits import Limits
from protomux_wakeup.host.messages import read
from protomux_wakeup.host.params import flag_of, key_of, text_of
from protomux_wakeup.host.places import host_path, private_directory
from protomux_wakeup.host.service import state_directory
from protomux_wakeup.host.worker import Session, Worker

__all__ = ["GRACE", "MAIN", "STATE", "Options", "Wanted", "main", "manager_host"]

_log = logging.getLogger("protomux_wakeup.host")

MAIN: Final = "protomux_wakeup.host.backends.worker:main"

STATE: Final = "state"
"""What clients are told of a backend that was started for them: {topic, backend_id, state}."""

_SUFFIX: Final = ".backends"
_LONGEST_NAME: Final = 32 - len(_SUFFIX)

OPEN_FILES: Final = 32_768
"""Descriptors of the manager: the proxy has two for each connection, and the usual 1,024 would do
for few. Commands have as many as who asked for them (`Command.open_files`): a program that uses
select(2) must not have more than 1,024."""

GRACE: Final = 30.0
"""Seconds that what a process wants to be run outlives its connection: it may come back to the next
manager, or the one that has replaced its own."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the process that leads says of the manager.

    Attributes:
        host: the name of the host whose hints are taken.
        directory: see `places.host_path`.
        state: the directory of what is kept; see `service.state_directory`.
        control: where the API and the page are: address and port, 0 for any.
        proxy: where backends are reached.
        limits: fields of `host.Limits` for the host.
    """

    host: str
    directory: str | None = None
    state: str | None = None
    control: Address = ("127.0.0.1", 0)
    proxy: Address = ("127.0.0.1", 0)
    limits: dict[str, float] = {}


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A command that a client wants to be run for a topic.

    Attributes:
        capability: 64 hex digits.
        command: what is run.
        idle: seconds, see `Trigger.add`.
    """

    capability: str
    command: Command
    idle: Seconds | None = None


def manager_host(name: str) -> str:
    """Return the name of the host whose worker is the manager of backends of the host `name`.

    Raises ValueError for a name that leaves no room for that.
    """
    if len(name) > _LONGEST_NAME:
        raise ValueError(
            f"expected a name of at most {_LONGEST_NAME} characters, for a host with backends, "
            f"got {name!r}"
        )
    return f"{name}{_SUFFIX}"


async def main(worker: Worker) -> None:
    """Serve the clients of `worker` until it has to go; backends that run then are left running.

    Raises StoreFailed where the file of backends cannot be used, Superseded where there was a
    manager of a later term, EndpointError where a listener cannot be.
    """
    _raise_open_files()
    options = msgspec.convert(dict(worker.options), Options)
    state = private_directory(state_directory(options.host, {"state": options.state}))
    meeting = host_path(f"{options.host}.monitors", options.directory)
    private_directory(meeting.parent)
    async with AsyncExitStack() as stack:
        store = BackendStore(state / "backends.db")
        stack.callback(store.close)
        commands: dict[str, Command] = {}
        manager = Manager(
            store,
            ProcessEngine(private_directory(meeting), private_directory(state / "logs")),
            commands,
            term=worker.term,
            urls=Urls(control="", proxy=""),  # until they are served
        )
        service = join(
            options.host,
            state=state,
            directory=options.directory,
            program="backends",
            limits=Limits(**options.limits),  # type: ignore[arg-type]
        )
        await stack.enter_async_context(service)
        trigger = Trigger(manager, commands, service)  # what is acknowledged from now on, it hears
        await manager.open()
        stack.push_async_callback(manager.close)
        token = control_token(state)
        await stack.enter_async_context(
            serving(manager, options.control, options.proxy, token=token, status=service.status)
        )
        running = asyncio.create_task(trigger.run())
        stack.push_async_callback(_cancelled, running)
        clients = _Clients(worker, manager, trigger, token)
        stack.push_async_callback(clients.close)
        await worker.serve()


def _raise_open_files() -> None:
    """Let this process have `OPEN_FILES`, or as many as it may."""
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if most == resource.RLIM_INFINITY else min(OPEN_FILES, most)
    if before != resource.RLIM_INFINITY and before < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


class _Clients:
    """Who wants what to be run."""

    def __init__(self, worker: Worker, manager: Manager, trigger: Trigger, token: str) -> None:
        self._worker = worker
        self._manager = manager
        self._trigger = trigger
        self._token = token
        self._tasks = {asyncio.create_task(self._abandon())}
        methods: Mapping[str, Callable[[Any, Session], Any]] = {
            "on": self._on,
            "off": self._off,
            "connect": self._connect,
            "backends": self._backends,
            "log": self._log,
            "terminate": self._terminate,
            "where": self._where,
        }
        for method, handler in methods.items():
            worker.respond(method, handler)
        worker.on_session_end = self._session_end
        trigger.on_state = self._moved

    async def close(self) -> None:
        for task in tuple(self._tasks):
            await _cancelled(task)

    async def _abandon(self) -> None:
        """Wait for those who wanted what an earlier manager has run."""
        await asyncio.sleep(GRACE)
        await self._trigger.abandon()

    def _session_end(self, session: Session) -> None:
        if self._trigger.wanted_by(session.client_id):
            task = asyncio.create_task(self._forget(session.client_id))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forget(self, client_id: str) -> None:
        await asyncio.sleep(GRACE)
        if client_id not in {session.client_id for session in self._worker.sessions}:
            for topic in self._trigger.wanted_by(client_id):
                await self._trigger.remove(client_id, topic)

    async def _on(self, params: Any, session: Session) -> dict[str, str]:
        wanted = read(Wanted, params)
        capability = key_of(params, "capability")
        is_known = discovery_key(capability) in self._trigger.wanted_by(session.client_id)
        topic = await self._trigger.add(
            session.client_id, capability, wanted.command, idle=wanted.idle
        )
        if not is_known:
            for backend_id, state in self._trigger.states(topic):
                session.notify(STATE, _told(topic, backend_id, state))
        return {"topic": topic.hex()}

    async def _off(self, params: Any, session: Session) -> None:
        await self._trigger.remove(session.client_id, key_of(params, "topic"))

    async def _connect(self, params: Any, _session: Session) -> Any:
        return msgspec.to_builtins(await self._manager.connect(read(ConnectRequest, params)))

    def _backends(self, _params: Any, _session: Session) -> Any:
        return [
            {
                **msgspec.to_builtins(backend),
                "states": msgspec.to_builtins(self._manager.states(backend.backend_id)),
            }
            for backend in self._manager.backends()
        ]

    async def _log(self, params: Any, _session: Session) -> str:
        kept = await self._manager.log(text_of(params, "backend_id"))
        return kept.decode(errors="replace")

    async def _terminate(self, params: Any, _session: Session) -> Any:
        backend_id = text_of(params, "backend_id")
        self._manager.terminate(backend_id, hard=flag_of(params, "hard"))
        if flag_of(params, "wait"):
            async for _ in self._manager.follow(backend_id):
                pass
        return msgspec.to_builtins(self._manager.backend(backend_id).state)

    def _where(self, _params: Any, _session: Session) -> dict[str, str]:
        urls = self._manager.urls
        return {"control": urls.control, "proxy": urls.proxy, "token": self._token}

    def _moved(self, topic: bytes, backend_id: str, state: BackendState) -> None:
        told = _told(topic, backend_id, state)
        for session in self._worker.sessions:
            if self._trigger.is_told(session.client_id, topic):
                session.notify(STATE, told)


def _told(topic: bytes, backend_id: str, state: BackendState) -> dict[str, Any]:
    return {
        "topic": topic.hex(),
        "backend_id": backend_id,
        "state": msgspec.to_builtins(state),
    }


async def _cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait((task,))
