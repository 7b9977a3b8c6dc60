"""Runs every example as a reader does: as processes that talk over TCP. Watches what they print."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import signal
import sqlite3
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol, TypeVar

import pytest

from protomux import crypto
from protomux.streams import start_server
from protomux_wakeup import Wakeup
from tests.interop.harness import missing

ROOT: Final = Path(__file__).parent.parent
EXAMPLES: Final = ROOT / "examples"
NODE_MODULES: Final = ROOT / "tests" / "interop" / "node_modules"
PYTHON_LOG: Final = b"python".ljust(32, b"\x00")
LIMIT: Final = 30.0
"""Seconds to wait for a line or for an end. Only what hangs needs so many."""

Test = TypeVar("Test", bound=Callable[..., Awaitable[None]])

_run_by_tests: Final[dict[str, set[str]]] = {}


def runs(*names: str) -> Callable[[Test], Test]:
    """Say of a test which examples it runs; it can start no others, and has to start these."""

    def decorate(test: Test) -> Test:
        _run_by_tests[test.__name__] = set(names)
        return test

    return decorate


class Running:
    """An example that runs."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self._name = name
        self._said: list[str] = []

    async def says(self, pattern: str) -> re.Match[str]:
        """Wait for a line of its output that matches; those before it are passed over."""
        assert self.process.stdout is not None
        async with asyncio.timeout(LIMIT):
            while line := (await self.process.stdout.readline()).decode():
                self._said.append(line)
                match = re.fullmatch(pattern, line.rstrip("\n"))
                if match is not None:
                    return match
        raise AssertionError(f"{self._name} ended without {pattern!r}: {await self._rest()}")

    def hears(self, text: str) -> None:
        """Write to its input."""
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())

    def hears_the_end(self) -> None:
        """Close its input."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    async def ends(self, code: int = 0, complaint: str = "") -> None:
        """Wait until it ends; all that it says on stderr must be `complaint`."""
        async with asyncio.timeout(LIMIT):
            said, complained = await self.process.communicate()
        self._said.append(said.decode())
        story = f"{self._name} said:\n{''.join(self._said)}\n{complained.decode()}"
        assert re.fullmatch(complaint, complained.decode()), story
        assert self.process.returncode == code, story

    async def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """Press Ctrl-C, or send another signal; it must end in order."""
        self.process.send_signal(number)
        await self.ends()

    async def kill(self) -> None:
        """Leave nothing behind, whatever happened."""
        if self.process.returncode is None:
            self.process.kill()
            await self.process.communicate()

    async def _rest(self) -> str:
        said, complained = await self.process.communicate()
        return "".join([*self._said, said.decode(), complained.decode()])


class Start(Protocol):
    """Starts an example: its file name, its arguments, more of its environment.

    It may be another program that starts it, when it is the time.
    """

    async def __call__(
        self,
        name: str,
        *arguments: str,
        environment: Mapping[str, str | None] = {},
        through: Sequence[str] = (),
    ) -> Running: ...


@pytest.fixture
async def start(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Start]:
    """Give the way to start examples that share a capability, and end those that still run."""
    expected = _run_by_tests[request.node.originalname]
    capability = secrets.token_hex(32)
    all_running: list[Running] = []
    started = set()

    async def start(
        name: str,
        *arguments: str,
        environment: Mapping[str, str | None] = {},
        through: Sequence[str] = (),
    ) -> Running:
        assert name in expected
        started.add(name)
        if name.endswith(".mjs"):
            command = ["node", str(tmp_path / name)]
            # As after `npm install` in the folder of the example.
            shutil.copy(EXAMPLES / name, tmp_path)
            (tmp_path / "node_modules").symlink_to(NODE_MODULES)
        else:
            command = [sys.executable, "-W", "default::ResourceWarning", str(EXAMPLES / name)]
        variables: dict[str, str | None] = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "WAKEUP_CAPABILITY": capability,
            **environment,
        }
        process = await asyncio.create_subprocess_exec(
            *through,
            *command,
            *arguments,
            cwd=tmp_path,
            env={key: value for key, value in variables.items() if value is not None},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        running = Running(name, process)
        all_running.append(running)
        return running

    yield start
    for running in all_running:
        await running.kill()
    assert started == expected


@pytest.fixture
def node() -> None:
    """Skip without Node and the originals; INTEROP=required makes that a failure."""
    reason = missing()
    if reason is not None:
        if os.environ.get("INTEROP") == "required":
            pytest.fail(reason)
        pytest.skip(reason)


def test_each_example_is_run_by_a_test() -> None:
    files = {path.name for path in EXAMPLES.iterdir() if path.is_file()}
    assert set().union(*_run_by_tests.values()) == files


@runs("embed.py")
async def test_a_service_and_its_clients(start: Start) -> None:
    server = await start("embed.py", "server", "--identity", "server.seed")
    port, server_key = (
        await server.says(r"listening on port (\d+), server key ([0-9a-f]{64})")
    ).groups()
    client = ("client", "--port", port, "--server-key", server_key)

    first = await start("embed.py", *client)
    first_key = (await server.says(r"arrived ([0-9a-f]{64})"))[1]
    await server.says(f"grown {first_key} 1")
    await first.says(f"arrived {server_key}")
    await first.says(f"grown {server_key} 1")

    second = await start("embed.py", *client)
    second_key = (await server.says(r"arrived ([0-9a-f]{64})"))[1]
    assert second_key != first_key
    await first.says(f"grown {server_key} 2")  # told unasked
    await second.says(f"arrived {server_key}")
    await second.says(f"grown {first_key} 1")  # told because it asked

    await first.stop(signal.SIGTERM)
    await server.says(f"left {first_key}")
    await server.stop()
    await second.says(f"left {server_key}")
    await second.ends()


@runs("embed.py")
async def test_identity_and_capability_are_kept_in_files(start: Start, tmp_path: Path) -> None:
    (tmp_path / "capability").write_text(secrets.token_hex(32) + "\n")
    environment = {"WAKEUP_CAPABILITY": None, "WAKEUP_CAPABILITY_FILE": "capability"}
    keys = set()
    for _ in range(2):
        server = await start(
            "embed.py", "server", "--identity", "server.seed", environment=environment
        )
        keys.add((await server.says(r"listening on port \d+, server key ([0-9a-f]{64})"))[1])
        await server.stop()
    assert len(keys) == 1
    assert (tmp_path / "server.seed").stat().st_mode & 0o777 == 0o600


@runs("embed.py")
async def test_a_service_without_a_capability_says_what_it_needs(start: Start) -> None:
    server = await start("embed.py", "server", environment={"WAKEUP_CAPABILITY": None})
    await server.ends(1, r"set WAKEUP_CAPABILITY or WAKEUP_CAPABILITY_FILE: 64 hex digits\n")


def blocks(path: Path) -> list[tuple[bytes, int, bytes]]:
    """Return all that is in the file of a writer or of a replica."""
    with sqlite3.connect(path) as database:
        found = database.execute("SELECT log, seq, data FROM block ORDER BY log, seq").fetchall()
    database.close()
    return found


@runs("sleeping_replica.py")
async def test_a_replica_sleeps_until_it_is_woken(start: Start, tmp_path: Path) -> None:
    writer = await start("sleeping_replica.py", "write", "writer.db", "0")
    port = (await writer.says(r"writing on port (\d+)"))[1]
    replicate = ("sleeping_replica.py", "replicate", "replica.db", port)

    replica = await start(*replicate)
    await replica.says("the writer is there, asking what is new")
    await replica.says("nothing new, asleep")

    for number in range(2):  # being busy made it inactive, but not for good
        writer.hears("diary Dear diary!\n")
        await replica.says("awake, logs to fetch from: 1")
        await replica.says(rf"fetched blocks {number} to {number} of [0-9a-f]{{8}}")
        await replica.says("nothing new, asleep")
    assert blocks(tmp_path / "replica.db") == blocks(tmp_path / "writer.db")

    await replica.stop()
    writer.hears("".join(f"diary Day {number}\n" for number in range(1000)))
    writer.hears("news Something happened\n")
    replica = await start(*replicate)
    while len(blocks(tmp_path / "replica.db")) < 1003:
        await replica.says("nothing new, asleep")
    await replica.stop()
    found = blocks(tmp_path / "replica.db")
    assert found == blocks(tmp_path / "writer.db")
    assert {data for _, _, data in found} == {
        b"Dear diary!",
        b"Something happened",
        *(b"Day %d" % number for number in range(1000)),
    }

    replica = await start(*replicate)
    await replica.says("nothing new, asleep")
    await writer.stop(signal.SIGTERM)
    await replica.says("the writer is gone: it has closed")
    await replica.ends()


@runs("node_peer.mjs", "talk_to_node.py")
@pytest.mark.usefixtures("node")
async def test_python_and_node_ask_each_other(start: Start) -> None:
    node = await start("node_peer.mjs", "0")
    port = (await node.says(r"listening on port (\d+)"))[1]
    for _ in range(2):  # it outlives its peers
        python = await start("talk_to_node.py", port)
        await python.says("the peer has proved the capability")
        await python.says("asked, hash None")
        await python.says(f"told {b'node'.hex() * 8} 10")
        await python.says("understood each other")
        await python.ends()
        await node.says("a peer has proved the capability")
        await node.says(f"asked, hash {crypto.hash(PYTHON_LOG).hex()}")
        await node.says(f"told {PYTHON_LOG.hex()} 5")
        await node.says("the peer has left")
    stranger = {"WAKEUP_CAPABILITY": "00" * 32}
    python = await start("talk_to_node.py", port, environment=stranger)
    await python.ends(1, r"no answer: .*\n")
    await node.stop()


@runs("node_peer.mjs", "embed.py")
@pytest.mark.usefixtures("node")
async def test_a_service_is_the_client_of_node(start: Start) -> None:
    node = await start("node_peer.mjs", "0")
    port = (await node.says(r"listening on port (\d+)"))[1]
    client = await start("embed.py", "client", "--port", port)
    node_key = (await client.says(r"arrived ([0-9a-f]{64})"))[1]
    await client.says(f"grown {b'node'.hex() * 8} 10")
    await node.says(r"told [0-9a-f]{64} 1")
    await node.stop()
    await client.says(f"left {node_key}")
    await client.ends()


@runs("talk_to_node.py")
async def test_one_who_waits_for_a_peer_can_be_stopped(start: Start) -> None:
    called = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        called.set()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(say_nothing, "127.0.0.1") as server:
        python = await start("talk_to_node.py", str(server.sockets[0].getsockname()[1]))
        async with asyncio.timeout(LIMIT):
            await called.wait()
        await python.stop()


@runs("counter_worker.py")
async def test_a_counter_outlives_the_process_that_led(start: Start) -> None:
    with tempfile.TemporaryDirectory(prefix="pw-", dir="/tmp") as place:
        environment = {"TMPDIR": place, "XDG_RUNTIME_DIR": None}
        first = await start("counter_worker.py", environment=environment)
        worker = (await first.says(r"the worker is (\d+) - leading"))[1]
        second = await start("counter_worker.py", environment=environment)
        await second.says(rf"the worker is {worker} ")
        first.hears("\n")
        await first.says("1")
        second.hears("\n")
        await second.says("2")
        await first.kill()
        next_worker = (await second.says(r"the worker is (\d+)"))[1]
        assert next_worker != worker
        second.hears("\n")
        await second.says("3")
        second.hears_the_end()
        await second.ends()
        assert (Path(place) / "counter.count").read_text() == "3"
        async with asyncio.timeout(LIMIT):
            while os.listdir(Path(place) / f"protomux-wakeup-{os.geteuid()}"):  # noqa: ASYNC110 - no event tells it
                await asyncio.sleep(0.02)


@runs("on_news.py")
async def test_a_command_takes_note_of_news(start: Start) -> None:
    capability = secrets.token_bytes(32)
    wakeup = Wakeup()
    met = asyncio.Event()
    session = wakeup.session(capability, on_peer_add=lambda _peer, _session: met.set())
    server = await start_server(wakeup.add_stream, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="pw-", dir="/tmp") as place:
        out = Path(place) / "out"
        running = await start(
            "on_news.py",
            str(out),
            environment={"PROTOMUX_WAKEUP_CAPABILITY": capability.hex()},
            through=(
                *(sys.executable, "-m", "protomux_wakeup", "on", "-", "--idle", "1"),
                *("--connect", f"127.0.0.1:{port}", "--state", f"{place}/state"),
                *("--directory", f"{place}/run", "--"),
            ),
        )
        async with asyncio.timeout(LIMIT):
            await met.wait()
        session.broadcast_announce([(PYTHON_LOG, 3)])
        await running.says(r"[0-9:]{8} +backend +[0-9a-f]{8} terminated")
        assert out.read_text() == f"log {PYTHON_LOG.hex()[:8]} has 3 blocks\n"
        running.process.send_signal(signal.SIGINT)
        await running.ends(130)
    server.close()
    await server.wait_closed()
    wakeup.destroy()
