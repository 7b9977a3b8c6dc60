from __future__ import annotations

import asyncio
import os
import socket as sockets
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from protomux_wakeup.host.backends.engine import Readiness
from protomux_wakeup.host.backends.process import ProcessEngine
from protomux_wakeup.host.backends.readiness import ReadySocket, free_port, listening
from protomux_wakeup.host.backends.types import BackendStatus, TerminationReason
from tests.protomux_wakeup.host.backends.stage import GUARD, Stage, log_of, python, shell

LISTEN = """
import os, socket, sys, time
print("up", flush=True)
sys.stdin.readline()
with socket.create_server((HOST, int(os.environ["PORT"])), family=FAMILY) as server:
    while True:
        server.accept()[0].close()
"""
NOTIFY = """
import os, socket, sys
sys.stdin.readline()
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
    for message in MESSAGES:
        s.sendto(message, os.environ["NOTIFY_SOCKET"])
        print("sent", flush=True)
        sys.stdin.readline()
"""


@pytest.fixture
async def engine(stage: Stage) -> ProcessEngine:
    return await stage.engine()


@pytest.mark.parametrize(
    ("host", "family"),
    [("'127.0.0.1'", "socket.AF_INET"), ("''", "socket.AF_INET"), ("'::'", "socket.AF_INET6")],
)
async def test_by_a_port(stage: Stage, engine: ProcessEngine, host: str, family: str) -> None:
    if "INET6" in family and not sockets.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    script = LISTEN.replace("HOST", host).replace("FAMILY", family)
    if "INET6" in family:
        script = script.replace("family=", "dualstack_ipv6=True, family=")
    launch, heard, running = await stage.start(python(script, readiness=Readiness.PORT))
    await log_of(stage, launch, "up")
    assert heard.statuses == ["starting", "waiting"]
    running.finish()
    await heard.until_status(BackendStatus.READY)
    assert running.address is not None
    _, writer = await asyncio.open_connection(*running.address)
    writer.close()
    await writer.wait_closed()
    running.terminate(TerminationReason.EXTERNAL, hard=True)
    await heard.until_terminated()


async def test_by_a_port_of_what_it_starts(stage: Stage, engine: ProcessEngine) -> None:
    script = LISTEN.replace("HOST", "'127.0.0.1'").replace("FAMILY", "socket.AF_INET")
    command = shell('"$PYTHON" -S -c "$SCRIPT" & wait', readiness=Readiness.PORT)
    env = {"PYTHON": sys.executable, "SCRIPT": script}
    _, heard, running = await stage.start(command, env=env)
    await heard.until_status(BackendStatus.READY)  # the stdin of a job is /dev/null
    running.terminate(TerminationReason.EXTERNAL, hard=False)
    await heard.until_terminated()


async def test_nobody_elses_port(stage: Stage, engine: ProcessEngine) -> None:
    """Another process of our user has the port that was told."""
    command = shell("exec sleep 1000", readiness=Readiness.PORT, startup_timeout=1.0)
    _, heard, running = await stage.start(command)
    assert running.address is not None
    with sockets.create_server(running.address):
        end = await heard.until_terminated()
    assert heard.statuses == ["starting", "waiting", "terminating", "terminated"]
    assert end.termination_reason is TerminationReason.STARTUP_TIMEOUT


async def test_who_is_in_time_goes_on(stage: Stage, engine: ProcessEngine) -> None:
    command = shell("sleep 0.6", startup_timeout=0.2)
    _, heard, _ = await stage.start(command)
    assert (await heard.until_terminated()).termination_reason is None


async def test_by_a_message(stage: Stage, engine: ProcessEngine) -> None:
    script = NOTIFY.replace(
        "MESSAGES",
        r"[b'', b'READY=0', b'NOT\nREADY=1x', b'x'*5000, b'STATUS=x\nREADY=1\n', b'READY=1']",
    )
    launch, heard, running = await stage.start(python(script, readiness=Readiness.NOTIFY))
    path = stage.directory / f"{launch.backend_id}.note"
    assert path.is_socket()
    running.finish()
    await heard.until_status(BackendStatus.READY)
    await heard.until_terminated()
    assert heard.statuses == ["starting", "waiting", "ready", "terminated"]
    assert not path.exists()


async def test_other_messages_are_no_sign(stage: Stage, engine: ProcessEngine) -> None:
    script = NOTIFY.replace("MESSAGES", r"[b'', b'READY=0', b'NOT\nREADY=1x', b'x' * 5000]")
    _, heard, running = await stage.start(python(script, readiness=Readiness.NOTIFY))
    running.finish()
    await heard.until_terminated()
    assert heard.statuses == ["starting", "waiting", "terminated"]


async def test_a_message_of_what_it_has_started_and_that_has_ended(
    stage: Stage, engine: ProcessEngine
) -> None:
    script = NOTIFY.replace("MESSAGES", "[b'READY=1']")
    command = shell('"$PYTHON" -S -c "$SCRIPT"; cat', readiness=Readiness.NOTIFY)
    env = {"PYTHON": sys.executable, "SCRIPT": script}
    _, heard, running = await stage.start(command, env=env)
    running.finish()
    await heard.until_terminated()
    assert heard.statuses == ["starting", "waiting", "ready", "terminated"]


async def test_it_is_too_late_when_it_is_to_end(stage: Stage, engine: ProcessEngine) -> None:
    script = "trap 'echo asked; exec sleep 0.2' TERM; echo up; while :; do sleep 0.01; done"
    launch, heard, running = await stage.start(shell(script, readiness=Readiness.PORT))
    await log_of(stage, launch, "up")
    assert running.address is not None
    running.terminate(TerminationReason.EXTERNAL, hard=False)
    await heard.until_terminated()
    assert heard.statuses == ["starting", "waiting", "terminating", "terminated"]


@asynccontextmanager
async def ready_socket(path: Path) -> AsyncIterator[asyncio.Event]:
    ready = asyncio.Event()
    socket = ReadySocket(str(path), ready.set)
    try:
        yield ready
    finally:
        socket.close()
        socket.close()


async def test_descriptors_that_are_sent_are_not_taken(place: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    async with ready_socket(place / "s") as ready:
        here, there = os.pipe()
        with sockets.socket(sockets.AF_UNIX, sockets.SOCK_DGRAM) as sender:
            sender.connect(str(place / "s"))
            sockets.send_fds(sender, [b"READY=1"], [there] * 3)
        os.close(there)
        async with asyncio.timeout(GUARD):
            await ready.wait()
        assert os.read(here, 1) == b""  # nobody else has the other end
        os.close(here)
    assert set(os.listdir("/proc/self/fd")) <= before
    assert not (place / "s").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to be another user")
async def test_another_users_message_is_no_sign(place: Path) -> None:
    script = (
        "import os, socket, sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM);"
        "os.setuid(int(sys.argv[2])); s.sendto(b'READY=1', sys.argv[1])"
    )
    async with ready_socket(place / "s") as ready:
        for path in (place, place / "s"):
            os.chmod(path, 0o777)
        argv = [sys.executable, "-S", "-c", script, str(place / "s")]
        await asyncio.to_thread(subprocess.run, [*argv, "65534"], check=True)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not ready.is_set()
        await asyncio.to_thread(subprocess.run, [*argv, "0"], check=True)
        async with asyncio.timeout(GUARD):
            await ready.wait()


async def test_a_path_that_is_taken(place: Path) -> None:
    (place / "s").touch()
    with pytest.raises(OSError, match="in use"):
        ReadySocket(str(place / "s"), lambda: None)


async def test_processes_that_have_gone_do_not_listen() -> None:
    port = free_port()
    with sockets.create_server(("127.0.0.1", port)):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await listening(port, lambda: [2**22 + 1])
        async with asyncio.timeout(GUARD):
            await listening(port, lambda: [2**22 + 1, os.getpid()])
