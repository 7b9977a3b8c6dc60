"""The process around one backend: its key, its socket, and the managers that come and go.

It is started before there is a backend and waits for an order, so that a start takes no start of an
interpreter. From then on it needs nobody: it is the parent of the command, holds the lock of the
key and what the command hears and says, and stays until nothing of the command is left. Managers
connect to its socket; the last one that did is told what happens, and what there was before.

A manager writes its term down before it looks for this socket, and this socket is there before the
terms are read: so a backend that a later manager did not find is not started.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket as sockets
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from protomux.errors import ProtocolError
from protomux_wakeup.host.backends.cgroups import Cgroup
from protomux_wakeup.host.backends.engine import Command, News
from protomux_wakeup.host.backends.family import adopt_orphans
from protomux_wakeup.host.backends.feed import Feed
from protomux_wakeup.host.backends.orders import (
    ACKNOWLEDGED,
    ATTACH,
    DELIVER,
    FINISH,
    ORDER,
    REPLACED,
    SEEN,
    STATE,
    TERMINATE,
    Attach,
    Heard,
    Holder,
    Moved,
    Order,
    Snapshot,
    Terminate,
    key_lock,
    newest_term,
    news_of,
    ready_path,
    result_path,
)
from protomux_wakeup.host.backends.output import BoundedLog
from protomux_wakeup.host.backends.run import Run
from protomux_wakeup.host.backends.spawning import Child
from protomux_wakeup.host.backends.types import (
    BackendState,
    BackendStatus,
    TerminationReason,
    encode,
)
from protomux_wakeup.host.jitpc import Client, Server, listen
from protomux_wakeup.host.lines import LineConnection
from protomux_wakeup.host.locks import FileLock
from protomux_wakeup.host.messages import Fields, fields_of, read
from protomux_wakeup.host.pulse import Pulse

__all__ = ["run_monitor"]

SEEN_WAIT: Final = 10.0
"""Seconds that a manager has to say that it knows of the end; then it is left in a file."""

STDERR: Final = 2
"""Its file descriptor."""

_KEEP_EVERY: Final = 2.0
"""Seconds between two looks at its files: some clear away what has not been touched for long."""

_ANSWER_WAIT: Final = 5.0
"""Seconds that whoever has given an order has to read the answer."""


class Monitor:
    """One backend, from its order to its end."""

    _log: BoundedLog
    _run: Run

    def __init__(self, order: Order, command: Command, feed: Feed, child: Child) -> None:
        self._order: Final = order
        self._launch: Final = order.launch
        self._term = order.launch.term
        self._loop = asyncio.get_running_loop()
        self._command: Final = command
        self._feed = feed
        self._child = child
        self._key: FileLock | None = None
        self._server: Server | None = None
        self._manager: Client | None = None
        self._had_manager = False
        self._lease: asyncio.TimerHandle | None = None
        self._keeping: Pulse | None = None
        self._has_ended = asyncio.Event()
        self._is_left = asyncio.Event()
        self._is_seen = False

    async def begin(self) -> None:
        """Start the command, unless it may not be started; raises ProtocolError then."""
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._order.key_wait):
                    path = key_lock(self._order.directory, self._launch.key)
                    self._key = await FileLock.acquire(path)
            await self._listen()
            await self._start()
        except BaseException:
            self._let_go()
            raise

    async def _start(self) -> None:
        # Not before: it may be another's id.
        self._log = BoundedLog(self._order.logs, self._launch.backend_id, self._command.log_size)
        self._run = Run(
            self._launch,
            self._command,
            self._feed,
            self._log,
            self._child,
            moved=self._moved,
            acknowledged=self._acknowledged,
        )
        if self._key is None:
            self._run.fail(f"its key is still held after {self._order.key_wait:g} s")
            return
        cgroup = self._child.cgroup
        holder = Holder(
            backend_id=self._launch.backend_id,
            cgroup=None if cgroup is None else str(cgroup.path),
        )
        self._key.write(holder.text())
        self._loop.add_signal_handler(signal.SIGTERM, self._asked_to_end)
        self._loop.set_exception_handler(self._failed)
        self._wait_for_manager()
        self._keeping = Pulse(_KEEP_EVERY, beat=self._keep_files)
        lock = self._key.share()
        try:
            path = ready_path(self._order.directory, self._launch.backend_id)
            await self._run.start(lock, path)
        finally:
            os.close(lock)

    async def wait_over(self) -> None:
        """Wait until nothing of the command is left, and a manager knows or the file is there."""
        await self._has_ended.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(SEEN_WAIT):
                await self._is_left.wait()
        if self._is_seen:
            with suppress(FileNotFoundError):
                os.unlink(result_path(self._order.directory, self._launch.backend_id))
        self._let_go()
        self._log.close()

    async def _listen(self) -> None:
        directory = self._order.directory
        self._server = await listen(
            self._launch.backend_id,
            on_client=self._welcome,
            spindown=False,
            directory=directory,
            keep_lock=False,
        )
        if self._server is None:
            raise ProtocolError("expected an id that no backend has yet")
        newest = newest_term(directory)
        if newest > self._launch.term:
            raise ProtocolError(
                f"expected an order of term {newest} or later, got one of {self._launch.term}"
            )

    def _keep_files(self) -> None:
        if self._server is not None and self._key is not None:
            self._server.stands()
            self._key.stands()

    def _let_go(self) -> None:
        if self._keeping is not None:
            self._keeping.stop()
        if self._server is not None:
            self._server.close()
        if self._key is not None:
            self._key.release(remove=True)

    # Managers.

    def _welcome(self, client: Client) -> None:
        responders = {
            TERMINATE: self._terminate,
            DELIVER: self._deliver,
            FINISH: lambda _params: self._run.finish(),
            SEEN: self._seen,
        }
        client.respond(ATTACH, partial(self._attach, client))
        for method, responder in responders.items():
            client.respond(method, partial(self._if_manager, client, responder))
        client.add_close_callback(lambda _error: self._detach(client))

    def _attach(self, client: Client, params: object) -> dict[str, Any]:
        term = read(Attach, params).term
        if term < self._term:
            raise ProtocolError(f"expected a manager of term {self._term} or later, got {term}")
        self._term = term
        before, self._manager = self._manager, client
        self._had_manager = True
        if before is not None and before is not client:
            before.notify(REPLACED)
            before.end()
        if self._lease is not None:
            self._lease.cancel()
        return fields_of(self._snapshot())

    def _detach(self, client: Client) -> None:
        if client is self._manager:
            self._manager = None
            if self._has_ended.is_set():
                self._is_left.set()
            else:
                self._wait_for_manager()

    def _if_manager(
        self, client: Client, responder: Callable[[Any], object], params: object
    ) -> None:
        if client is not self._manager:
            raise ProtocolError("expected the manager, got somebody else")
        responder(params)

    def _terminate(self, params: object) -> None:
        asked = read(Terminate, params)
        self._run.terminate(asked.reason, hard=asked.hard)

    def _deliver(self, params: object) -> None:
        self._run.deliver(news_of(read(Heard, params).news))

    def _seen(self, _params: object) -> None:
        if self._has_ended.is_set():
            self._is_seen = True
            self._is_left.set()

    def _wait_for_manager(self) -> None:
        self._lease = self._loop.call_later(self._order.lease, self._expire)

    def _expire(self) -> None:
        self._log.note(f"no manager has come for {self._order.lease:g} s")
        self._run.terminate(TerminationReason.KEY_EXPIRED, hard=False)

    # The command.

    def _snapshot(self) -> Snapshot:
        return Snapshot(
            address=self._run.address,
            states=self._run.life.states,
            acknowledged=list(self._feed.acknowledged),
        )

    def _moved(self, state: BackendState) -> None:
        if state.status is BackendStatus.TERMINATED:
            self._keep_result()
            if self._key is not None:
                self._key.release(remove=True)
            if self._lease is not None:
                self._lease.cancel()
            self._has_ended.set()
            if self._manager is None and self._had_manager:
                self._is_left.set()
        self._tell(STATE, Moved(state=state))

    def _acknowledged(self, news: Sequence[News]) -> None:
        self._tell(ACKNOWLEDGED, Heard(news=list(news)))

    def _tell(self, name: str, message: Fields) -> None:
        if self._manager is not None:
            self._manager.notify(name, fields_of(message))

    def _keep_result(self) -> None:
        path = result_path(self._order.directory, self._launch.backend_id)
        try:
            with open(f"{path}.new", "wb") as file:
                file.write(encode(self._snapshot()))
            os.replace(f"{path}.new", path)
        except OSError as error:  # a manager that is there hears of it all the same
            self._log.note(f"cannot keep how it ended: {error}")

    def _asked_to_end(self) -> None:
        self._run.terminate(TerminationReason.EXTERNAL, hard=False)

    def _failed(self, _loop: object, context: dict[str, Any]) -> None:
        self._log.note(f"{context['message']}: {context.get('exception')!r}")


async def _work(control: sockets.socket, feed: Feed, child: Child) -> None:
    """Take an order from `control` and see it through; return at once where none comes."""
    connection = LineConnection()
    orders: asyncio.Queue[tuple[Monitor, asyncio.Task[None]]] = asyncio.Queue()

    def take(params: object) -> asyncio.Task[None]:
        order = read(Order, params)
        if order.launch.command is None:
            raise ProtocolError("expected an order with a command")
        monitor = Monitor(order, order.launch.command, feed, child)
        connection.rpc.unrespond(ORDER)
        connection.rpc.unrespond(DELIVER)
        task = asyncio.get_running_loop().create_task(monitor.begin())
        orders.put_nowait((monitor, task))
        return task  # and not a coroutine, which would end with who has ordered it

    connection.rpc.respond(DELIVER, lambda params: feed.deliver(news_of(read(Heard, params).news)))
    connection.rpc.respond(ORDER, take)
    connection.attach(control)
    gone = asyncio.ensure_future(connection.wait_closed())
    ordered = asyncio.ensure_future(orders.get())
    await asyncio.wait((ordered, gone), return_when=asyncio.FIRST_COMPLETED)
    if not ordered.done():
        child.discard()
        return
    monitor, task = ordered.result()
    # What is said from now on is for the log: whose stderr this is may be gone.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, STDERR)
    os.close(nowhere)
    await asyncio.wait((task,))
    if task.exception() is None:
        await monitor.wait_over()
    else:  # which is the answer
        child.discard()
        await asyncio.wait((gone,), timeout=_ANSWER_WAIT)


def run_monitor(control: int, cgroup: str) -> int:
    """Be a monitor for who is at the other end of the descriptor `control`; return the exit code.

    The backend is to be in the control group at `cgroup`, unless that is "". The code is 0,
    whatever has become of it.
    """
    os.set_inheritable(control, False)
    os.setsid()
    adopt_orphans()
    # What a type is made of is found out when it is first read, which takes milliseconds.
    for kind in (Order, Heard, Attach, Terminate):
        with suppress(ProtocolError):
            read(kind, None)
    feed = Feed()
    child = Child(feed.stdin, control, Cgroup(Path(cgroup)) if cgroup else None)
    asyncio.run(_work(sockets.socket(fileno=control), feed, child))
    return 0
