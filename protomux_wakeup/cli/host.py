"""`host start`, `status`, `stop` and `watch`: joins a host, or looks at one. Knows no topic."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Final

from protomux import StreamClosed
from protomux_wakeup import Writer
from protomux_wakeup.address import Address, UnixAddress
from protomux_wakeup.cli.overview import Overview, describe, fields_of_client, look
from protomux_wakeup.cli.process import Exit, Failure
from protomux_wakeup.cli.report import Fields, Reporter
from protomux_wakeup.cli.values import count_of, short
from protomux_wakeup.host import (
    Client,
    HostNotRunning,
    RemoteError,
    RequestTimeout,
    ServiceClient,
    Visitor,
    join,
    visit,
)
from protomux_wakeup.host.places import host_path

__all__ = ["check_name", "joining", "meet_peers", "start", "status", "stop", "watch"]

REFRESH: Final = 1.0
"""Seconds between two looks at a host."""
MENDING: Final = 10
"""Looks that a host is given to replace its coordinator."""


async def start(
    report: Reporter,
    *,
    name: str,
    directory: Path | None,
    state: Path | None,
    listen: Iterable[Address],
    connect: Iterable[Address],
    capability: bytes | None,
    writers: Iterable[Writer],
) -> Exit:
    """Keep the host up until cancelled, or asked to leave; `capability` is where to announce."""
    async with joining(report, name, directory, state, is_keeper=True) as client:
        await _say_joined(report, client)
        if capability is not None:
            announced = list(writers)
            await client.announce(capability, announced)
            report.say("announced", count_of(len(announced), "log"), writers=announced)
        await meet_peers(report, client, listen, connect)
        await client.client.asked_to_leave.wait()
        report.say("asked_to_leave", "by host stop")
    return Exit.DONE


async def watch(
    report: Reporter,
    *,
    name: str,
    directory: Path | None,
    state: Path | None,
    listen: Iterable[Address],
    connect: Iterable[Address],
    capability: bytes,
    watcher: str | None,
    count: int | None,
) -> Exit:
    """Show each hint of the topic of `capability`, until cancelled or `count` were shown.

    What was shown is acknowledged, for the `watcher` if that has a name.
    """
    client = joining(report, name, directory, state, watcher=watcher, is_keeper=False)
    async with client:
        await _say_joined(report, client)
        topic = await client.watch(capability)
        report.say(
            "watching",
            short(topic) + ("" if watcher is None else f" as {watcher!a}"),
            {"topic": topic.hex(), "watcher": watcher},
            details=[f"topic      {topic.hex()}"],
        )
        await meet_peers(report, client, listen, connect)
        shown = 0
        async for hint in client.hints(acknowledge=False):
            report.say(
                "hint",
                f"{hint.key.hex()}:{hint.length}",
                {"topic": hint.topic.hex(), "key": hint.key.hex(), "length": hint.length},
            )
            await asyncio.sleep(0)  # cancelled here if stdout is gone: it was not shown then
            await client.acknowledge(hint)
            shown += 1
            if shown == count:
                break
    return Exit.DONE


async def status(report: Reporter, *, name: str, directory: Path | None, is_live: bool) -> Exit:
    """Show what there is to see of a host: once, or whenever it has changed until it ends."""
    check_name(name, directory)
    looks_left = 0
    with report.redrawing() if is_live else nullcontext():
        while True:
            try:
                async with visit(name, directory=directory) as visitor:
                    overview = await look(visitor, name)
                    looks_left = MENDING
                    return await _show(report, visitor, overview, is_live=is_live)
            except HostNotRunning as error:
                if not looks_left:
                    raise Failure(str(error), Exit.NOT_RUNNING) from None
                looks_left -= 1
            except StreamClosed:
                if not is_live:
                    raise
            await asyncio.sleep(REFRESH)


async def _show(report: Reporter, visitor: Visitor, overview: Overview, *, is_live: bool) -> Exit:
    before: Fields | None = None
    while True:
        if overview.fields != before:
            before = overview.fields
            report.say("status", "", before, picture=overview.picture)
        if not is_live:
            return Exit.DONE
        await asyncio.sleep(REFRESH)
        try:
            overview = await look(visitor, overview.name)
        except HostNotRunning as error:  # the last one has left
            raise Failure(str(error), Exit.NOT_RUNNING) from None


async def stop(report: Reporter, *, name: str, directory: Path | None, within: float) -> Exit:
    """Ask those who keep the host to leave, and see that they do `within` so many seconds."""
    check_name(name, directory)
    left, others = 0, []
    try:
        async with visit(name, directory=directory) as visitor:
            with report.waiting("waiting for host start to leave"):
                left = await visitor.stop(within=within)
            others = (await visitor.known()).clients
    except HostNotRunning:
        pass
    except RequestTimeout:
        raise Failure(f"host start did not leave within {within:g} s") from None
    fields: Fields = {
        "name": name,
        "left": left,
        "clients": [fields_of_client(client) for client in others],
    }
    if others:
        report.say(
            "host_in_use",
            f"{name} goes on, for {count_of(len(others), 'other process')}",
            fields,
            details=[describe(client) for client in others],
        )
    elif left:
        report.say("host_stopped", name, fields)
    else:
        report.say("host_not_running", name, fields)
    return Exit.DONE


def check_name(name: str, directory: Path | None) -> None:
    """Raise Failure (USAGE) where there can be no such host."""
    try:
        host_path(name, directory)
    except ValueError as error:
        raise Failure(str(error), Exit.USAGE) from None


def joining(
    report: Reporter,
    name: str,
    directory: Path | None,
    state: Path | None,
    *,
    watcher: str | None = None,
    is_keeper: bool,
) -> ServiceClient:
    """Return a client of the service, which has not joined; Failure (USAGE) for a wrong name."""
    check_name(name, directory)
    return join(
        name,
        watcher=watcher,
        state=state,
        on_leader_change=lambda client: report.say(
            "leader_changed", _leadership(client), _fields_of(client)
        ),
        directory=directory,
        is_keeper=is_keeper,
    )


async def _say_joined(report: Reporter, client: ServiceClient) -> None:
    public_key = (await client.status())["public_key"]
    report.say(
        "joined",
        f"{client.client.name}: {_leadership(client.client)}",
        {**_fields_of(client.client), "public_key": public_key},
        details=[f"public key {public_key}"],
    )


def _leadership(client: Client) -> str:
    who = "this process leads" if client.is_leader else "another process leads"
    return f"{who}, the worker has pid {client.worker_pid}"


def _fields_of(client: Client) -> dict[str, str | int | bool | None]:
    return {
        "name": client.name,
        "client_id": client.id,
        "is_leader": client.is_leader,
        "leader_id": client.leader_id,
        "worker_pid": client.worker_pid,
    }


async def meet_peers(
    report: Reporter,
    client: ServiceClient,
    listen: Iterable[Address],
    connect: Iterable[Address],
) -> None:
    """Let peers in at `listen`, and have streams to `connect`; say so.

    Who is away is tried again and again: nothing else would, where this is started with a machine.
    """
    for address in listen:
        own = await client.listen(_address(address))
        report.say("listening", own, {"address": own})
    for address in connect:
        text = _address(address)
        try:
            with report.waiting(f"connecting to {text}"):
                await client.connect(text)
        except RemoteError as error:
            report.warn(f"{error}; it is tried again until it is there", {"address": text})
            await client.connect(text, wait=False)
        else:
            report.say("connected", f"to {text}", {"address": text})


def _address(address: Address) -> str:
    """Return `address` for the worker, which may be in another directory."""
    if isinstance(address, UnixAddress):
        return str(UnixAddress(os.path.abspath(address.path)))
    return str(address)
