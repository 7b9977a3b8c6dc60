"""A process's half of the manager: what it wants to be run, and what runs. Knows no process of it.

What it asked for outlives the manager: the next one is told all of it anew.
"""

from __future__ import annotations

import logging
import os
import resource
import shutil
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from protomux import ProtomuxError
from protomux_wakeup.host.backends.engine import Command, Readiness
from protomux_wakeup.host.backends.manager import Backend
from protomux_wakeup.host.backends.serving import Address
from protomux_wakeup.host.backends.types import (
    BackendState,
    ConnectRequest,
    ConnectResponse,
)
from protomux_wakeup.host.backends.worker import MAIN, STATE, Options, Wanted, manager_host
from protomux_wakeup.host.errors import RemoteError
from protomux_wakeup.host.leader import Client
from protomux_wakeup.host.limits import Limits

__all__ = ["BackendsClient", "Moved", "join_backends"]

_log = logging.getLogger("protomux_wakeup.host")

Moved = Callable[[bytes, str, BackendState], object]
"""on_state(topic, backend_id, state): a backend that was started for a topic has moved."""


class BackendsClient:
    """The manager of backends, for one process. Made by `join_backends`.

    ```python
    async with host.join("notes") as service, join_backends("notes") as backends:
        await backends.on(capability, ["./sync.sh"])
        await service.connect("peer.example:4000", wait=False)
        await asyncio.Event().wait()
    ```

    The peers whose news it is about are those of the host beside it, so who wants some joins that
    too.

    As a context manager it joins the host of the manager, and leaves on the way out: what was run
    for this process alone is asked to end, and has ended by then.

    Attributes:
        client: this process's part in the host.
        on_state: hook, see `Moved`; None for none.
    """

    def __init__(self, client: Client) -> None:
        """Use `client`, whose responders and `on_connect` are ours from now on."""
        self.client: Final = client
        self.on_state: Moved | None = None
        self._wanted: dict[bytes, Wanted] = {}
        self._told: dict[bytes, tuple[str, int]] = {}  # of each topic, the latest
        client.respond(STATE, self._moved)
        client.on_connect = self._connect_anew

    async def __aenter__(self) -> Self:
        await self.client.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.leave()

    async def on(
        self,
        capability: bytes,
        argv: Sequence[str],
        *,
        idle: int | None = 60,
        directory: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        readiness: Readiness = Readiness.STARTED,
        **settings: float,
    ) -> bytes:
        """Run a command when logs of the topic of `capability` have grown; return the topic's id.

        It gets what has grown as lines on its stdin, "hint TOPIC KEY LENGTH", and has it
        acknowledged by the exit code 0, or one by one; see docs/backends.md.

        Args:
            capability: 32 bytes.
            argv: the program and its arguments.
            idle: seconds without news after which its stdin ends; when it still runs
                `Command.grace` later, it is asked to end: at once where it has acknowledged all,
                else when it has acknowledged nothing for `idle` seconds more. None is never.
            directory: to run it in; that of this process.
            env: its environment; that of this process.
            readiness: by what it is known to be ready.
            **settings: other fields of `Command`.

        Raises FileNotFoundError where there is no such program, ValueError for arguments that are
        not Unicode; RemoteError where another process has another command run for the topic.
        """
        command = _command(argv, directory, env, readiness, settings)
        wanted = Wanted(capability=capability.hex(), command=command, idle=idle)
        topic = bytes.fromhex((await self._call("on", wanted))["topic"])
        self._wanted[topic] = wanted
        return topic

    async def off(self, topic: bytes) -> None:
        """Run nothing any more for `topic`; where no other process does, nothing runs by then."""
        if self._wanted.pop(topic, None) is not None:
            await self._call("off", {"topic": topic.hex()}, timeout=None)
            self._told.pop(topic, None)

    async def connect(self, request: ConnectRequest) -> ConnectResponse:
        """Ask for a backend, of a command that was set up; see `Manager.connect`."""
        answer = await self.client.call("connect", msgspec.to_builtins(request))
        return msgspec.convert(answer, ConnectResponse)

    async def where(self) -> Mapping[str, str]:
        """Return the "control" url of the API and page, that of the "proxy", and the "token"."""
        found: dict[str, str] = await self._call("where")
        return found

    async def backends(self) -> list[tuple[Backend, list[BackendState]]]:
        """Return all backends, the oldest first, each with the states that it has been in."""
        return backends_of(await self._call("backends"))

    async def leave(self) -> None:
        """End what was run for this process alone, and leave."""
        try:
            for topic in list(self._wanted):
                await self.off(topic)
        except ProtomuxError as error:  # the manager does it by itself after a while
            _log.warning("what was run may go on for a while: %s", error)
        finally:
            await self.client.leave()

    async def _call(self, method: str, params: Any = None, timeout: float | None = 30.0) -> Any:  # noqa: ASYNC109 - handed on
        return await self.client.call(
            method, msgspec.to_builtins(params), idempotent=True, timeout=timeout
        )

    def _moved(self, params: Any) -> None:
        state: BackendState = msgspec.convert(params["state"], BackendState)
        topic, backend_id = bytes.fromhex(params["topic"]), params["backend_id"]
        latest, number = self._told.get(topic, ("", -1))
        if backend_id != latest or number < state.status.number:
            # A topic has one backend after the other; a manager that is new tells all of one.
            self._told[topic] = backend_id, state.status.number
            if self.on_state is not None:
                self.on_state(topic, backend_id, state)

    async def _connect_anew(self, _client: object) -> None:
        for wanted in self._wanted.values():
            try:
                await self.client.call("on", msgspec.to_builtins(wanted))
            except RemoteError as error:
                _log.error("the new manager does not do what the one before did: %s", error)


def _command(
    argv: Sequence[str],
    directory: str | os.PathLike[str] | None,
    env: Mapping[str, str] | None,
    readiness: Readiness,
    settings: Mapping[str, float],
) -> Command:
    for argument in argv:
        if not _is_text(argument):
            raise ValueError(f"expected arguments in UTF-8, got {argument!a}")
    environment = _sendable(os.environ if env is None else env)
    place = os.path.abspath(directory or ".")
    program = os.path.join(place, argv[0]) if "/" in argv[0] else argv[0]
    if shutil.which(program, path=environment.get("PATH")) is None:
        raise FileNotFoundError(f"expected a program that can be run, got {argv[0]!r}")
    open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Command(
        argv=tuple(argv),
        directory=place,
        env=environment,
        readiness=readiness,
        open_files=None if open_files == resource.RLIM_INFINITY else open_files,
        **settings,  # type: ignore[arg-type]
    )


def _sendable(env: Mapping[str, str]) -> dict[str, str]:
    """Return what of `env` is Unicode: the manager hears of it in JSON."""
    for name in (name for name in env if not _is_text(name + env[name])):
        _log.warning("a command does not get the variable %a, which is not UTF-8", name)
    return {name: value for name, value in env.items() if _is_text(name + value)}


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # what os.fsdecode() makes of other bytes
        return False
    return True


def backends_of(answer: Any) -> list[tuple[Backend, list[BackendState]]]:
    """Return what a manager answers to "backends"."""
    return [
        (msgspec.convert(each, Backend), msgspec.convert(each["states"], list[BackendState]))
        for each in answer
    ]


def join_backends(
    name: str,
    *,
    state: str | os.PathLike[str] | None = None,
    directory: str | os.PathLike[str] | None = None,
    control: Address = ("127.0.0.1", 0),
    proxy: Address = ("127.0.0.1", 0),
    limits: Limits = Limits(),
) -> BackendsClient:
    """Return a client of the manager of backends beside the host `name`.

    All processes of this user share one. `state`, `control` and `proxy` are those of the process
    that leads: the directory of what is kept, where the API and the page are, and where backends
    are reached. `directory` and `limits` are as for `host.join`.
    """
    options = Options(
        host=name,
        directory=None if directory is None else os.path.abspath(directory),
        state=None if state is None else os.path.abspath(state),
        control=control,
        proxy=proxy,
        limits=msgspec.to_builtins(limits),
    )
    client = Client(
        manager_host(name),
        MAIN,
        options=msgspec.to_builtins(options),
        on_connect=None,
        on_leader_change=None,
        directory=directory,
        is_keeper=False,
        program=None,
        limits=limits,
    )
    return BackendsClient(client)
