"""Commands that run when a peer has news, as users and scripts have them run."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from protomux.crypto import discovery_key
from protomux_wakeup.cli.keys import write_secret

from ..host.backends import journal
from ..host.local import RemotePeer
from ..host.members import is_running, until_empty
from .command import Command, Event, started
from .recorder import LIMIT

pytestmark = pytest.mark.usefixtures("measured")

CAPABILITY = b"\x05" * 32
TOPIC = discovery_key(CAPABILITY).hex()
COPY = 'cat > "$OUT"; echo done'


def key(number: int) -> bytes:
    return number.to_bytes(32)


class Runner:
    """What has commands run."""

    def __init__(self, place: Path) -> None:
        self.runtime = place / "run"
        self.state = place / "state"
        self.out = place / "out"
        self.secret = place / "capability"
        self.address = ""
        write_secret(self.secret, CAPABILITY, replace=False)

    def on(
        self,
        *command: str,
        options: tuple[str, ...] = (),
        capability: str = "",
        env: Mapping[str, str] | None = None,
    ) -> AbstractAsyncContextManager[Command]:
        """Have `command` run when the peer has news."""
        return started(
            "on",
            capability or str(self.secret),
            *("--json", "--idle", "1", "--connect", self.address),
            *("--directory", str(self.runtime), "--state", str(self.state)),
            *options,
            "--",
            *command,
            env={"OUT": str(self.out), **(env or {})},
        )

    def journal(self, *options: str, work: float = 0) -> AbstractAsyncContextManager[Command]:
        """Have the journal written."""
        command = (sys.executable, "-S", journal.__file__, str(self.out), str(work))
        return self.on(*command, options=options)

    @property
    def manager(self) -> int:
        """The pid of the manager."""
        return int((self.runtime / "default.backends/worker.lock").read_text().split()[1])

    @property
    def lines(self) -> list[list[str]]:
        """What the journal says."""
        return [line.split() for line in self.out.read_text().splitlines()]

    async def look(self, *arguments: str, code: int = 0) -> Event:
        """Return what another command prints in one line."""
        form = ("--json", "--directory", str(self.runtime))
        async with started(*arguments, *form) as command:
            out, err = await command.ends(code)
            found: Event = json.loads(out or err)
            return found

    async def is_left(self) -> None:
        """Wait until nothing is left."""
        await until_empty(self.runtime)


@pytest.fixture
async def peer() -> AsyncIterator[RemotePeer]:
    peer = RemotePeer(CAPABILITY)
    yield peer
    await peer.close()


@pytest.fixture
async def runner(peer: RemotePeer) -> AsyncIterator[Runner]:
    place = Path(tempfile.mkdtemp(prefix="pw-", dir="/tmp"))
    runner = Runner(place)
    runner.address = await peer.listen()
    yield runner
    shutil.rmtree(place)


async def state(command: Command, status: str) -> dict[str, Any]:
    """Return the next event of a backend that is in that state."""
    while True:
        found = await command.until("backend")
        assert found["topic"] == TOPIC
        if found["state"]["status"] == status:
            return found


async def watching(command: Command, peer: RemotePeer) -> Event:
    found = await command.until("watching")
    async with asyncio.timeout(LIMIT):
        await peer.came.get()
    return found


async def test_a_command_runs_once_for_what_is_new(runner: Runner, peer: RemotePeer) -> None:
    async with runner.on("sh", "-c", COPY) as on:
        assert (await watching(on, peer))["topic"] == TOPIC
        assert (await runner.look("backends", "--all"))["backends"] == []  # nothing ran before
        peer.announce((key(1), 17))
        ended = await state(on, "terminated")
        assert ended["state"].keys() == {"status", "time", "exit_error"}
        assert ended["state"]["exit_error"] is False
        assert runner.out.read_text() == f"hint {TOPIC} {key(1).hex()} 17\n"
        peer.announce((key(1), 17))
        peer.announce((key(1), 3))
        peer.announce((key(2), 1))  # so those before came to nothing
        second = await state(on, "terminated")
        assert runner.out.read_text() == f"hint {TOPIC} {key(2).hex()} 1\n"
        peer.announce((key(1), 18))
        third = await state(on, "terminated")
        assert runner.out.read_text() == f"hint {TOPIC} {key(1).hex()} 18\n"
        ids = [each["backend_id"] for each in (ended, second, third)]
        found = (await runner.look("backends", "--all"))["backends"]
        assert [each["backend_id"] for each in found] == ids
        assert [each["status"] for each in found[0]["states"]] == [
            *("scheduled", "starting", "waiting", "ready", "terminated")
        ]
        assert (await runner.look("backends"))["backends"] == []
        assert (await runner.look("logs", ids[0]))["log"] == "done\n"
        on.signal(signal.SIGINT)
        await on.ends(130)
    await runner.is_left()


async def test_a_burst_starts_one(runner: Runner, peer: RemotePeer) -> None:
    async with runner.journal("--idle", "4") as on:
        await watching(on, peer)
        for number in range(1000):
            peer.announce((key(number % 100), 1 + number // 100))
            if number % 50 == 0:
                await asyncio.sleep(0)
        await state(on, "terminated")
        on.signal(signal.SIGINT)
        await on.ends(130)
    lines = runner.lines
    assert [words[0] for words in lines if words[0] != "hint"] == ["start", "end"]
    newest = {words[1]: words[2] for words in lines if words[0] == "hint"}
    assert newest == {key(number).hex(): "10" for number in range(100)}


async def test_what_was_not_acknowledged_comes_again(runner: Runner, peer: RemotePeer) -> None:
    script = 'read -r line; echo "$line" >> "$OUT"; test "$(wc -l < "$OUT")" -ge 3'
    async with runner.on("sh", "-c", script) as on:
        await watching(on, peer)
        peer.announce((key(1), 5))
        ends = [(await state(on, "terminated"))["state"]["exit_error"] for _ in range(3)]
        assert ends == [True, True, False]
        assert runner.out.read_text() == f"hint {TOPIC} {key(1).hex()} 5\n" * 3
        on.signal(signal.SIGINT)
        await on.ends(130)
    async with runner.on("sh", "-c", COPY) as on:  # another manager knows what was acknowledged
        await watching(on, peer)
        peer.announce((key(2), 1))
        await state(on, "terminated")
        assert runner.out.read_text() == f"hint {TOPIC} {key(2).hex()} 1\n"
        on.signal(signal.SIGINT)
        await on.ends(130)


async def test_ctrl_c_ends_what_runs(runner: Runner, peer: RemotePeer) -> None:
    script = 'echo "$$" > "$OUT"; trap "exit 0" TERM; read -r line; sleep 1000 & wait'
    async with runner.on("sh", "-c", script) as on:
        await watching(on, peer)
        peer.announce((key(1), 5))
        await state(on, "ready")
        shown = (await runner.look("backends"))["backends"]
        assert [each["state"]["status"] for each in shown] == ["ready"]
        on.signal(signal.SIGINT)
        out, _ = await on.ends(130)
    states = [json.loads(line) for line in out.splitlines()]
    assert [each["state"]["status"] for each in states if each["event"] == "backend"] == [
        *("terminating", "terminated")
    ]
    assert not is_running(int(runner.out.read_text()))
    await runner.is_left()


async def test_terminate(runner: Runner, peer: RemotePeer) -> None:
    script = "trap '' TERM; cat > /dev/null; sleep 1000"
    async with runner.on("sh", "-c", script) as on:
        await watching(on, peer)
        peer.announce((key(1), 5))
        backend_id = (await state(on, "ready"))["backend_id"]
        ended = await runner.look("terminate", backend_id[:8], "--hard")
        assert ended["backend_id"] == backend_id
        del ended["state"]["time"]
        assert ended["state"] == {
            "status": "terminated",
            "termination_reason": "external",
            "termination_kind": "hard",
            "exit_error": True,
        }
        wrong = await runner.look("terminate", "zz", code=2)
        assert "'zz'" in wrong["message"]
        on.signal(signal.SIGINT)
        await on.ends(130)


async def test_two_share_a_command(runner: Runner, peer: RemotePeer) -> None:
    async with runner.journal() as first, runner.journal() as second:
        await watching(first, peer)
        await second.until("connected")
        async with runner.on("true") as other:
            _, err = await other.ends(1)
            assert "another process" in json.loads(err.splitlines()[-1])["message"]
        first.signal(signal.SIGINT)  # it leads
        await first.ends(130)
        peer.announce((key(1), 1))
        await state(second, "terminated")
        second.signal(signal.SIGINT)
        await second.ends(130)
    assert [words[0] for words in runner.lines] == ["start", "hint", "end"]
    await runner.is_left()


async def test_nobody_has_anything_run(runner: Runner) -> None:
    for arguments in (("backends",), ("logs", "a"), ("terminate", "a")):
        found = await runner.look(*arguments, code=5)
        assert found["exit_code"] == 5


async def test_what_cannot_be_run(runner: Runner, peer: RemotePeer) -> None:
    async with runner.on("./nothing of the kind") as on:
        _, err = await on.ends(2)
        assert "'./nothing of the kind'" in err
    async with runner.on("true", options=("--control", "localhost")) as on:
        _, err = await on.ends(2)
        assert "expected HOST:PORT" in err
    for seconds in ("0", "2147483648"):
        async with runner.on("true", options=("--idle", seconds)) as on:
            _, err = await on.ends(2)
            assert f"{seconds} is not in the range 1<=x<=2147483647" in err


async def test_names_and_listeners_that_cannot_be(runner: Runner, peer: RemotePeer) -> None:
    async with runner.on("true", options=("--name", "n" * 24)) as on:
        _, err = await on.ends(2)
        assert "at most 23 characters, for a host with backends" in err
    async with runner.on("true", options=("--control", "203.0.113.7:80")) as on:
        _, err = await on.ends(1)  # and no traceback of the manager's
        assert "cannot listen on 203.0.113.7:80: Cannot assign requested address" in err


async def test_who_comes_second_is_told_where_the_page_is(runner: Runner, peer: RemotePeer) -> None:
    async with runner.on("true") as first:
        page = (await watching(first, peer))["page"]
        async with runner.on("true", options=("--control", "127.0.0.1:1")) as second:
            assert (await second.until("watching"))["page"] == page
            second.signal(signal.SIGINT)
            _, err = await second.ends(130)
            assert json.loads(err)["message"].startswith("--control is 127.0.0.1:")
        first.signal(signal.SIGINT)
        await first.ends(130)


async def test_what_is_not_unicode_is_left_out_or_refused(runner: Runner, peer: RemotePeer) -> None:
    async with runner.on(os.fsdecode(b"\xff")) as on:
        _, err = await on.ends(2)
        assert r"'\udcff'" in json.loads(err)["message"]
    odd = {"ODD": os.fsdecode(b"\xff"), "EVEN": "\u00e9"}
    async with runner.on("sh", "-c", 'env > "$OUT"', env=odd) as on:
        await watching(on, peer)
        peer.announce((key(1), 1))
        await state(on, "terminated")
        on.signal(signal.SIGINT)
        _, err = await on.ends(130)
    assert "'ODD'" in json.loads(err)["message"]
    lines = runner.out.read_text().splitlines()
    assert "EVEN=\u00e9" in lines
    assert not [line for line in lines if line.startswith("ODD=")]


async def test_a_topic_that_fails_holds_no_other(runner: Runner, peer: RemotePeer) -> None:
    other = RemotePeer(b"\x06" * 32)
    async with runner.on("sh", "-c", "exit 1") as failing:
        await watching(failing, peer)
        peer.announce(*((key(number), 1) for number in range(3000)))
        await state(failing, "terminated")
        options = ("--connect", await other.listen())
        capability = (b"\x06" * 32).hex()
        async with runner.on("sh", "-c", COPY, options=options, capability=capability) as on:
            await watching(on, other)
            other.announce((key(1), 7))
            while (await on.until("backend"))["state"]["status"] != "terminated":
                pass
            assert runner.out.read_text().endswith(f" {key(1).hex()} 7\n")
            on.signal(signal.SIGINT)
            await on.ends(130)
        failing.signal(signal.SIGINT)
        await failing.ends(130)
    await other.close()


async def test_who_leaves_while_the_manager_is_replaced_leaves_nothing(
    runner: Runner, peer: RemotePeer
) -> None:
    async with runner.on("sh", "-c", 'echo $$ > "$OUT"; exec sleep 1000') as on:
        await watching(on, peer)
        peer.announce((key(1), 1))
        await state(on, "ready")
        while not (runner.out.exists() and runner.out.read_text()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        pid = int(runner.out.read_text())
        manager = runner.manager
        os.kill(manager, signal.SIGKILL)
        on.signal(signal.SIGINT)
        await on.ends(130)
    assert not is_running(pid)
    await runner.is_left()


async def test_the_manager_has_many_descriptors_and_a_command_has_its_own(
    runner: Runner, peer: RemotePeer
) -> None:
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, most))
    try:
        async with runner.on("sh", "-c", 'ulimit -Sn > "$OUT"') as on:
            await watching(on, peer)
            peer.announce((key(1), 1))
            await state(on, "terminated")
            assert runner.out.read_text() == "300\n"
            manager = runner.manager
            assert resource.prlimit(manager, resource.RLIMIT_NOFILE)[0] == min(32_768, most)
            on.signal(signal.SIGINT)
            await on.ends(130)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


async def test_a_short_command_is_started_again_at_once(runner: Runner, peer: RemotePeer) -> None:
    async with runner.on("true") as on:
        await watching(on, peer)
        for length in range(1, 8):  # with a delay that doubles it would take a minute
            peer.announce((key(1), length))
            await state(on, "terminated")
        on.signal(signal.SIGINT)
        await on.ends(130)


async def test_a_capability_on_the_command_line_is_seen_by_others(
    runner: Runner, peer: RemotePeer
) -> None:
    async with runner.on("true", capability=CAPABILITY.hex()) as on:
        assert (await on.until("watching"))["topic"] == TOPIC
        on.signal(signal.SIGINT)
        _, err = await on.ends(130)
    assert "others can read" in json.loads(err.splitlines()[0])["message"]
    assert CAPABILITY.hex() not in err


async def test_a_command_outlives_its_manager(runner: Runner, peer: RemotePeer) -> None:
    async with runner.journal("--idle", "6") as on:
        await watching(on, peer)
        peer.announce((key(1), 1))
        await state(on, "ready")
        manager = runner.manager
        os.kill(manager, signal.SIGKILL)
        peer.announce((key(2), 2))
        await state(on, "terminated")
        on.signal(signal.SIGINT)
        await on.ends(130)
    lines = runner.lines
    assert [words[0] for words in lines if words[0] != "hint"] == ["start", "end"]
    assert [words[1:] for words in lines if words[0] == "hint"] == [
        [key(1).hex(), "1"],
        [key(2).hex(), "2"],
    ]
