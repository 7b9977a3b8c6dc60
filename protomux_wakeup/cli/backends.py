"""`on`, `backends`, `logs`, `terminate`: runs commands, or looks at what runs. Knows no engine."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from rich.console import RenderableType
from rich.text import Text

from protomux_wakeup.address import Address
from protomux_wakeup.cli.host import check_name, joining, meet_peers
from protomux_wakeup.cli.overview import table
from protomux_wakeup.cli.process import Exit, Failure
from protomux_wakeup.cli.report import Fields, Reporter
from protomux_wakeup.cli.values import short
from protomux_wakeup.host import HostNotRunning, RemoteError, Visitor, visit
from protomux_wakeup.host.backends.client import backends_of, join_backends
from protomux_wakeup.host.backends.engine import Readiness
from protomux_wakeup.host.backends.manager import Backend
from protomux_wakeup.host.backends.serving import Address as Listener
from protomux_wakeup.host.backends.types import BackendState, Terminated
from protomux_wakeup.host.backends.worker import manager_host

__all__ = ["backends", "logs", "on", "terminate"]

REFRESH: Final = 1.0
"""Seconds between two looks at the manager."""

_END_TIME: Final = 300.0
"""Seconds that a backend may take to end."""

_SHORT: Final = 8
"""Digits of the id of a backend that are shown, and are enough to name it."""


async def on(
    report: Reporter,
    *,
    name: str,
    directory: Path | None,
    state: Path | None,
    listen: Iterable[Address],
    connect: Iterable[Address],
    capability: bytes,
    command: Sequence[str],
    idle: int,
    readiness: Readiness,
    control: Listener,
    proxy: Listener,
) -> Exit:
    """Have `command` run for the topic of `capability`, until cancelled."""
    _manager_host(name, directory)
    async with AsyncExitStack() as stack:
        service = joining(report, name, directory, state, is_keeper=False)
        await stack.enter_async_context(service)
        manager = join_backends(
            name, state=state, directory=directory, control=control, proxy=proxy
        )
        manager.on_state = lambda topic, backend_id, moved: _say_state(
            report, backend_id, moved, topic=topic.hex()
        )
        await manager.__aenter__()
        stack.push_async_callback(_leave, report, manager)
        try:
            topic = await manager.on(capability, command, idle=idle, readiness=readiness)
        except (FileNotFoundError, ValueError) as error:
            raise Failure(str(error), Exit.USAGE) from None
        where = await manager.where()
        _compare(report, "--control", control, where["control"])
        _compare(report, "--proxy", proxy, where["proxy"])
        page = f"{where['control']}/#{where['token']}"
        report.say(
            "watching",
            f"{short(topic)}, and runs {shlex.join(command)}",
            {"topic": topic.hex(), "command": list(command), "page": page},
            details=[f"topic      {topic.hex()}", f"page       {page}"],
        )
        await meet_peers(report, service, listen, connect)
        await asyncio.Event().wait()
    return Exit.DONE


def _compare(report: Reporter, option: str, wanted: Listener, url: str) -> None:
    """Warn of a listener that is not where it was to be: another process runs the manager."""
    found = urlsplit(url)
    if wanted[1] not in (0, found.port):
        report.warn(
            f"{option} is {found.netloc}, as the process says that was there first, "
            f"not port {wanted[1]}"
        )


async def _leave(report: Reporter, manager: Any) -> None:
    with report.waiting("waiting for what runs to end; Ctrl-C again leaves it to itself"):
        await manager.leave()


def _say_state(report: Reporter, backend_id: str, state: BackendState, **more: str) -> None:
    report.say(
        "backend",
        f"{backend_id[:_SHORT]} {_describe(state)}",
        {**more, "backend_id": backend_id, "state": msgspec.to_builtins(state)},
    )


async def backends(
    report: Reporter, *, name: str, directory: Path | None, is_live: bool, has_ended: bool
) -> Exit:
    """Show the backends there are: once, or whenever that has changed until the manager ends."""
    async with _visiting(name, directory) as visitor:
        before: Fields | None = None
        with report.redrawing() if is_live else nullcontext():
            while True:
                found = [
                    (backend, states)
                    for backend, states in backends_of(await visitor.call("backends"))
                    if has_ended or not isinstance(backend.state, Terminated)
                ]
                fields: Fields = {
                    "name": name,
                    "backends": [
                        {**msgspec.to_builtins(backend), "states": msgspec.to_builtins(states)}
                        for backend, states in found
                    ],
                }
                if fields != before:
                    before = fields
                    report.say("backends", "", fields, picture=_picture(found))
                if not is_live:
                    return Exit.DONE
                await asyncio.sleep(REFRESH)


async def logs(report: Reporter, *, name: str, directory: Path | None, backend: str) -> Exit:
    """Show what is kept of the stdout and stderr of the backend whose id begins so."""
    async with _visiting(name, directory) as visitor:
        backend_id = await _find(visitor, backend)
        text: str = await visitor.call("log", {"backend_id": backend_id})
        report.say("log", text.rstrip("\n"), {"backend_id": backend_id, "log": text}, label="")
    return Exit.DONE


async def terminate(
    report: Reporter, *, name: str, directory: Path | None, backend: str, is_hard: bool
) -> Exit:
    """Ask the backend whose id begins so to end, or make it; return when it has ended."""
    async with _visiting(name, directory) as visitor:
        backend_id = await _find(visitor, backend)
        with report.waiting(f"waiting for {backend_id[:_SHORT]} to end"):
            answer = await visitor.call(
                "terminate",
                {"backend_id": backend_id, "hard": is_hard, "wait": True},
                timeout=_END_TIME,
            )
        _say_state(report, backend_id, msgspec.convert(answer, BackendState))
    return Exit.DONE


async def _find(visitor: Visitor, beginning: str) -> str:
    found = [
        backend.backend_id
        for backend, _states in backends_of(await visitor.call("backends"))
        if backend.backend_id.startswith(beginning)
    ]
    if len(found) != 1:
        how_many = "none" if not found else f"{len(found)} of them"
        raise Failure(
            f"expected the id of a backend, or its beginning, got {beginning!r}: {how_many}",
            Exit.USAGE,
        )
    return found[0]


def _manager_host(name: str, directory: Path | None) -> str:
    """Return the host that is asked; Failure (USAGE) where there can be none."""
    check_name(name, directory)
    try:
        host = manager_host(name)
    except ValueError as error:
        raise Failure(str(error), Exit.USAGE) from None
    check_name(host, directory)  # its path is longer
    return host


@asynccontextmanager
async def _visiting(name: str, directory: Path | None) -> AsyncIterator[Visitor]:
    host = _manager_host(name, directory)
    try:
        async with visit(host, directory=directory) as visitor:
            if not (await visitor.known()).clients:
                raise HostNotRunning("")
            yield visitor
    except HostNotRunning:
        raise Failure(
            f"nothing is run for the host {name!r}: no protomux-wakeup on is there",
            Exit.NOT_RUNNING,
        ) from None
    except RemoteError as error:
        raise Failure(str(error)) from None


def _describe(state: BackendState) -> str:
    """Return a state for people."""
    parts = [str(state.status)]
    reason = getattr(state, "termination_reason", None)
    if reason is not None:
        parts.append(str(reason))
    if isinstance(state, Terminated):
        if state.termination_kind is not None:
            parts.append(str(state.termination_kind))
        if state.exit_error:
            parts.append("with an error")
    return ", ".join(parts)


def _picture(found: list[tuple[Backend, list[BackendState]]]) -> RenderableType:
    if not found:
        return Text("nothing runs")
    shown = table("backend", "key", "state", "since", ">connections")
    for backend, _states in found:
        shown.add_row(
            backend.backend_id[:_SHORT],
            ascii(backend.key)[1:-1][:16],
            _describe(backend.state),
            backend.state.time[:19].replace("T", " "),
            str(backend.connections),
        )
    return shown
