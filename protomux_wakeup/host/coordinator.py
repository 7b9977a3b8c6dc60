"""The process that brings clients and the leader together.

Knows who is here, who leads, and to whom a message goes; nothing of what a port is for. It is a
jitpc server, started by the client that comes first; it ends when the last has left, and takes
the files of the host with it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final

from msgspec import structs

from protomux.errors import ProtocolError
from protomux_wakeup.host.election import is_term
from protomux_wakeup.host.jitpc import Client, listen
from protomux_wakeup.host.locks import released
from protomux_wakeup.host.messages import (
    CLAIM,
    HELLO,
    LEAVE,
    NEW_LEADER,
    PATIENCE,
    PING,
    PROVIDE_PORT,
    REQUEST_PORT,
    STATUS,
    ClientId,
    Hello,
    Known,
    NewLeader,
    Present,
    ProvidePort,
    fields_of,
    read,
)
from protomux_wakeup.host.places import lock_path
from protomux_wakeup.host.remains import COORDINATOR, WORKER_LOCK, sweep, sweep_directory

__all__ = [
    "run_coordinator",
]

FIRST_CLIENT: Final = 3.0
"""Seconds that are waited for the client that has started the coordinator."""

ENDING: Final = 0.5
"""Seconds that a coordinator may hold its lock when its connections are gone already."""

LAST_WORKER: Final = 10.0
"""Seconds that are waited for the end of a worker whose leader was the last client."""


class Coordinator:
    """Who is here, and who leads."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._clients: dict[Client, Hello] = {}
        self._visitors: dict[Client, str] = {}
        self._by_id: dict[str, Client] = {}
        self._leader: NewLeader | None = None
        self._leading: Client | None = None
        self._is_announced = False
        self._here = 0
        self._turned = asyncio.Event()

    async def welcome(self, client: Client) -> None:
        """Serve a client until it is gone."""
        responders: dict[str, Callable[[Client, Any], object]] = {
            HELLO: self._hello,
            PING: lambda _client, _params: None,
            STATUS: self._status,
            CLAIM: self._claim,
            NEW_LEADER: self._new_leader,
            REQUEST_PORT: self._request_port,
            PATIENCE: partial(self._pass_on, PATIENCE, ClientId),
            PROVIDE_PORT: partial(self._pass_on, PROVIDE_PORT, ProvidePort),
            LEAVE: self._leave,
        }
        for method, responder in responders.items():
            client.respond(method, partial(responder, client))
        self._here += 1
        self._turned.set()
        try:
            await client.wait_closed()
        finally:
            self._here -= 1
            self._turned.set()
            self._forget(client)

    async def wait_deserted(self, seconds: float) -> None:
        """Wait until nobody has been here for so many seconds; the first may take longer."""
        patience = max(seconds, FIRST_CLIENT)
        while True:
            self._turned.clear()
            try:
                async with asyncio.timeout(None if self._here else patience):
                    await self._turned.wait()
            except TimeoutError:
                return
            patience = seconds

    def _forget(self, client: Client) -> None:
        hello = self._clients.pop(client, None)
        client_id = self._visitors.pop(client, None) if hello is None else hello.client_id
        if client_id is not None and self._by_id.get(client_id) is client:
            del self._by_id[client_id]
        if client is self._leading:
            self._leading = None
            self._is_announced = False

    def _hello(self, client: Client, params: object) -> None:
        hello = read(Hello, params)
        if client in self._clients or client in self._visitors:
            raise ProtocolError("expected one hello, before all else")
        self._clients[client] = hello
        self._by_id[hello.client_id] = client
        if self._leader is not None and self._is_announced:
            client.notify(NEW_LEADER, fields_of(self._leader))

    def _status(self, _client: Client, _params: object) -> Mapping[str, Any]:
        """Answer with all that is known here; the leader is the last one that was."""
        return fields_of(
            Known(
                pid=os.getpid(),
                leader=self._leader,
                clients=[
                    Present(**structs.asdict(hello), is_leader=client is self._leading)
                    for client, hello in self._clients.items()
                ],
            )
        )

    def _claim(self, client: Client, params: object) -> None:
        self._lead(client, read(NewLeader, params), CLAIM)

    def _new_leader(self, client: Client, params: object) -> None:
        self._lead(client, read(NewLeader, params), NEW_LEADER)

    def _lead(self, client: Client, leader: NewLeader, name: str) -> None:
        if not is_term(self._directory, leader.number, leader.term):
            return  # it does not lead, or not any more
        if self._leader is not None and leader.term < self._leader.term:
            # It was passed by while it could not hear of it.
            client.notify(CLAIM, fields_of(self._leader))
            return
        self._leader, self._leading = leader, client
        self._is_announced = name == NEW_LEADER
        for other in self._clients:
            if other is not client:
                other.notify(name, fields_of(leader))

    def _request_port(self, client: Client, params: object) -> None:
        message = read(ClientId, params)
        known = self._clients.get(client)
        if known is None:  # it takes no part, and asks for once
            known_id = self._visitors.setdefault(client, message.client_id)
        else:
            known_id = known.client_id
        if message.client_id != known_id:
            raise ProtocolError("expected a request for a port of one's own")
        if self._by_id.setdefault(message.client_id, client) is not client:
            raise ProtocolError("expected an id that nobody else has")
        if self._leading is not None:
            self._leading.notify(REQUEST_PORT, fields_of(message))

    def _pass_on(
        self,
        name: str,
        kind: type[ClientId] | type[ProvidePort],
        _client: Client,
        params: object,
    ) -> None:
        message = read(kind, params)
        receiver = self._by_id.get(message.client_id)
        if receiver is not None:
            receiver.notify(name, fields_of(message))

    async def _leave(self, _client: Client, _params: object) -> int:
        """Ask those who only keep the host to leave; when they have, answer how many it were."""
        keepers = [client for client, hello in self._clients.items() if hello.is_keeper]
        for keeper in keepers:
            keeper.notify(LEAVE)
        for keeper in keepers:
            await keeper.wait_closed()
        return len(keepers)


async def serve(directory: str, spindown: float, on_listening: Callable[[], object]) -> None:
    """Listen in `directory` until nobody has been here for `spindown` seconds.

    Calls `on_listening()` when clients can connect. Returns at once where another listens.
    """
    coordinator = Coordinator(directory)
    while True:
        server = await listen(
            COORDINATOR,
            directory=directory,
            on_client=coordinator.welcome,
            spindown=False,
            keep_lock=False,
        )
        if server is not None:
            break
        try:  # it may be about to end: its connections go before its lock
            async with asyncio.timeout(ENDING):
                await released(lock_path(directory, COORDINATOR))
        except TimeoutError:
            return
    on_listening()
    await coordinator.wait_deserted(spindown)
    with suppress(TimeoutError):  # the last worker may take a while to end
        async with asyncio.timeout(LAST_WORKER):
            await released(lock_path(directory, WORKER_LOCK))
    sweep(directory)
    server.close()
    await server.wait_closed()
    sweep_directory(directory)


def run_coordinator(directory: str, spindown: float) -> None:
    """Return when the coordinator listens, in a process of its own that goes on."""
    here, there = os.pipe()
    if os.fork():
        os.close(there)
        os.read(here, 1)  # ends when it listens, or has ended
        return
    os.close(here)
    asyncio.run(serve(directory, spindown, partial(os.close, there)))
