"""The command as users and scripts run it: processes, pipes, signals, terminals."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import socket
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

import pytest

from protomux import KeyPair
from protomux_wakeup.cli.keys import CAPABILITY_VARIABLE, KEY_VARIABLE

from .command import Command, environment, started
from .recorder import LIMIT

CAPABILITY = {CAPABILITY_VARIABLE: "01" * 32}
KEY = "ab" * 32
SEED = "02" * 32


@asynccontextmanager
async def serving(
    *arguments: str, stdin: int | IO[bytes] | None = asyncio.subprocess.DEVNULL
) -> AsyncIterator[tuple[Command, str]]:
    """Start `serve`; yield it and its address."""
    async with started("serve", "--json", *arguments, env=CAPABILITY, stdin=stdin) as host:
        yield host, (await host.until("listening"))["address"]


async def test_demo() -> None:
    async with started("demo") as command:
        out, err = await command.ends(0)
    assert out.splitlines()[-1].split()[2] == "bob"
    assert err == ""


async def test_serve_lookup_and_announce() -> None:
    async with serving("--announce", f"{KEY}:17") as (host, address):
        async with started("lookup", address, "--json", env=CAPABILITY) as visitor:
            answer = await visitor.until("announce_received")
            assert answer["writers"] == [{"key": KEY, "length": 17}]
            await visitor.ends(0)
        assert (await host.until("lookup_received"))["hash"] is None
        async with started(
            "announce", address, "--announce", f"{KEY}:18", env=CAPABILITY
        ) as visitor:
            await visitor.ends(0)
        told = await host.until("announce_received")
        assert told["writers"] == [{"key": KEY, "length": 18}]
        await host.until("disconnected")
        host.signal(signal.SIGINT)
        assert (await host.until("stopped"))["signal"] == "SIGINT"
        assert await host.ends(130) == ("", "")


def udp_port() -> int:
    """Return a port that nobody has."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_serve_and_visit_over_udx() -> None:
    url = f"udp://127.0.0.1:{udp_port()}/7/127.0.0.1:{udp_port()}/4294967295"
    async with serving(url, "--announce", f"{KEY}:17") as (host, address):
        assert address == url
        for _ in range(2):
            async with started("lookup", url, "--json", env=CAPABILITY) as visitor:
                answer = await visitor.until("announce_received")
                assert answer["writers"] == [{"key": KEY, "length": 17}]
                await visitor.ends(0)
            assert (await host.until("disconnected"))["error"] is None
        host.signal(signal.SIGINT)
        assert (await host.until("stopped"))["signal"] == "SIGINT"
        assert await host.ends(130) == ("", "")


async def test_nobody_at_the_other_end_of_udx() -> None:
    # The visitor's address is of a NAT, as its port is here.
    url = f"udp://127.0.0.1:{udp_port()}/7/192.0.2.9:{udp_port()}/8"
    async with started("lookup", url, "--timeout", "0.3", "--json", env=CAPABILITY) as visitor:
        await visitor.ends(3)


async def test_keys_from_files_and_firewalls(tmp_path: Path) -> None:
    capability, key = tmp_path / "capability", tmp_path / "key"
    for path, *options in ((capability, "--capability"), (key,)):
        async with started("keygen", *options, "--out", str(path), "--json") as command:
            made = await command.until("keygen")
            await command.ends(0)
    public_key = KeyPair.generate(bytes.fromhex(SEED)).public_key.hex()
    files = ("--capability-file", str(capability), "--key-file", str(key))
    async with started("serve", "--json", *files, "--firewall", public_key) as host:
        listening = await host.until("listening")
        assert listening["public_key"] == made["public_key"]
        ask = ("lookup", listening["address"], "--capability-file", str(capability))
        async with started(
            *ask, "--remote-key", made["public_key"], env={KEY_VARIABLE: SEED}
        ) as visitor:
            await visitor.ends(0)
        async with started(*ask, "--json") as visitor:
            _, err = await visitor.ends(1)
            assert json.loads(err)["exit_code"] == 1
        async with started(*ask, "--remote-key", public_key) as visitor:
            _, err = await visitor.ends(1)
            assert "expected a peer with the pinned key" in err
        assert (await host.until("refused"))["peer"] != public_key
        host.signal(signal.SIGTERM)
        await host.until("stopped")
        await host.ends(143)


async def test_a_key_file_that_others_can_read_gets_a_warning(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(SEED)
    key.chmod(0o644)
    async with serving("--key-file", str(key)) as (host, _):
        host.signal(signal.SIGINT)
        _, err = await host.ends(130)
    assert json.loads(err)["event"] == "warning"


async def test_news_by_a_pipe_and_ctrl_c_while_it_is_open() -> None:
    async with serving("--stdin", stdin=PIPE) as (host, address):
        host.write(json.dumps({"key": KEY, "length": 3}) + "\nnonsense\n")
        assert (await host.until("news"))["writers"] == [{"key": KEY, "length": 3}]
        async with started("lookup", address, env=CAPABILITY) as visitor:
            out, _ = await visitor.ends(0)
            assert f"    {KEY}:3\n" in out
        host.signal(signal.SIGINT)
        await host.until("stopped")
        _, err = await host.ends(130)
        assert json.loads(err)["line"] == 2


async def test_news_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "logs"
    path.write_text(json.dumps({"key": KEY, "length": 3}))
    with path.open("rb") as file:
        async with serving("--stdin", stdin=file) as (host, _):
            await host.until("news")
            await host.until("stdin_ended")
            host.signal(signal.SIGINT)
            await host.until("stopped")
            await host.ends(130)


async def test_the_end_of_a_pipe_does_not_end_serving() -> None:
    async with serving("--stdin", stdin=PIPE) as (host, address):
        host.close_stdin()
        await host.until("stdin_ended")
        async with started("lookup", address, env=CAPABILITY) as visitor:
            await visitor.ends(0)


async def test_an_announce_by_a_pipe_can_be_stopped() -> None:
    async with started("announce", "127.0.0.1:1", "--stdin", env=CAPABILITY, stdin=PIPE) as one:
        one.write("nonsense\n")
        await asyncio.wait_for(one.stderr.readline(), LIMIT)  # so it reads stdin now
        one.signal(signal.SIGINT)
        await one.ends(130)


async def test_ctrl_c_while_a_visitor_waits() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.setblocking(False)
        address = "{}:{}".format(*silent.getsockname())
        async with started("lookup", address, env=CAPABILITY) as visitor:
            accept = asyncio.get_running_loop().sock_accept(silent)
            connection, _ = await asyncio.wait_for(accept, LIMIT)
            with connection:
                visitor.signal(signal.SIGINT)
                out, err = await visitor.ends(130)
    assert out.endswith("by SIGINT\n")
    assert err == ""


@pytest.mark.parametrize("options", [(), ("--json",)])
async def test_a_reader_who_leaves_ends_it_quietly(options: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    async with started(
        "serve", "--stdin", *options, env=CAPABILITY, stdin=PIPE, stdout=writer
    ) as host:
        os.close(writer)
        assert b"listening" in await asyncio.to_thread(os.read, reader, 65536)
        os.close(reader)
        host.write(json.dumps({"key": KEY, "length": 3}) + "\n")
        assert (await host.ends(141))[1] == ""


@pytest.mark.parametrize("command", ["demo", "keygen", "--help"])
async def test_a_full_disk_is_an_error(command: str) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    async with started(command, stdout=full) as running:
        os.close(full)
        _, err = await running.ends(1)
    assert err == "error: cannot write to stdout: No space left on device\n"


async def on_terminal(columns: int, *arguments: str, **env: str) -> str:
    """Run the command on a terminal of its own; return what it shows."""
    controller, terminal = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "protomux_wakeup",
        *arguments,
        env=environment({"TERM": "xterm-256color", "COLUMNS": str(columns), **env}),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    shown = b""

    def read() -> None:
        nonlocal shown
        try:
            shown += os.read(controller, 65536)
        except OSError:  # EIO: nobody has it open any more
            loop.remove_reader(controller)
            ended.set()

    loop.add_reader(controller, read)
    async with asyncio.timeout(LIMIT):
        await ended.wait()
        await process.wait()
    os.close(controller)
    return shown.decode()


@pytest.mark.parametrize("columns", [80, 120])
async def test_a_terminal_gets_colours(columns: int) -> None:
    shown = await on_terminal(columns, "demo")
    assert "\x1b[36m" in shown
    assert "\x1b[36m" not in await on_terminal(columns, "demo", NO_COLOR="1")
    assert "\x1b" not in await on_terminal(columns, "demo", TERM="dumb", NO_COLOR="1")


async def test_a_visitor_shows_a_spinner_on_a_terminal() -> None:
    async with serving("--announce", f"{KEY}:17") as (_, address):
        shown = await on_terminal(80, "lookup", address, **CAPABILITY)
    assert "connecting to " in shown
    assert f"{KEY}\x1b[0m:" in shown
