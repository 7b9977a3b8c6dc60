"""A client of a host: the one worker, whoever runs it. Knows election, takeover and calls.

Every client is in the queue for the leader lock, and connected to the coordinator. Whoever has the
lock runs the worker; all of them, the leader too, ask for ports to it by the coordinator, and call
it over those. When the worker is gone, its leader resigns, so that the next in the queue leads.

What follows from which news:

    the leader lock is ours            run a worker; resign when it is gone
    it is not, and nobody answers      pass the leader by: wait for the next lock
    ports                              open a session
    the session is over                ask for ports again
    a leader of a later term           ask it for ports; if we led, let our worker go
    the worker does not answer         kill it, if we lead; else ask for ports again
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import sys
from collections.abc import Callable, Coroutine, Mapping
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from protomux import Protomux, ProtomuxError, StreamClosed
from protomux.hooks import is_pending
from protomux_wakeup.host.calls import CALLS, MOVED
from protomux_wakeup.host.coordination import Coordination
from protomux_wakeup.host.election import Election, Leadership
from protomux_wakeup.host.errors import LeaderLost, RemoteError, RequestTimeout, WorkerFailed
from protomux_wakeup.host.leading import Leading
from protomux_wakeup.host.limits import Limits
from protomux_wakeup.host.messages import (
    CLAIM,
    LEAVE,
    NEW_LEADER,
    PATIENCE,
    PROVIDE_PORT,
    REQUEST_PORT,
    ClientId,
    Hello,
    NewLeader,
    ProvidePort,
    read,
)
from protomux_wakeup.host.places import host_directory
from protomux_wakeup.host.pulse import Pulse
from protomux_wakeup.host.remains import sweep_all
from protomux_wakeup.host.rpc import Handler
from protomux_wakeup.host.session import Session

__all__ = ["Client"]

_log = logging.getLogger("protomux_wakeup.host")

SHORT_LIFE: Final = 5.0
"""Seconds: after a worker that has gone sooner we wait before we are in the queue again, longer
each time."""

_during_hook: ContextVar[tuple[Client, Session] | None] = ContextVar("_during_hook", default=None)
"""Whose hook runs, for which session: the calls of that hook go there, and before all others."""


class Client:
    """One process's part in a host, as an async context manager. Made by `join`.

    Entering waits for the worker, and starts it if nobody has. It raises WorkerFailed where this
    process was to run the worker and that did not start, or where the host has another worker;
    ForeignPeer or OSError where the directory of the host is not ours or cannot be made.

    Attributes:
        id: of the client.
        name: of the host.
        on_connect, on_leader_change: hooks, see `join`.
        asked_to_leave: set when somebody stops the host and this client is a keeper.
    """

    def __init__(
        self,
        name: str,
        worker: str,
        *,
        options: Mapping[str, Any],
        on_connect: Callable[[Client], object] | None,
        on_leader_change: Callable[[Client], object] | None,
        directory: str | os.PathLike[str] | None,
        is_keeper: bool,
        program: str | None,
        limits: Limits,
    ) -> None:
        self.id: Final = f"client-{secrets.token_hex(8)}"
        self.name: Final = name
        self.on_connect = on_connect
        self.on_leader_change = on_leader_change
        self.asked_to_leave: Final = asyncio.Event()
        self._target = worker
        msgspec.json.encode(options)  # or it is a TypeError here, not in the worker's start
        self._options = options
        self._limits = limits
        self._above = directory
        self._is_keeper = is_keeper
        self._program = _program() if program is None else program
        self._calls: Final = asyncio.Semaphore(CALLS)
        self._responders: dict[str, Handler] = {}
        self._leader: NewLeader | ProvidePort | None = None
        self._told_leader: str | None = None
        self._leading: Leading | None = None
        self._leadership: Leadership | None = None
        self._session: Session | None = None
        self._connected = asyncio.Event()
        self._ports: asyncio.Future[ProvidePort] | None = None
        self._pulse: Pulse | None = None
        self._awaited = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._failure: asyncio.Future[None] | None = None
        self._has_left = False
        self._leaving: asyncio.Task[None] | None = None
        self._later_leader = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Client {self.id} of {self.name}{' leads' if self.is_leader else ''}>"

    async def __aenter__(self) -> Self:
        if self._tasks:
            raise RuntimeError("expected a new client: this one has joined before")
        loop = asyncio.get_running_loop()
        self._directory = str(host_directory(self.name, self._above))
        self._election = Election(self._directory)
        self._failure = loop.create_future()
        self._coordination = Coordination(
            self._directory,
            Hello(
                client_id=self.id,
                pid=os.getpid(),
                program=self._program,
                is_keeper=self._is_keeper,
            ),
            self._limits,
            on_connect=self._coordinated,
            on_message=self._heard,
        )
        self._tasks = [
            loop.create_task(self._coordination.run()),
            loop.create_task(self._persist(self._lead)),
            loop.create_task(self._persist(self._connect)),
        ]
        connected: asyncio.Future[Any] = loop.create_task(self._connected.wait())
        try:
            await asyncio.wait((connected, self._failure), return_when=asyncio.FIRST_COMPLETED)
            if self._failure.done():
                self._failure.result()
            self._failure.cancel()  # from now on failures are for the log
        except BaseException:
            await self.leave()
            raise
        finally:
            connected.cancel()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.leave()

    @property
    def is_leader(self) -> bool:
        """The worker is a child of this process."""
        leading = self._leading
        return leading is not None and (
            self._leader is None or self._leader.term <= leading.leader.term
        )

    @property
    def leader_id(self) -> str | None:
        """Who leads; a new one for every worker. None before the first is known."""
        return None if self._leader is None else self._leader.leader_id

    @property
    def worker_pid(self) -> int | None:
        """The pid of the worker, None while there is none."""
        return None if self._session is None else self._session.leader.worker_pid

    @property
    def mux(self) -> Protomux | None:
        """The app port: any protocol may have channels there; None while there is no worker.

        It is another one for every worker: `on_connect` is the place to open channels.
        """
        return None if self._session is None else self._session.mux

    def respond(self, method: str, responder: Handler) -> None:
        """Answer what the worker asks or tells this client: `responder(params)`."""
        self._responders[method] = responder
        if self._session is not None:
            self._session.app.respond(method, responder)

    async def call(
        self,
        method: str,
        params: Any = None,
        *,
        idempotent: bool = False,
        timeout: float | None = 30.0,  # noqa: ASYNC109 - it is for the answer, over all takeovers
    ) -> Any:
        """Return what the worker's handler of `method` returns for `params`, both JSON.

        Waits for a worker while there is none. One that goes before it has answered makes the call
        fail with LeaderLost, as it may have done it or not; an idempotent call, which may be done
        twice, goes to the next worker instead.

        Raises RemoteError for what the handler raised, RequestTimeout after `timeout` seconds
        (None: never), StreamClosed when this client leaves.
        """
        try:
            async with asyncio.timeout(timeout):
                return await self._call(method, params, is_idempotent=idempotent)
        except TimeoutError as error:
            raise RequestTimeout(f"no answer to {method!r} in {timeout:g} s") from error

    async def _call(self, method: str, params: Any, *, is_idempotent: bool) -> Any:
        while True:
            session = await self._open_session()
            try:
                await self._calls.acquire()
                if session.is_over or session.is_going:
                    self._calls.release()
                    continue  # it was not sent, so the next worker may get it
                return await self._ask(session, method, params)
            except StreamClosed as error:
                if self._has_left:
                    raise
                if not is_idempotent:
                    raise LeaderLost(f"the worker went before it answered {method!r}") from error
            except RemoteError as error:
                if error.code != MOVED:
                    raise
                await session.wait_closed()

    async def _ask(self, session: Session, method: str, params: Any) -> Any:
        """Return the answer of the worker; the call counts until then, also when it is given up."""
        try:
            answer = session.app.request(method, params, timeout=None)
        except BaseException:
            self._calls.release()
            raise
        answer.add_done_callback(self._answered)
        return await asyncio.shield(answer)

    def _answered(self, answer: asyncio.Future[Any]) -> None:
        self._calls.release()
        if not answer.cancelled():
            answer.exception()  # of a call that was given up, nobody asks

    async def _open_session(self) -> Session:
        client, greeted = _during_hook.get() or (None, None)
        if client is self and greeted is not None and not (greeted.is_over or greeted.is_going):
            return greeted
        while True:
            if self._has_left:
                raise StreamClosed("this client has left the host")
            await self._connected.wait()
            session = self._session
            if session is not None and session.is_going:
                await session.wait_closed()
            elif session is not None and not session.is_over:
                return session
            if not self._has_left:
                self._connected.clear()

    async def leave(self) -> None:
        """Leave the host; who leads hands over first, if there is somebody to.

        Cancelled, it ends the worker at once, and leaves in the background.
        """
        if self._leaving is None:
            if not self._tasks:
                return
            self._leaving = asyncio.create_task(self._leave())
        try:
            await asyncio.shield(self._leaving)
        except asyncio.CancelledError:
            if self._leading is not None:
                self._leading.kill()
            self._later_leader.set()
            raise

    async def _leave(self) -> None:
        self._has_left = True
        connect, *others = self._tasks[::-1]
        await _cancel(connect)
        if self._leading is not None:
            await self._hand_over(self._leading)
        for task in others:
            await _cancel(task)
        with contextlib.suppress(OSError):
            sweep_all(self._directory)  # does nothing while there is a coordinator, which will
        self._connected.set()  # for calls that wait

    async def _hand_over(self, leading: Leading) -> None:
        """Let another lead, and wait until it does, if there is one."""
        term = leading.leader.term
        others = 0
        with contextlib.suppress(ProtomuxError):
            others = len((await self._coordination.ask()).clients) - 1
        assert self._leadership is not None
        self._later_leader.clear()
        self._leadership.resign()  # now: the next worker starts while this one ends
        leading.stop()
        await asyncio.wait(self._tasks[1:2])
        if others > 0 and (self._leader is None or self._leader.term <= term):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._limits.draining):
                    await self._later_leader.wait()

    # The coordinator

    def _coordinated(self) -> None:
        if self._leading is not None:
            self._leading.introduce()
        if self._pulse is not None:
            self._pulse.now()

    def _progress(self) -> None:
        """Whoever leads now is at work."""
        if self._pulse is not None:
            with contextlib.suppress(OSError):  # the last one will do
                self._awaited = self._election.number
            self._pulse.heard()

    def _heard(self, name: str, params: Any) -> None:
        if name == REQUEST_PORT:
            if self._leading is not None:
                self._leading.request_port(params)
        elif name == PATIENCE:
            self._progress()
        elif name == PROVIDE_PORT:
            self._provided(read(ProvidePort, params))
        elif name in (CLAIM, NEW_LEADER):
            self._led(name, read(NewLeader, params))
        elif name == LEAVE:
            self.asked_to_leave.set()

    def _led(self, name: str, leader: NewLeader) -> None:
        """Somebody else leads, or is about to."""
        self._election.look()
        self._progress()
        if self._leading is not None and leader.term > self._leading.leader.term:
            self._leading.stop()
        if name == CLAIM or (self._leader is not None and leader.term <= self._leader.term):
            return
        self._leader = leader
        self._later_leader.set()
        if self._session is not None and self._session.leader.term < leader.term:
            self._session.close()
        if self._pulse is not None:
            self._pulse.now()

    def _provided(self, leader: ProvidePort) -> None:
        if leader.client_id != self.id or self._ports is None or self._ports.done():
            return
        if self._leader is None or leader.term >= self._leader.term:
            self._ports.set_result(leader)

    # The worker

    async def _persist(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do `work` until it returns; what it fails with is for who joins, or for the log."""
        while True:
            try:
                return await work()
            except Exception as error:
                self._complain(error)
            await asyncio.sleep(self._limits.repeat)

    async def _lead(self) -> None:
        """Run the worker whenever it is our turn."""
        loop = asyncio.get_running_loop()
        delay = 0.0
        while True:
            leadership = await self._election.win()
            begun = loop.time()
            try:
                await self._lead_once(leadership)
            except (OSError, WorkerFailed) as error:
                self._complain(error)
            if self._has_left:
                return
            if loop.time() - begun < SHORT_LIFE:
                delay = min(max(2 * delay, self._limits.repeat / 2), self._limits.start_time)
            else:
                delay = 0.0
            await asyncio.sleep(delay)

    async def _lead_once(self, leadership: Leadership) -> None:
        _log.info("%s leads in term %d", self.id, leadership.term)
        self._leadership = leadership
        leading = self._leading = Leading(
            self.id,
            leadership,
            directory=self._directory,
            name=self.name,
            target=self._target,
            options=self._options,
            limits=self._limits,
            tell=self._coordination.tell,
        )

        def look() -> None:
            if not leadership.stands():
                _log.info("%s: its lock is not that of the leader any more", self.id)
                leading.stop()

        pulse = Pulse(self._limits.heartbeat, beat=look)
        try:
            await leading.run()
        finally:
            pulse.stop()
            self._leading = None
            leadership.resign()
            _log.info("%s leads no more", self.id)

    def _complain(self, error: Exception) -> None:
        assert self._failure is not None
        if not self._failure.done():
            self._failure.set_exception(error)
            self._failure.exception()  # it is for whoever joins, and nobody else
        elif isinstance(error, OSError | ProtomuxError):
            _log.error("%s", error)
        else:
            _log.error("a client of the host failed", exc_info=error)

    async def _connect(self) -> None:
        """Have a session whenever there is a worker."""
        while True:
            leader = await self._request_port()
            if leader.target != self._target:
                raise WorkerFailed(
                    f"expected the worker {self._target}, the host {self.name!r} runs "
                    f"{leader.target!a} for others"
                )
            try:
                session = await Session.open(leader, self._responders)
            except (OSError, ProtomuxError):
                await asyncio.sleep(self._limits.repeat / 10)
                continue
            self._leader = leader
            self._session = session
            watching = asyncio.create_task(session.watch(self._limits, self._worker_is_silent))
            greeting = asyncio.create_task(self._greet(session))
            try:
                await watching
            finally:
                await _cancel(greeting)
                await _cancel(watching)
                self._connected.clear()
                self._session = None
            if session.leader_is_silent:
                self._pass_by(session.leader.number)

    async def _request_port(self) -> ProvidePort:
        self._ports = asyncio.get_running_loop().create_future()
        self._pulse = Pulse(
            self._limits.repeat,
            max(1, round(self._limits.heartbeat * self._limits.missed / self._limits.repeat)),
            beat=self._ask_for_port,
            lost=lambda: self._pass_by(self._awaited),
        )
        self._progress()
        try:
            return await self._ports
        finally:
            self._pulse.stop()
            self._pulse = None

    def _ask_for_port(self) -> None:
        self._coordination.tell(REQUEST_PORT, ClientId(client_id=self.id))
        if not self._coordination.is_answering:
            self._progress()  # the leader has not been asked

    def _pass_by(self, number: int) -> None:
        """The leader that has the lock `number` does not answer."""
        if self._leading is None:
            _log.info("%s: the leader does not answer, and is passed by", self.id)
            try:
                self._election.pass_by(number)
                self._awaited = self._election.number
            except OSError as error:
                _log.warning("%s cannot pass the leader by: %s", self.id, error)
        elif self._leading.is_ready:
            _log.info("%s: the worker gives no ports", self.id)
            self._leading.kill()

    def _worker_is_silent(self) -> None:
        _log.info("%s: the worker does not answer", self.id)
        if self._leading is not None:
            self._leading.kill()
        elif self._session is not None:
            self._session.close()

    async def _greet(self, session: Session) -> None:
        """Let the hooks see the new worker; then calls go there."""
        await self._run_hook(self.on_connect, session)
        if session.is_over:
            return
        self._connected.set()
        told, self._told_leader = self._told_leader, session.leader.leader_id
        if told is not None:
            await self._run_hook(self.on_leader_change, session)

    async def _run_hook(self, hook: Callable[[Client], object] | None, session: Session) -> None:
        if hook is None:
            return
        token = _during_hook.set((self, session))
        try:
            result = hook(self)
            if is_pending(result):
                await result
        except (StreamClosed, LeaderLost):
            pass  # the next worker gets another chance
        except (Exception, asyncio.CancelledError):
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            _log.exception("a hook of %r failed", self)  # perhaps by what it awaited
        finally:
            _during_hook.reset(token)


def _program() -> str:
    """Return the name of ours that a user knows."""
    path = Path(sys.argv[0])
    if path.name == "__main__.py":  # of a package that was run with -m
        path = path.parent
    return path.name or "python"


async def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait((task,))
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("%r failed", task, exc_info=error)
