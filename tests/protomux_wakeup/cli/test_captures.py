"""Recording, inspecting and replaying as users do it: processes, files, pipes, signals."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from protomux.streams import open_connection
from protomux_wakeup.cli.keys import CAPABILITY_VARIABLE
from tests.raw_peer import RawPeer

from .command import Command, Event, started
from .test_processes import on_terminal

SECRET = "01" * 32
CAPABILITY = {CAPABILITY_VARIABLE: SECRET}
KEY = "ab" * 32
LOOKUP = "0100" + "00"


@asynccontextmanager
async def recording(
    path: Path, *arguments: str, through: Sequence[str] = ()
) -> AsyncIterator[tuple[Command, str]]:
    """Start `serve --record`; yield it and its address."""
    command = ("serve", "--json", "--record", str(path), *arguments)
    async with started(*command, env=CAPABILITY, through=through) as host:
        yield host, (await host.until("listening"))["address"]


async def visit(address: str, *command: str) -> None:
    async with started(command[0], address, *command[1:], env=CAPABILITY) as visitor:
        await visitor.ends(0)


async def stop(host: Command) -> str:
    host.signal(signal.SIGINT)
    return (await host.ends(130))[1]


async def run(*arguments: str, code: int = 0, secret: bool = False) -> tuple[list[Event], str]:
    """Run a command with --json; return its events and its stderr."""
    env = CAPABILITY if secret else {}
    async with started(*arguments, "--json", env=env) as command:
        out, err = await command.ends(code)
    return [json.loads(line) for line in out.splitlines()], err


def parts(event: Event) -> set[str]:
    """Return the names of all parts of an inspected frame."""
    found, waiting = set(), [event["tree"]]
    while waiting:
        node = waiting.pop()
        found.add(node["name"])
        waiting += node.get("children", [])
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "capture"


async def test_a_service_is_recorded_inspected_and_replayed(path: Path) -> None:
    async with recording(path, "--announce", f"{KEY}:17") as (host, address):
        await visit(address, "lookup")
        await host.until("disconnected")
        await visit(address, "announce", "--announce", f"{KEY}:20")
        await host.until("disconnected")
        assert await stop(host) == ""
    mode = await asyncio.to_thread(lambda: stat.S_IMODE(path.stat().st_mode))
    assert mode == 0o600
    data = await asyncio.to_thread(path.read_bytes)
    assert bytes.fromhex(SECRET) not in data

    events, err = await run("inspect", str(path))
    assert err == ""
    frames = [event for event in events if event["event"] == "frame"]
    assert {frame["direction"] for frame in frames} == {"in", "out"}
    assert all(frame["problem"] is None for frame in frames)
    for stream, message in ((1, "lookup"), (2, "announce")):
        own = [frame for frame in frames if frame["stream"] == stream]
        came = set().union(*(parts(frame) for frame in own if frame["direction"] == "in"))
        assert {"open", "handshake", message, "close"} <= came
        assert [event["event"] for event in events if event["stream"] == stream] == [
            "stream_started",
            *["frame"] * len(own),
            "stream_ended",
        ]
    for frame in frames:
        octets = bytes.fromhex(frame["frame"])
        assert data[frame["offset"] : frame["offset"] + len(octets)] == octets

    events, err = await run("replay", str(path), secret=True)
    assert err == ""
    names = [event["event"] for event in events]
    assert names.count("peer_added") == 2
    assert "lookup_received" in names
    told = next(event for event in events if event["event"] == "announce_received")
    assert told["writers"] == [{"key": KEY, "length": 20}]

    events, _ = await run("replay", str(path), "--stream", "1")
    assert [event["event"] for event in events if event["event"].startswith("peer")] == []
    assert "topic_unknown" in [event["event"] for event in events]
    _, err = await run("replay", str(path), "--stream", "3", code=2)
    assert "got 3" in err


async def test_the_capability_may_be_in_a_file(path: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    async with started("keygen", "--capability", "--out", str(secret)) as command:
        await command.ends(0)
    arguments = ("--record", str(path), "--capability-file", str(secret))
    async with started("serve", "--json", *arguments) as host:
        address = (await host.until("listening"))["address"]
        async with started("lookup", address, "--capability-file", str(secret)) as visitor:
            await visitor.ends(0)
        await host.until("disconnected")
        await stop(host)
    events, _ = await run("replay", str(path), "--capability-file", str(secret))
    assert "peer_added" in [event["event"] for event in events]


async def test_a_killed_service_leaves_what_happened(path: Path) -> None:
    async with recording(path, "--announce", f"{KEY}:17") as (host, address):
        await visit(address, "lookup")
        await host.until("disconnected")
        host.signal(signal.SIGKILL)
        await host.rest()
    events, err = await run("inspect", str(path))
    assert (events[-1]["event"], err) == ("stream_ended", "")

    os.truncate(path, os.stat(path).st_size - 3)
    torn, err = await run("inspect", str(path), code=1)
    assert [event["event"] for event in torn] == [event["event"] for event in events[:-1]]
    complaint = json.loads(err)
    assert complaint["offset"] == os.stat(path).st_size
    assert "the last record is cut short" in complaint["message"]
    replayed, err = await run("replay", str(path), code=1, secret=True)
    assert "lookup_received" in [event["event"] for event in replayed]
    assert "cut short" in err


async def test_nothing_is_overwritten(path: Path) -> None:
    await asyncio.to_thread(path.write_text, "mine")
    async with started("serve", "--record", str(path), env=CAPABILITY) as host:
        out, err = await host.ends(1)
    assert out == ""
    assert err == f"error: cannot record to {path}: expected a new file or an empty one\n"
    assert await asyncio.to_thread(path.read_text) == "mine"


async def test_who_could_not_listen_may_try_again(path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        arguments = ("--record", str(path), "--port", port)
        async with started("serve", *arguments, env=CAPABILITY) as host:
            _, err = await host.ends(1)
        assert "cannot listen" in err
    async with recording(path) as (host, _):
        await stop(host)


async def test_a_full_disk_ends_the_recording_and_not_the_service(path: Path) -> None:
    through = ("sh", "-c", 'ulimit -f 1 && exec "$@"', "sh")
    many = [f"{number:064x}:1" for number in range(40)]
    arguments = [argument for log in many for argument in ("--announce", log)]
    async with recording(path, *arguments, through=through) as (host, address):
        for _ in range(2):
            await visit(address, "lookup")
            await host.until("disconnected")
        err = await stop(host)
    (complaint,) = [json.loads(line) for line in err.splitlines()]
    assert complaint["message"] == f"recording to {path} has ended: File too large"
    events, err = await run("inspect", str(path))
    assert err == ""
    assert events[0]["event"] == "stream_started"


async def test_a_stream_that_a_peer_breaks(path: Path) -> None:
    async with recording(path) as (host, address):
        port = int(address.rpartition(":")[2])
        stream = await open_connection("127.0.0.1", port)
        await RawPeer(stream).wait_frames(1)
        stream.write(bytes.fromhex("00000000"))
        gone = await host.until("disconnected")
        assert gone["error"] is not None
        await stream.wait_closed()
        await stop(host)
    events, err = await run("inspect", str(path), code=1)
    assert json.loads(err)["message"] == "1 of 2 frames is wrong"
    wrong = next(event for event in events if event["event"] == "frame" and event["problem"])
    assert wrong["problem"] == {
        "offset": 4,
        "reason": "expected 1 byte of channel, got 0",
    }
    assert events[-1]["error"] == gone["error"]
    events, err = await run("replay", str(path), code=1, secret=True)
    assert gone["error"] in json.loads(err)["message"]
    assert events[-1]["event"] == "stream_ended"


# ---------------------------------------------------------------- files and pipes


async def test_hex_lines_by_a_pipe() -> None:
    async with started("inspect", "-", stdin=PIPE) as command:
        command.write(f"# what came\n> {LOOKUP}\n< 0002fe\n")
        command.close_stdin()
        out, err = await command.ends(1)
    assert out.startswith("frame 1            ──▶ 3 bytes, at byte 14 of the file\n")
    assert "    ! byte 3: expected 4 bytes of channel, got 0\n" in out
    assert err == "error: 1 of 2 frames is wrong\n"
    async with started("replay", "-", stdin=PIPE) as command:
        command.write(f"> ff\n{LOOKUP}\n")
        command.close_stdin()
        out, err = await command.ends(0)
    assert out == "frame received     ◀── 1: type 0, 1 byte\n"


@pytest.mark.parametrize("form", ["hex", "raw", "capture"])
async def test_the_form_can_be_said(path: Path, form: str) -> None:
    await asyncio.to_thread(path.write_bytes, b"0\x00\x00")
    _, err = await run("inspect", str(path), "--format", form, code=1)
    assert f"{form} file, byte " in json.loads(err)["message"]


@pytest.mark.parametrize("command", ["inspect", "replay"])
async def test_a_file_that_is_not_there(path: Path, command: str) -> None:
    _, err = await run(command, str(path), code=2)
    assert json.loads(err)["message"] == f"cannot read {path}: No such file or directory"
    _, err = await run(command, str(path.parent), code=2)
    assert "Is a directory" in err


async def test_ctrl_c_while_it_waits_for_stdin() -> None:
    async with started("inspect", "-", stdin=PIPE) as running:
        running.write(f"{LOOKUP}\n")
        assert await running.line() != ""
        running.signal(signal.SIGINT)
        await running.ends(130)


@pytest.mark.parametrize("command", ["inspect", "replay"])
async def test_a_reader_who_leaves_ends_it_quietly(path: Path, command: str) -> None:
    await asyncio.to_thread(path.write_text, f"{LOOKUP}\n" * 10_000)
    reader, writer = os.pipe()
    async with started(command, str(path), stdout=writer) as running:
        os.close(writer)
        assert b"frame" in await asyncio.to_thread(os.read, reader, 100)
        os.close(reader)
        assert (await running.ends(141))[1] == ""


async def test_a_terminal_gets_colours(path: Path) -> None:
    await asyncio.to_thread(path.write_text, "< 0002fe\n")
    shown = await on_terminal(80, "inspect", str(path))
    assert "\x1b[1;31m! byte 3: expected 4 bytes of channel, got 0\x1b[0m" in shown
    assert "\x1b[33m◀──\x1b[0m" in shown
    assert "\x1b" not in await on_terminal(80, "inspect", str(path), NO_COLOR="1", TERM="dumb")
