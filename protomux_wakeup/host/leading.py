"""What a leader does: it runs the worker, and gets ports of it for others. Knows no election."""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
import socket as sockets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Final

import msgspec

from protomux_wakeup.host.election import Leadership
from protomux_wakeup.host.errors import WorkerFailed
from protomux_wakeup.host.limits import Limits
from protomux_wakeup.host.lines import LineConnection
from protomux_wakeup.host.messages import (
    CLAIM,
    FAILED,
    INIT,
    LISTENING,
    NEW_LEADER,
    PATIENCE,
    PROVIDE_PORT,
    READY,
    SESSION,
    START_SESSION,
    STOP,
    ClientId,
    Failed,
    Fields,
    Init,
    NewLeader,
    ProvidePort,
    Ready,
    SessionPorts,
    read,
    tell,
    trace,
)
from protomux_wakeup.host.processes import start
from protomux_wakeup.host.worker_process import SUPERSEDED, Launch

__all__ = ["Leading"]

STDERR: Final = 2
"""Its file descriptor."""

_log = logging.getLogger("protomux_wakeup.host")


class Leading:
    """One worker, from its start to its end.

    Attributes:
        leader: who we are, as the others are told.
    """

    def __init__(
        self,
        client_id: str,
        leadership: Leadership,
        *,
        directory: str,
        name: str,
        target: str,
        options: Mapping[str, Any],
        limits: Limits,
        tell: Callable[[str, Fields], object],
    ) -> None:
        """Lead with the worker `target`; `tell(name, message)` reaches the coordinator."""
        self.leader: Final = NewLeader(
            leader_id=f"leader-{secrets.token_hex(8)}",
            client_id=client_id,
            term=leadership.term,
            number=leadership.number,
        )
        self._directory = directory
        self._name = name
        self._target = target
        self._options = dict(options)
        self._limits = limits
        self._tell_coordinator = tell
        self._worker = LineConnection()
        self._process: asyncio.subprocess.Process | None = None
        self._ready: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self._failure = "it ended before it was ready"
        self._is_stopping = False
        self._begun = time.monotonic()

    @property
    def is_ready(self) -> bool:
        """The worker has said that it is."""
        return self._ready.done()

    async def run(self) -> None:
        """Run the worker until it is gone; raises WorkerFailed if it was never ready."""
        responders: dict[str, Callable[[Any], object]] = {
            LISTENING: self._on_listening,
            READY: self._on_ready,
            FAILED: self._on_failed,
            SESSION: self._on_session,
            PATIENCE: lambda params: self._tell_coordinator(PATIENCE, read(ClientId, params)),
        }
        for method, responder in responders.items():
            self._worker.rpc.respond(method, responder)
        self.introduce()
        try:
            await self._start()
        except BaseException:
            self._worker.abort()
            raise
        assert self._process is not None
        if self._is_stopping:
            self.kill()
        starting = asyncio.get_running_loop().call_later(self._limits.start_time, self._too_late)
        try:
            await self._process.wait()
        finally:
            starting.cancel()
            self.kill()
            await self._process.wait()
            self._worker.abort()
        is_expected = self._is_stopping or self._process.returncode == SUPERSEDED
        if not self._ready.done() and not is_expected:
            raise WorkerFailed(f"the worker {self._target} did not start: {self._failure}")

    async def _start(self) -> None:
        ours, theirs = sockets.socketpair()
        with theirs:
            launch = Launch(
                directory=self._directory,
                name=self._name,
                target=self._target,
                term=self.leader.term,
                control=theirs.fileno(),
                limits=asdict(self._limits),
            )
            self._worker.attach(ours)
            self._process = await start(
                "worker",
                msgspec.json.encode(launch).decode(),
                output=STDERR,  # stdout is for what the application has to say
                pass_fds=(theirs.fileno(),),
            )

    def introduce(self) -> None:
        """Tell the coordinator, perhaps a new one, that we lead."""
        self._tell_coordinator(NEW_LEADER if self._ready.done() else CLAIM, self.leader)

    def request_port(self, params: object) -> None:
        """A client asks for its ports."""
        message = read(ClientId, params)
        if not self._ready.done():
            self._tell_coordinator(PATIENCE, message)
        elif not self._is_stopping:
            self._tell_worker(START_SESSION, message)

    def stop(self) -> None:
        """Let the worker end what it does, and go."""
        if not self._is_stopping:
            self._is_stopping = True
            if self._process is not None:
                self._tell_worker(STOP)
                asyncio.get_running_loop().call_later(self._limits.draining, self.kill)

    def kill(self) -> None:
        """End the worker at once."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)

    def _tell_worker(self, name: str, message: Fields | None = None) -> None:
        tell(self._worker.rpc.notify, "leader", "worker", name, message)

    def _on_listening(self, _params: object) -> None:
        trace("leader", "<-", "worker", LISTENING)
        self._tell_worker(
            INIT,
            Init(
                client_id=self.leader.client_id,
                leader_id=self.leader.leader_id,
                term=self.leader.term,
                options=self._options,
            ),
        )

    def _on_ready(self, params: object) -> None:
        trace("leader", "<-", "worker", READY)
        if not self._ready.done():
            self._ready.set_result(read(Ready, params))
            _log.info("the worker was ready after %.2f s", time.monotonic() - self._begun)
            self.introduce()

    def _on_failed(self, params: object) -> None:
        self._failure = read(Failed, params).message

    def _too_late(self) -> None:
        if not self._ready.done():
            self._failure = f"it was not ready after {self._limits.start_time:g} s"
            self.kill()

    def _on_session(self, params: object) -> None:
        trace("leader", "<-", "worker", SESSION, params)
        ports = read(SessionPorts, params)
        ready = self._ready.result()
        self._tell_coordinator(
            PROVIDE_PORT,
            ProvidePort(
                client_id=ports.client_id,
                leader_id=self.leader.leader_id,
                term=self.leader.term,
                number=self.leader.number,
                target=self._target,
                worker_pid=ready.pid,
                liveness_key=ready.liveness_key,
                app_port=ports.app_port,
                system_port=ports.system_port,
            ),
        )
