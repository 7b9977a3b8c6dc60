"""The worker as a process: its locks, its leader, the ports of its clients. Knows no call.

It is started by the leader, and ends with it. Before it says that it is listening it holds the lock
of the worker, which it takes from a worker of an earlier term, if need be by killing that; so there
are never two. While it lives it holds a second lock, of a name that is used once, by whose release
the clients learn of its end.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import secrets
import signal
import socket as sockets
import threading
from functools import partial
from typing import Final

import msgspec

from protomux import Protomux, ProtomuxError
from protomux_wakeup.host.calls import APP, HEARTBEAT, LEADER_SILENT, SYSTEM, open_rpc
from protomux_wakeup.host.limits import Limits
from protomux_wakeup.host.lines import LineConnection
from protomux_wakeup.host.locks import FileLock
from protomux_wakeup.host.messages import (
    FAILED,
    INIT,
    LISTENING,
    PATIENCE,
    READY,
    SESSION,
    START_SESSION,
    STOP,
    ClientId,
    Failed,
    Fields,
    Init,
    Ready,
    SessionPorts,
    read,
    tell,
)
from protomux_wakeup.host.places import lock_path
from protomux_wakeup.host.ports import Port
from protomux_wakeup.host.processes import kill, name_of
from protomux_wakeup.host.pulse import Pulse
from protomux_wakeup.host.remains import WORKER_LOCK, sweep_ports
from protomux_wakeup.host.rpc import Rpc
from protomux_wakeup.host.worker import Session, Worker, WorkerMain

__all__ = ["SUPERSEDED", "Launch", "run_worker"]

SUPERSEDED: Final = 75
"""Exit code of a worker that finds one of a later term: EX_TEMPFAIL of sysexits.h."""

_log = logging.getLogger("protomux_wakeup.host")


class Launch(msgspec.Struct, frozen=True):
    """What a worker process is started with, as JSON on its command line."""

    directory: str
    name: str
    target: str
    term: int
    control: int
    limits: dict[str, float]


class _Process:
    """The process around a `Worker`: locks, the leader, and the ports of clients."""

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        self._limits = Limits(**launch.limits)  # type: ignore[arg-type]
        self._loop = asyncio.get_running_loop()
        self._leader = LineConnection()
        self._worker: Worker | None = None
        self._init: asyncio.Future[Init] = self._loop.create_future()
        self._stop: asyncio.Future[bool] = self._loop.create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._opening: dict[str, SessionPorts] = {}
        self._owner = ""
        self._pulse: Pulse | None = None
        self._systems: dict[str, Rpc] = {}
        self._lock: FileLock | None = None
        self._alive: FileLock | None = None

    async def run(self) -> None:
        self._leader.attach(sockets.socket(fileno=self._launch.control))
        self._leader.rpc.respond(INIT, self._on_init)
        self._leader.rpc.respond(START_SESSION, self._start_session)
        self._leader.rpc.respond(STOP, lambda _params: self._go(graceful=True))
        self._loop.add_signal_handler(signal.SIGTERM, partial(self._go, graceful=True))
        self._loop.add_signal_handler(signal.SIGINT, partial(self._go, graceful=True))
        leaderless = self._loop.create_task(self._leader.wait_closed())
        leaderless.add_done_callback(lambda _task: self._go(graceful=False))
        work = self._loop.create_task(self._work())
        await asyncio.wait((work, self._stop), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            await self._leave(work, is_graceful=self._stop.result())
        leaderless.cancel()
        if not work.cancelled() and (error := work.exception()) is not None:
            raise error

    async def fail(self, error: Exception) -> None:
        """Tell the leader why there will be no worker."""
        self._tell(FAILED, Failed(message=f"{type(error).__name__}: {error}"[:4096]))
        self._leader.close()
        await self._leader.wait_closed()

    def _on_init(self, params: object) -> None:
        init = read(Init, params)
        if not self._init.done():  # it may be over already
            self._init.set_result(init)

    def _go(self, *, graceful: bool) -> None:
        if not self._stop.done():
            self._stop.set_result(graceful)
            if self._pulse is not None:
                self._pulse.stop()  # the leader may be the first to close its session
            # Whatever does not end, a task or a thread of main(): nobody may be there to kill it.
            end = threading.Timer(3 * self._limits.draining, os._exit, (os.EX_SOFTWARE,))
            end.daemon = True
            end.start()

    async def _leave(self, work: asyncio.Task[None], *, is_graceful: bool) -> None:
        """Let `main` end: after the calls that run, or with them."""
        if self._worker is not None:
            await self._worker.drain(self._limits.draining / 2 if is_graceful else 0)
        else:
            work.cancel()
        await asyncio.wait((work,), timeout=self._limits.draining / 2)
        work.cancel()
        await asyncio.wait((work,))

    async def _work(self) -> None:
        main = _find(self._launch.target)
        # Held until the process ends, as is the one that tells of its life: what main() has
        # started, in tasks and threads, may go on until then. The files go with the next worker,
        # or with the last client.
        self._lock = await self._displace()
        sweep_ports(self._launch.directory)
        looking = Pulse(self._limits.heartbeat, beat=self._look)
        try:
            self._tell(LISTENING)
            init = await self._init
            self._worker = Worker(self._launch.name, init, self._ready)
            self._owner = init.client_id
            await main(self._worker)
        finally:
            looking.stop()
            for task in self._tasks:
                task.cancel()
            if self._pulse is not None:
                self._pulse.stop()
            if self._tasks:
                await asyncio.wait(self._tasks)

    async def _displace(self) -> FileLock:
        """Take the worker's lock, from an earlier worker after a while by force."""
        path = lock_path(self._launch.directory, WORKER_LOCK)
        mine = self._loop.create_task(FileLock.acquire(path))
        try:
            while True:
                await asyncio.wait((mine,), timeout=self._limits.draining)
                if mine.done():
                    break
                term, holder = _holder(path)
                if term > self._launch.term:
                    raise _Superseded(f"a worker of a later term runs: {holder}")
                if term < self._launch.term and kill(holder):
                    _log.info("killed the worker of an earlier term: %s", holder)
            lock = mine.result()
        except BaseException:
            mine.cancel()
            raise
        lock.write(f"{self._launch.term} {name_of(os.getpid())}")
        return lock

    def _look(self) -> None:
        if not all(lock.stands() for lock in (self._lock, self._alive) if lock is not None):
            _log.warning("the files of the host have gone, and another worker may come")
            self._go(graceful=True)

    def _ready(self) -> None:
        key = lock_path(self._launch.directory, f"alive-{secrets.token_hex(8)}")
        self._alive = FileLock.try_acquire(key)
        self._tell(READY, Ready(liveness_key=key, pid=os.getpid()))

    def _tell(self, name: str, message: Fields | None = None) -> None:
        tell(self._leader.rpc.notify, "worker", "leader", name, message)

    def _start_session(self, params: object) -> None:
        client_id = read(ClientId, params).client_id
        ports = self._opening.get(client_id)
        if ports is None:
            if self._worker is None or len(self._tasks) >= self._limits.sessions:
                return self._tell(PATIENCE, ClientId(client_id=client_id))
            try:
                app = Port(self._launch.directory)
                try:
                    system = Port(self._launch.directory)
                except BaseException:
                    app.close()
                    raise
            except OSError as error:
                _log.warning("no port for a client: %s", error)
                return self._tell(PATIENCE, ClientId(client_id=client_id))
            ports = SessionPorts(client_id=client_id, app_port=app.path, system_port=system.path)
            self._opening[client_id] = ports
            task = self._loop.create_task(self._serve(self._worker, client_id, app, system))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return self._tell(SESSION, ports)

    async def _serve(self, worker: Worker, client_id: str, app: Port, system: Port) -> None:
        """Serve one client, from its ports to its end."""
        muxes: list[Protomux] = []
        try:
            async with asyncio.timeout(self._limits.heartbeat * self._limits.missed):
                muxes.append(await system.accept())
                self._opening.pop(client_id, None)  # who asks again now gets others
                beats = self._systems[client_id] = open_rpc(muxes[0], SYSTEM)
                beats.respond(HEARTBEAT, partial(self._heartbeat, client_id))
                muxes.append(await app.accept())
        except (TimeoutError, OSError, ProtomuxError):
            self._systems.pop(client_id, None)
            for mux in muxes:
                mux.destroy()
            return
        finally:
            if len(muxes) == 0:
                self._opening.pop(client_id, None)
            app.close()
            system.close()
        # From here to the hook in one go: what the client opens must be there when its open comes.
        session = Session(client_id, muxes[1], open_rpc(muxes[1], APP))
        worker.welcome(session)
        gone = asyncio.Event()
        for mux in muxes:
            mux.add_close_callback(lambda _error: gone.set())
        if client_id == self._owner and self._pulse is None:
            self._pulse = Pulse(
                self._limits.heartbeat,
                self._limits.missed,
                beat=lambda: None,
                lost=self._leader_is_silent,
            )
        try:
            await gone.wait()
        finally:
            if self._systems.get(client_id) is beats:
                del self._systems[client_id]
            worker.forget(session)
            for mux in muxes:
                mux.destroy()

    def _heartbeat(self, client_id: str, _params: object) -> None:
        if client_id == self._owner and self._pulse is not None:
            self._pulse.heard()

    def _leader_is_silent(self) -> None:
        _log.warning("the leader does not answer")
        for beats in self._systems.values():
            beats.notify(LEADER_SILENT)
        self._go(graceful=True)


class _Superseded(ProtomuxError):
    """Our leader was passed by."""


def _holder(path: str) -> tuple[int, str]:
    """Return term and name of the worker that held the lock at `path` last; 0 and "" if unknown."""
    term, _, name = FileLock.read(path).partition(" ")
    return (int(term), name) if term.isdecimal() else (0, "")


def _find(target: str) -> WorkerMain:
    """Return the function that "pkg.module:main" names."""
    module, colon, name = target.partition(":")
    if not colon or not module or not name:
        raise ValueError(f'expected a worker like "package.module:main", got {target!r}')
    found = getattr(importlib.import_module(module), name)
    if not callable(found):
        raise TypeError(f"expected {target} to be a function, got {found!r}")
    main: WorkerMain = found
    return main


def run_worker(launch: Launch) -> int:
    """Be the worker that `launch` says, until it is over; return the exit code."""
    return asyncio.run(_run(launch))


async def _run(launch: Launch) -> int:
    process = _Process(launch)
    try:
        await process.run()
    except _Superseded as error:
        _log.info("%s", error)
        return SUPERSEDED
    except (OSError, ProtomuxError) as error:
        await process.fail(error)  # who leads says it
        return 1
    except Exception as error:
        await process.fail(error)
        raise
    return 0
