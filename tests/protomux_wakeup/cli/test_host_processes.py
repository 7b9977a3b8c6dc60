"""The commands for hosts as users and scripts run them: processes, signals, terminals."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from protomux.crypto import discovery_key
from protomux_wakeup.cli.keys import CAPABILITY_VARIABLE

from ..host.local import RemotePeer
from ..host.members import is_running, until_empty
from .command import Command, Event, started
from .recorder import LIMIT

CAPABILITY = b"\x01" * 32
TOPIC = discovery_key(CAPABILITY).hex()
ENVIRONMENT = {CAPABILITY_VARIABLE: CAPABILITY.hex()}


def key(number: int) -> bytes:
    return bytes([number]) * 32


class Host:
    """A host that the command joins."""

    def __init__(self, place: Path) -> None:
        self.runtime = place / "run"
        self.state = place / "state"

    def command(
        self, *arguments: str, stdout: int = asyncio.subprocess.PIPE, terminal: bool = False
    ) -> AbstractAsyncContextManager[Command]:
        """Start a command that looks at the host; with --json, unless on a `terminal`."""
        form = () if terminal else ("--json",)
        env = {**ENVIRONMENT, "TERM": "xterm-256color", "COLUMNS": "100"}
        return started(*arguments, "--directory", str(self.runtime), *form, env=env, stdout=stdout)

    def joining(
        self, *arguments: str, stdout: int = asyncio.subprocess.PIPE
    ) -> AbstractAsyncContextManager[Command]:
        """Start a command that joins the host."""
        return self.command(*arguments, "--state", str(self.state), stdout=stdout)

    async def is_left(self) -> None:
        """Wait until nothing is left."""
        await until_empty(self.runtime)


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    place = Path(tempfile.mkdtemp(prefix="pw-", dir="/tmp"))
    yield Host(place)
    shutil.rmtree(place)


@pytest.fixture
async def peer() -> AsyncIterator[RemotePeer]:
    peer = RemotePeer(CAPABILITY)
    yield peer
    await peer.close()


async def hint(watcher: Command) -> tuple[bytes, int]:
    event = await watcher.until("hint")
    assert event["topic"] == TOPIC
    return bytes.fromhex(event["key"]), event["length"]


async def test_start_status_watch_and_stop(host: Host, peer: RemotePeer) -> None:
    async with host.joining("host", "start", "--listen", "127.0.0.1:0") as keeper:
        joined = await keeper.until("joined")
        assert joined["is_leader"]
        address = (await keeper.until("listening"))["address"]
        async with host.joining("watch") as watcher:
            assert not (await watcher.until("joined"))["is_leader"]
            assert (await watcher.until("watching"))["topic"] == TOPIC
            await peer.connect(address)
            await peer.came.get()
            peer.announce((key(1), 17))
            assert await hint(watcher) == (key(1), 17)
            async with host.command("host", "status") as status:
                found = await status.until("status")
                await status.ends(0)
            assert found["leader_id"] == joined["leader_id"]
            assert found["worker_pid"] == joined["worker_pid"]
            assert [
                (each["program"], each["is_leader"], each["is_keeper"]) for each in found["clients"]
            ] == [("protomux_wakeup", True, True), ("protomux_wakeup", False, False)]
            service = found["service"]
            assert service["public_key"] == joined["public_key"]
            assert [(each["topic"], each["hints"]) for each in service["topics"]] == [(TOPIC, 1)]
            assert len(service["peers"]) == 1
            assert service["listening"] == [address]
            watcher.signal(signal.SIGTERM)
            await watcher.ends(143)
        async with host.command("host", "stop") as stop:
            stopped = await stop.until("host_stopped")
            assert (stopped["left"], stopped["clients"]) == (1, [])
            assert await stop.ends(0) == ("", "")
        await keeper.until("asked_to_leave")
        assert await keeper.ends(0) == ("", "")
    assert not is_running(joined["worker_pid"])
    await host.is_left()


async def test_what_a_killed_watcher_missed_comes_once(host: Host, peer: RemotePeer) -> None:
    address = await peer.listen()
    async with host.joining("host", "start", "--connect", address) as keeper:
        await keeper.until("connected")
        async with host.joining("watch", "--as", "bot") as watcher:
            await watcher.until("watching")
            await peer.came.get()
            peer.announce((key(1), 1))
            assert await hint(watcher) == (key(1), 1)
            peer.announce((key(2), 2))
            assert await hint(watcher) == (key(2), 2)  # so the first is acknowledged
            watcher.signal(signal.SIGKILL)
            await watcher.rest()
        peer.announce((key(3), 3), (key(1), 4))
        async with host.joining("watch", "--as", "another", "--count", "3") as other:
            assert {await hint(other) for _ in range(3)} == {(key(1), 4), (key(2), 2), (key(3), 3)}
            await other.ends(0)
        async with host.joining("watch", "--as", "bot") as watcher:
            seen = {await hint(watcher)}
            if (key(2), 2) in seen:  # which may have been acknowledged or not
                seen = {await hint(watcher)}
            seen.add(await hint(watcher))
            assert seen == {(key(1), 4), (key(3), 3)}
            peer.announce((key(4), 1))
            assert await hint(watcher) == (key(4), 1)
            watcher.signal(signal.SIGINT)
            await watcher.ends(130)
        async with host.joining("watch", "--as", "bot", "--count", "1") as watcher:
            peer.announce((key(5), 1))
            seen = {await hint(watcher)}
            assert seen <= {(key(4), 1), (key(5), 1)}
            await watcher.ends(0)
        keeper.signal(signal.SIGTERM)
        await keeper.ends(143)
    await host.is_left()


async def test_who_leads_hands_over_at_ctrl_c(host: Host, peer: RemotePeer) -> None:
    address = await peer.listen()
    async with host.joining("host", "start") as first:
        joined = await first.until("joined")
        async with host.joining("watch", "--connect", address) as watcher:
            await watcher.until("connected")
            await peer.came.get()
            first.signal(signal.SIGINT)
            changed = await watcher.until("leader_changed")
            assert changed["is_leader"]
            assert changed["worker_pid"] != joined["worker_pid"]
            assert changed["leader_id"] != joined["leader_id"]
            await first.until("stopped")
            assert await first.ends(130) == ("", "")
            assert not is_running(joined["worker_pid"])
            await peer.came.get()
            peer.announce((key(1), 1))
            assert await hint(watcher) == (key(1), 1)
            watcher.signal(signal.SIGINT)
            await watcher.ends(130)
    assert not is_running(changed["worker_pid"])
    await host.is_left()


async def test_stop_leaves_applications_alone(host: Host) -> None:
    async with host.joining("host", "start") as keeper, host.joining("watch") as watcher:
        await keeper.until("joined")
        client = (await watcher.until("joined"))["client_id"]
        async with host.command("host", "stop") as stop:
            found = await stop.until("host_in_use")
            assert found["left"] == 1
            assert [each["client_id"] for each in found["clients"]] == [client]
            await stop.ends(0)
        await keeper.ends(0)
        watcher.signal(signal.SIGINT)
        await watcher.ends(130)
    await host.is_left()


async def test_status_follows_until_the_host_ends(host: Host) -> None:
    async with host.joining("host", "start") as keeper:
        await keeper.until("joined")
        async with host.command("host", "status", "--follow") as status:

            async def clients(number: int) -> Event:
                while True:
                    found = await status.until("status")
                    if len(found["clients"]) == number:
                        return found

            await clients(1)
            async with host.joining("watch", "--as", "bot") as watcher:
                found = await clients(2)
                while not found["service"] or not found["service"]["topics"]:
                    found = await status.until("status")
                assert found["service"]["topics"][0]["topic"] == TOPIC
                os.kill(found["coordinator_pid"], signal.SIGKILL)
                while found["coordinator_pid"] == (again := await clients(2))["coordinator_pid"]:
                    pass
                assert again["worker_pid"] == found["worker_pid"]
                watcher.signal(signal.SIGINT)
                await watcher.ends(130)
            await clients(1)
            keeper.signal(signal.SIGINT)
            await keeper.rest()
            _, err = await status.ends(5)
            assert "the host 'default' is not running" in err
    await host.is_left()


class Terminal:
    """What a command shows on a terminal."""

    def __init__(self) -> None:
        self.controller, self.terminal = pty.openpty()
        self.shown = ""

    async def until(self, what: str) -> str:
        """Return all that was shown since the last call, when `what` has been."""
        async with asyncio.timeout(LIMIT):
            while what not in self.shown:
                more = await asyncio.to_thread(os.read, self.controller, 65536)
                self.shown += re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", more.decode())
        shown, self.shown = self.shown, ""
        return shown

    def close(self) -> None:
        os.close(self.terminal)
        os.close(self.controller)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.close()


async def test_status_on_a_terminal(host: Host, peer: RemotePeer, terminal: Terminal) -> None:
    address = await peer.listen()
    async with host.joining("host", "start", "--connect", address) as keeper:
        joined = await keeper.until("joined")
        await keeper.until("connected")
        arguments = ("host", "status")
        async with host.command(*arguments, terminal=True, stdout=terminal.terminal) as status:
            shown = await terminal.until("open")
            assert f"pid {joined['worker_pid']}" in shown
            assert joined["public_key"] in shown
            assert f"{address}   open" in shown
            async with host.joining("watch", "--as", "bot") as watcher:
                await watcher.until("joined")
                assert "topic" in await terminal.until(TOPIC[:12])
                watcher.signal(signal.SIGINT)
                await watcher.ends(130)
            status.signal(signal.SIGINT)
            await terminal.until("by SIGINT")
            assert (await status.ends(130))[1] == ""
        once = (*arguments, "--once")
        async with host.command(*once, terminal=True, stdout=terminal.terminal) as status:
            assert "protomux_wakeup" in await terminal.until(TOPIC[:12])
            await status.ends(0)
        keeper.signal(signal.SIGINT)
        await keeper.rest()
    await host.is_left()


async def test_what_nobody_reads_is_not_acknowledged(host: Host, peer: RemotePeer) -> None:
    address = await peer.listen()
    reader, writer = os.pipe()
    async with host.joining("host", "start", "--connect", address) as keeper:
        await keeper.until("connected")
        async with host.joining("watch", "--as", "bot", stdout=writer) as watcher:
            os.close(writer)
            shown = b""
            while b"watching" not in shown:
                shown += await asyncio.to_thread(os.read, reader, 65536)
            os.close(reader)
            await peer.came.get()
            peer.announce((key(1), 1))
            assert (await watcher.ends(141))[1] == ""
        async with host.joining("watch", "--as", "bot") as watcher:
            assert await hint(watcher) == (key(1), 1)
            watcher.signal(signal.SIGINT)
            await watcher.rest()
        keeper.signal(signal.SIGINT)
        await keeper.rest()
    await host.is_left()
