"""An engine of plain child processes, for tests of what stands above one.

It has no process of its own around a backend. What that would know stands in files: the states, and
which process it is, by the environment of that. So a backend can be taken over, by this process or
by another; only its exit status is lost then, and what it says on its stdout.

A backend says `READY=1` there, and `ack TOPICHEX KEYHEX LENGTH`; on its stdin it gets
`hint TOPICHEX KEYHEX LENGTH`.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from protomux_wakeup.host.backends.engine import EngineError, Launch, Listener, News, Readiness
from protomux_wakeup.host.backends.types import (
    BackendState,
    BackendStatus,
    ConnectResponse,
    HardTerminating,
    Ready,
    Starting,
    Terminated,
    Terminating,
    TerminationKind,
    TerminationReason,
    Waiting,
    decode,
    encode,
    now,
)

ADDRESS = ("127.0.0.1", 9)


class LocalEngine:
    """Backends as children of this process, or of one that has gone.

    Attributes:
        started: the launches, in order.
        forgotten: ids.
        held: where it is cleared, `start` waits until it is set.
        is_closed: it has let go of all.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._all: set[LocalRunning] = set()
        self.started: list[Launch] = []
        self.forgotten: asyncio.Queue[str] = asyncio.Queue()
        self.held = asyncio.Event()
        self.held.set()
        self.is_closed = False

    async def open(self, term: int) -> None:
        file = self._directory / "term"
        last = int(file.read_text()) if file.exists() else 0
        if term < last:
            raise EngineError(f"expected a term of {last} or later, got {term}")
        file.write_text(str(term))

    async def start(self, launch: Launch, listener: Listener) -> LocalRunning:
        self.started.append(launch)
        await self.held.wait()
        running = LocalRunning(self._directory, launch, listener)
        running.start()
        self._all.add(running)
        return running

    async def adopt(
        self, launch: Launch, listener: Listener, seen: BackendStatus
    ) -> LocalRunning | None:
        running = LocalRunning(self._directory, launch, listener)
        if not running.adopt(seen):
            return None
        self._all.add(running)
        return running

    async def settle(self, backend_ids: Collection[str]) -> None:
        pass

    async def log(self, backend_id: str) -> bytes:
        file = self._directory / f"{backend_id}.log"
        return file.read_bytes() if file.exists() else b""

    async def forget(self, backend_id: str) -> None:
        for file in self._directory.glob(f"{backend_id}.*"):
            file.unlink()
        self.forgotten.put_nowait(backend_id)

    async def close(self) -> None:
        for running in self._all:
            running.let_go()
        self._all.clear()
        self.is_closed = True


class LocalRunning:
    """One child."""

    def __init__(self, directory: Path, launch: Launch, listener: Listener) -> None:
        self._launch = launch
        self._listener = listener
        self._states = directory / f"{launch.backend_id}.states"
        self._log = directory / f"{launch.backend_id}.log"
        self._acknowledged = directory / f"{launch.backend_id}.acknowledged"
        self._loop = asyncio.get_running_loop()
        self._status = BackendStatus.SCHEDULED
        self._reason: TerminationReason | None = None
        self._kind: TerminationKind | None = None
        self._pid = 0
        self._watch = -1  # pidfd
        self._stdin = -1
        self._stdout = -1
        self._unread = b""
        self._timers: list[asyncio.TimerHandle] = []
        self._is_finished = False

    @property
    def address(self) -> tuple[str, int] | None:
        return ADDRESS

    @property
    def response(self) -> ConnectResponse | None:
        return None

    def start(self) -> None:
        command = self._launch.command
        assert command is not None
        self._move(Starting(time=now()))
        given, self._stdin = os.pipe2(os.O_CLOEXEC)
        self._stdout, taken = os.pipe2(os.O_CLOEXEC)
        try:
            self._pid = os.posix_spawnp(
                command.argv[0],
                command.argv,
                {
                    **command.env,
                    "SESSION_BACKEND_ID": self._launch.backend_id,
                    "SESSION_BACKEND_FENCING_TOKEN": str(self._launch.fencing_token),
                },
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, given, 0),
                    (os.POSIX_SPAWN_DUP2, taken, 1),
                    (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
                ],
                setsid=True,
            )
        except OSError as error:
            self._log.write_text(str(error))
            self._reason = TerminationReason.INTERNAL_ERROR
            self._end(has_failed=True)
            return
        finally:
            os.close(given)
            os.close(taken)
        self._move(Waiting(time=now()))
        self._run()
        self._loop.add_reader(self._stdout, self._read)
        self.deliver(self._launch.news)

    def adopt(self, seen: BackendStatus) -> bool:
        """Go on with what is found; False where nothing is."""
        self._pid = pid_of(self._launch.backend_id)
        if self._acknowledged.exists():
            lines = self._acknowledged.read_bytes().splitlines()
            self._listener.acknowledged([decode(line, News) for line in lines])
        for line in self._states.read_bytes().splitlines() if self._states.exists() else ():
            state: BackendState = decode(line, BackendState)
            self._status = state.status
            if isinstance(state, Terminating):
                self._reason, self._kind = state.termination_reason, TerminationKind.SOFT
            elif isinstance(state, HardTerminating):
                self._reason, self._kind = state.termination_reason, TerminationKind.HARD
            if seen.is_before(state.status):
                self._listener.moved(state)
        if self._status is BackendStatus.TERMINATED:
            return True
        if not self._pid:
            return False
        self._run()
        if self._kind is not None:  # that may have been written down, and not done
            os.killpg(
                self._pid, signal.SIGTERM if self._kind is TerminationKind.SOFT else signal.SIGKILL
            )
        return True

    def _run(self) -> None:
        self._watch = os.pidfd_open(self._pid)
        self._loop.add_reader(self._watch, self._has_exited)
        command = self._launch.command
        assert command is not None
        if command.readiness is Readiness.STARTED and self._status is not BackendStatus.READY:
            self._move(Ready(time=now()))

    def _move(self, state: BackendState) -> None:
        if self._status.is_before(state.status):
            self._status = state.status
            with self._states.open("ab") as file:
                file.write(encode(state) + b"\n")
            self._listener.moved(state)

    def _read(self) -> None:
        data = os.read(self._stdout, 65_536)
        if not data:
            self._loop.remove_reader(self._stdout)
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            if line == b"READY=1":
                self._move(Ready(time=now()))
            elif line.startswith(b"ack "):
                _, topic, key, length = line.decode().split()
                news = News(bytes.fromhex(topic), bytes.fromhex(key), int(length))
                with self._acknowledged.open("ab") as file:
                    file.write(encode(news) + b"\n")
                self._listener.acknowledged([news])
            else:
                with self._log.open("ab") as file:
                    file.write(line + b"\n")

    def _has_exited(self) -> None:
        status: int | None = None
        with suppress(ChildProcessError):  # another's child
            _, status = os.waitpid(self._pid, 0)
        with suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)
        if self._stdout >= 0:
            self._read()  # what it said last
        self._end(has_failed=status != 0 if status is not None else None)

    def _end(self, *, has_failed: bool | None) -> None:
        self.let_go()
        self._move(
            Terminated(
                time=now(),
                termination_reason=self._reason,
                termination_kind=self._kind,
                exit_error=has_failed,
            )
        )

    def let_go(self) -> None:
        for timer in self._timers:
            timer.cancel()
        for file in (self._watch, self._stdin, self._stdout):
            if file >= 0:
                self._loop.remove_reader(file)
                os.close(file)
        self._watch = self._stdin = self._stdout = -1

    def terminate(self, reason: TerminationReason, *, hard: bool) -> None:
        if self._watch < 0:
            return
        status = BackendStatus.HARD_TERMINATING if hard else BackendStatus.TERMINATING
        if not self._status.is_before(status):
            return
        self._reason = self._reason or reason
        if hard:
            self._kind = TerminationKind.HARD
            self._move(HardTerminating(time=now(), termination_reason=self._reason))
            os.killpg(self._pid, signal.SIGKILL)
            return
        self._kind = TerminationKind.SOFT
        self._move(Terminating(time=now(), termination_reason=self._reason))
        os.killpg(self._pid, signal.SIGTERM)
        command = self._launch.command
        assert command is not None
        self._timers.append(self._loop.call_later(command.grace, self._lose_patience))

    def _lose_patience(self) -> None:
        assert self._reason is not None
        self.terminate(self._reason, hard=True)

    def deliver(self, news: Sequence[News]) -> None:
        if self._stdin >= 0:
            for topic, key, length in news:
                line = f"hint {topic.hex()} {key.hex()} {length}\n"
                with suppress(BrokenPipeError):
                    os.write(self._stdin, line.encode())

    def finish(self) -> None:
        if self._stdin >= 0:
            os.close(self._stdin)
            self._stdin = -1


def pid_of(backend_id: str) -> int:
    """Return the pid of the first process of a backend; 0 where there is none."""
    mark = f"SESSION_BACKEND_ID={backend_id}".encode()
    for directory in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        try:
            if mark in (directory / "environ").read_bytes().split(b"\0"):
                return int(directory.name)
        except OSError:  # it has gone, or is another user's
            continue
    return 0
