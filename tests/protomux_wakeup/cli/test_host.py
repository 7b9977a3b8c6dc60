"""What the commands for hosts do, in this process; the worker and the coordinator are others."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from protomux.crypto import discovery_key
from protomux_wakeup import Writer
from protomux_wakeup import host as host_library
from protomux_wakeup.address import TcpAddress, UnixAddress, parse_address
from protomux_wakeup.cli import host as service
from protomux_wakeup.cli import main
from protomux_wakeup.cli.console import TextReporter
from protomux_wakeup.cli.keys import CAPABILITY_VARIABLE
from protomux_wakeup.cli.process import Exit, Failure

from ..host.local import RemotePeer
from ..host.members import WORKERS, until_empty
from .recorder import LIMIT, Recorder

CAPABILITY = b"\x01" * 32
TOPIC = discovery_key(CAPABILITY)
A, B = Writer(b"a" * 32, 1), Writer(b"b" * 32, 2)
LOOPBACK = TcpAddress("127.0.0.1", 0)


@pytest.fixture
def place() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="pw-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
async def peer() -> AsyncIterator[RemotePeer]:
    peer = RemotePeer(CAPABILITY)
    yield peer
    await peer.close()


@asynccontextmanager
async def running(body: Coroutine[Any, Any, Exit]) -> AsyncIterator[asyncio.Task[Exit]]:
    """Run a command, and stop it as Ctrl-C does."""
    task = asyncio.create_task(body)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


def start(report: Recorder, place: Path, **options: Any) -> Coroutine[Any, Any, Exit]:
    given: dict[str, Any] = {"listen": (), "connect": (), "capability": None, "writers": ()}
    return service.start(
        report, name="test", directory=place / "run", state=place / "state", **(given | options)
    )


def watch(report: Recorder, place: Path, **options: Any) -> Coroutine[Any, Any, Exit]:
    given: dict[str, Any] = {"listen": (), "connect": (), "watcher": None, "count": None}
    return service.watch(
        report,
        name="test",
        directory=place / "run",
        state=place / "state",
        capability=CAPABILITY,
        **(given | options),
    )


async def test_a_keeper_announces_and_a_watcher_hears(
    place: Path, peer: RemotePeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    keeping, watching = Recorder(), Recorder()
    socket = place / "peers"
    where = (LOOPBACK, UnixAddress("peers"))
    body = start(keeping, place, listen=where, capability=CAPABILITY, writers=[A])
    async with running(body) as keeper:
        joined = await keeping.heard("joined")
        assert joined.fields["is_leader"]
        assert joined.text.startswith("test: this process leads, the worker has pid ")
        assert joined.details == [f"public key {joined.fields['public_key']}"]
        assert (await keeping.heard("announced")).writers == [A]
        assert (await keeping.heard("listening", 2)).text == f"unix:{socket}"
        await peer.connect((await keeping.heard("listening")).text)
        assert await asyncio.wait_for(peer.heard.get(), LIMIT) == [A]
        watcher = asyncio.create_task(watch(watching, place, watcher="bot", count=2))
        line = await watching.heard("watching")
        assert (line.text, line.fields["topic"]) == (f"{TOPIC.hex()[:12]}… as 'bot'", TOPIC.hex())
        peer.announce(A, B)
        assert await watcher == Exit.DONE
        assert {line.text for line in watching.lines if line.event == "hint"} == {
            f"{writer.key.hex()}:{writer.length}" for writer in (A, B)
        }
        # All was acknowledged, the last one as well.
        peer.announce(Writer(B.key, 3))
        watching = Recorder()
        assert await watch(watching, place, watcher="bot", count=1) == Exit.DONE
        assert (await watching.heard("hint")).fields == {
            "topic": TOPIC.hex(),
            "key": B.key.hex(),
            "length": 3,
        }
        stopping = Recorder()
        code = await service.stop(stopping, name="test", directory=place / "run", within=LIMIT)
        assert (code, stopping.events) == (Exit.DONE, ["host_stopped"])
        assert await keeper == Exit.DONE
    await until_empty(place / "run")
    assert not socket.exists()


async def test_the_next_leader_is_told(place: Path, peer: RemotePeer) -> None:
    first, second = Recorder(), Recorder()
    address = parse_address(await peer.listen())
    async with running(start(first, place, connect=[address])) as keeper:
        assert (await first.heard("connected")).text == f"to {address}"
        async with running(watch(second, place)):
            assert "another process leads" in (await second.heard("joined")).text
            keeper.cancel()
            changed = await second.heard("leader_changed")
            assert changed.text.startswith("this process leads")
            assert changed.fields["is_leader"]
            stopping = Recorder()
            await service.stop(stopping, name="test", directory=place / "run", within=LIMIT)
            (line,) = stopping.lines
            assert line.event == "host_in_use"
            assert line.text == "test goes on, for 1 other process"
            assert len(line.details) == 1
    await until_empty(place / "run")


async def test_a_second_process_with_the_name_ends_the_first(place: Path) -> None:
    first, second = Recorder(), Recorder()
    async with running(watch(first, place, watcher="bot")) as task:
        await first.heard("watching")
        async with running(watch(second, place, watcher="bot")):
            with pytest.raises(host_library.WatcherReplaced, match="as 'bot' now"):
                await asyncio.wait_for(task, LIMIT)
    await until_empty(place / "run")


async def test_a_peer_that_is_away_is_tried_until_it_is_there(
    place: Path, peer: RemotePeer
) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        keeping = Recorder()
        away = TcpAddress("127.0.0.1", port)
        async with running(start(keeping, place, connect=[away])) as keeper:
            warning = await keeping.complained()
            assert warning.message.startswith(f"cannot connect to {away}: Connection refused; ")
            reserved.close()
            await peer.listen(port)
            while not peer.streams:
                assert not keeper.done()
                await asyncio.sleep(0.01)
    await until_empty(place / "run")


async def test_status(place: Path, peer: RemotePeer) -> None:
    where = place / "run"
    address = parse_address(await peer.listen())
    keeping, looking = Recorder(), Recorder()
    async with running(
        start(keeping, place, connect=[address], capability=CAPABILITY, writers=[A])
    ):
        await keeping.heard("connected")
        code = await service.status(looking, name="test", directory=where, is_live=False)
        assert code == Exit.DONE
        (line,) = looking.lines
        fields: Any = line.fields
        assert json.loads(json.dumps(fields)) == fields
        assert fields["worker_pid"] == keeping.lines[0].fields["worker_pid"]
        assert fields["service"]["topics"][0]["announced"] == 1
        assert fields["problem"] is None
        out = StringIO()
        report = TextReporter(out=out)
        assert not report.can_redraw
        with report.redrawing():
            await service.status(report, name="test", directory=where, is_live=False)
        shown = [row.split() for row in out.getvalue().splitlines()]
        assert ["public", "key", keeping.lines[0].fields["public_key"]] in shown
        assert [TOPIC.hex()[:12], "1", "0", "0", "1"] in shown
        assert [str(address), "open"] in shown
    await until_empty(where)


async def test_status_of_another_worker(place: Path) -> None:
    where = place / "run"
    looking = Recorder()
    async with host_library.join("test", f"{WORKERS}:main", directory=where) as client:
        await service.status(looking, name="test", directory=where, is_live=False)
        (line,) = looking.lines
        assert line.fields["problem"] == "the worker is not the service, but one of an application"
        assert line.fields["worker_pid"] == client.worker_pid
        assert line.fields["service"] is None
        out = StringIO()
        await service.status(TextReporter(out=out), name="test", directory=where, is_live=False)
        assert "problem  the worker is not the service" in out.getvalue()
    await until_empty(where)


async def test_status_that_is_shown_on_and_on(place: Path) -> None:
    looking = Recorder()
    body = service.status(looking, name="test", directory=place, is_live=True)
    async with (
        host_library.join("test", f"{WORKERS}:main", directory=place) as client,
        running(body) as task,
    ):
        coordinator = (await looking.heard("status")).fields["coordinator_pid"]
        assert isinstance(coordinator, int)
        os.kill(coordinator, signal.SIGKILL)
        again = await looking.heard("status", 2)
        assert again.fields["coordinator_pid"] != coordinator
        await client.leave()
        with pytest.raises(Failure, match="is not running") as caught:
            await asyncio.wait_for(task, LIMIT)
        assert caught.value.code == Exit.NOT_RUNNING
    await until_empty(place)


async def test_a_host_that_has_just_ended_is_not_running(place: Path) -> None:
    async with (
        host_library.join("test", f"{WORKERS}:main", directory=place) as client,
        host_library.visit("test", directory=place) as visitor,
    ):
        await client.leave()
        while (await visitor.known()).clients:
            pass
        for is_live in (True, False):
            with pytest.raises(Failure, match="is not running") as caught:
                await service.status(Recorder(), name="test", directory=place, is_live=is_live)
            assert caught.value.code == Exit.NOT_RUNNING
    await until_empty(place)


async def test_keepers_that_do_not_leave(place: Path) -> None:
    async with host_library.join("test", is_keeper=True, directory=place, state=place / "state"):
        with pytest.raises(Failure, match=r"host start did not leave within 0\.1 s"):
            await service.stop(Recorder(), name="test", directory=place, within=0.1)
    shutil.rmtree(place / "state")
    await until_empty(place)


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_where_no_host_runs(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    where = ["--directory", str(place)]
    assert main(["host", "status", *where]) == 5
    assert capsys.readouterr() == ("", "error: the host 'default' is not running\n")
    assert main(["host", "status", "--name", "x", "--follow", "--json", *where]) == 5
    (error,) = lines(capsys.readouterr().err)
    assert (error["message"], error["exit_code"]) == ("the host 'x' is not running", 5)
    assert main(["host", "stop", *where]) == 0
    assert capsys.readouterr().out.split() == ["host", "not", "running", "default"]
    assert os.listdir(place) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--name", ".."], "the first of them a letter or digit, got '..'"),
        (["--directory", "/tmp/" + "x" * 99], "expected a socket path of at most 103 bytes"),
    ],
)
@pytest.mark.parametrize(
    "command", [["host", "start"], ["host", "status"], ["host", "stop"], ["watch"]]
)
def test_a_host_that_cannot_be(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
    options: list[str],
    message: str,
) -> None:
    monkeypatch.setenv(CAPABILITY_VARIABLE, CAPABILITY.hex())
    assert main([*command, *options]) == 2
    assert message in capsys.readouterr().err


def test_keys_that_are_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(CAPABILITY_VARIABLE, raising=False)
    for command in (["watch"], ["host", "start", "--announce", "ab" * 32 + ":1"]):
        assert main(command) == 2
        assert "expected a capability: give --capability-file" in capsys.readouterr().err
