"""A look at a host from outside. Knows the coordinator and ports, no election.

A visitor is in nobody's queue and on nobody's list, and starts no process. While it is there the
coordinator stays, as for anybody who is connected.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from protomux import ProtomuxError, StreamClosed
from protomux_wakeup.host.calls import MOVED
from protomux_wakeup.host.errors import HostNotRunning, LeaderLost, RemoteError, RequestTimeout
from protomux_wakeup.host.jitpc import Client, connect
from protomux_wakeup.host.messages import (
    LEAVE,
    PROVIDE_PORT,
    REQUEST_PORT,
    STATUS,
    ClientId,
    Known,
    ProvidePort,
    fields_of,
    read,
)
from protomux_wakeup.host.places import host_path
from protomux_wakeup.host.remains import COORDINATOR
from protomux_wakeup.host.session import Session

__all__ = ["Visitor", "visit"]

_REPEAT: Final = 0.5
"""Seconds after which the leader is asked for ports again: there may be another by now."""


class Visitor:
    """Asks what a host does. Made by `visit`.

    All that it asks raises StreamClosed when the coordinator has gone.
    """

    def __init__(self, coordinator: Client) -> None:
        self._coordinator = coordinator
        self._id: Final = f"visitor-{secrets.token_hex(8)}"
        self._session: Session | None = None
        self._provided: asyncio.Future[ProvidePort] | None = None
        coordinator.respond(PROVIDE_PORT, self._on_provide_port)

    @property
    def worker_pid(self) -> int | None:
        """The pid of the worker that was called last, None while there is none."""
        if self._session is None or self._session.is_over:
            return None
        return self._session.leader.worker_pid

    async def known(self) -> Known:
        """Return what the coordinator knows: who is here, and who leads."""
        return read(Known, await self._coordinator.request(STATUS))

    async def call(
        self,
        method: str,
        params: Any = None,
        *,
        timeout: float = 30.0,  # noqa: ASYNC109 - it is for the ports and the answer together
    ) -> Any:
        """Return what the worker's handler of `method` returns for `params`, both JSON.

        Raises RemoteError for what the handler raised, RequestTimeout where there is no worker or
        none that answers in `timeout` seconds, LeaderLost where it goes before it has answered.
        """
        try:
            async with asyncio.timeout(timeout):
                return await self._call(method, params)
        except StreamClosed as error:
            if self._coordinator.is_closed:
                raise
            raise LeaderLost(f"the worker went before it answered {method!r}") from error
        except TimeoutError as error:
            raise RequestTimeout(f"no answer to {method!r} in {timeout:g} s") from error

    async def _call(self, method: str, params: Any) -> Any:
        while True:
            session = await self._open_session()
            try:
                return await session.app.request(method, params, timeout=None)
            except RemoteError as error:
                if error.code != MOVED:
                    raise
                await session.wait_closed()

    async def stop(self, *, within: float) -> int:
        """Ask those who only keep the host to leave; return how many they were when they have.

        Raises RequestTimeout where one is still here after `within` seconds.
        """
        left: int = await self._coordinator.request(LEAVE, timeout=within)
        return left

    async def close(self) -> None:
        """Visit no more."""
        if self._session is not None:
            self._session.close()
        self._coordinator.destroy()
        await self._coordinator.wait_closed()

    async def _open_session(self) -> Session:
        while self._session is None or self._session.is_over:
            leader = await self._request_port()
            try:
                self._session = await Session.open(leader, {})
            except (OSError, ProtomuxError):
                await asyncio.sleep(0)  # that worker has gone by now
        return self._session

    async def _request_port(self) -> ProvidePort:
        loop = asyncio.get_running_loop()
        provided: asyncio.Future[ProvidePort] = loop.create_future()
        self._provided = provided
        gone = loop.create_task(self._coordinator.wait_closed())
        try:
            while not provided.done():
                if gone.done():
                    raise StreamClosed("the coordinator has gone")
                self._coordinator.notify(REQUEST_PORT, fields_of(ClientId(client_id=self._id)))
                await asyncio.wait(
                    (provided, gone), timeout=_REPEAT, return_when=asyncio.FIRST_COMPLETED
                )
            return provided.result()
        finally:
            gone.cancel()

    def _on_provide_port(self, params: object) -> None:
        if self._provided is not None and not self._provided.done():
            self._provided.set_result(read(ProvidePort, params))


@asynccontextmanager
async def visit(
    name: str, *, directory: str | os.PathLike[str] | None = None
) -> AsyncIterator[Visitor]:
    """Visit the host `name`, as it is: nothing is started, and nothing is made.

    Raises HostNotRunning where nobody has joined it, ForeignPeer where it is another user's, and
    what `places.host_path` raises. A host whose last process has just left is still there for a
    moment, without clients.
    """

    def not_running() -> None:
        raise HostNotRunning(f"the host {name!r} is not running")

    path = host_path(name, directory)
    coordinator = connect(COORDINATOR, spinup=not_running, directory=path)
    visitor = Visitor(coordinator)
    try:
        await coordinator.wait_connected()
        yield visitor
    finally:
        await visitor.close()
