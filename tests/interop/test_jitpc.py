"""Processes of both languages meet over jitpc: the cases of the original's own tests, and more."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest

from bench.program import Program
from protomux_wakeup.host.locks import released

PAIRS: Final = [(one, other) for one in ("py", "node") for other in ("py", "node")]
"""The languages of two processes; where one of them listens it is the first."""
LANGUAGES: Final = ("py", "node")
MIB: Final = 2**20

Pair: TypeAlias = tuple[str, str]
Command: TypeAlias = tuple[str, ...]


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where both languages meet, as TMPDIR says."""
    path = Path(tempfile.mkdtemp(prefix="jit-", dir="/tmp"))
    monkeypatch.setenv("TMPDIR", str(path))
    yield path
    shutil.rmtree(path)


def command(language: str, first: dict[str, Any] | None = None) -> Command:
    programs: dict[str, Command] = {
        "py": (sys.executable, "-m", "tests.interop.justintime"),
        "node": ("node", "tests/interop/justintime.mjs"),
    }
    return (*programs[language], *([] if first is None else [json.dumps(first)]))


@asynccontextmanager
async def started(*languages: str) -> AsyncIterator[list[Program]]:
    async with AsyncExitStack() as stack:
        programs = [
            await stack.enter_async_context(Program.started(language, command(language)))
            for language in languages
        ]
        for program in programs:
            assert await program.hear() == {"ready": True}
        yield programs


async def ask(program: Program, do: str, **options: Any) -> dict[str, Any]:
    program.say({"do": do, **options})
    return await program.hear()


@asynccontextmanager
async def met(pair: Pair, **options: Any) -> AsyncIterator[tuple[Program, Program]]:
    """A server and a client of it."""
    async with started(*pair) as (server, client):
        assert await ask(server, "listen", id="a", **options) == {"listening": True}
        connected = {"connected": True, "code": None, "spun": 0}
        assert await ask(client, "connect", id="a", **options) == connected
        yield server, client


pairs = pytest.mark.parametrize("pair", PAIRS, ids="-".join)
languages = pytest.mark.parametrize("language", LANGUAGES)


# The cases of the original's own tests. What no second process takes part in is for each language.


@pytest.mark.parametrize("contenders", [{"py": 20}, {"py": 10, "node": 10}, {"node": 20}], ids=str)
async def test_at_most_one_server_for_an_id(contenders: dict[str, int]) -> None:
    languages = [language for language, count in contenders.items() for _ in range(count)]
    async with started(*languages) as programs:
        for program in programs:
            program.say({"do": "listen", "id": "a"})
        heard = [await program.hear() for program in programs]
    assert sorted(each["listening"] for each in heard) == [False] * 19 + [True]


@pairs
async def test_connects_with_a_server_that_runs(pair: Pair) -> None:
    async with met(pair) as (_, client):
        assert await ask(client, "request", method="echo", params={"x": 1}) == {"result": {"x": 1}}


@languages
async def test_no_server_is_an_error_after_one_spinup(language: str) -> None:
    async with started(language) as (client,):
        found = await ask(client, "connect", id="nobody")
        assert found == {"connected": False, "code": "ENOENT", "spun": 1}


@pairs
@pytest.mark.parametrize("waits", [True, False])
async def test_a_spinup_starts_the_server(pair: Pair, waits: bool) -> None:
    async with started(pair[1]) as (client,):
        spinup = command(pair[0], {"do": "listen", "id": "a"})
        found = await ask(client, "connect", id="a", spinup=spinup, waits=waits)
        assert found == {"connected": True, "code": None, "spun": 1}
        assert await ask(client, "request", method="echo", params=[1]) == {"result": [1]}


@languages
async def test_a_server_without_clients_spins_down(language: str, place: Path) -> None:
    async with started(language) as (server,):
        await ask(server, "listen", id="a", spindown="none", seconds=0.1)
        assert await server.hear() == {"closed": "a"}
        assert os.listdir(place) == ["a.lock"]


@pairs
async def test_spindown_is_called_once_and_the_next_may_listen(pair: Pair) -> None:
    async with started(*pair) as (server, other):
        await ask(server, "listen", id="a", spindown="count", seconds=0.1)
        assert await server.hear() == {"spun": "down"}
        assert await server.hear() == {"closed": "a"}
        assert await ask(other, "listen", id="a") == {"listening": True}
        assert await ask(server, "listen", id="a") == {"listening": False}


@languages
async def test_the_time_until_it_spins_down_can_be_chosen(language: str) -> None:
    async with started(language) as (server,):
        began = asyncio.get_running_loop().time()
        await ask(server, "listen", id="a", spindown="count", seconds=0.5)
        assert await server.hear() == {"spun": "down"}
        assert asyncio.get_running_loop().time() - began >= 0.5  # never before its time


@pairs
async def test_spins_down_only_without_clients(pair: Pair) -> None:
    async with met(pair, spindown="none", seconds=1) as (server, client):
        for number in range(5):
            await asyncio.sleep(0.25)
            found = await ask(client, "request", method="echo", params=number)
            assert found == {"result": number}
        await ask(client, "end")
        assert await server.hear() == {"closed": "a"}


@languages
async def test_a_spindown_that_fails_is_told(language: str) -> None:
    async with started(language) as (server,):
        await ask(server, "listen", id="a", spindown="fail", seconds=0.1)
        assert await server.hear() == {"failed": "spindown failed"}


# What the original does not test.


@pairs
async def test_both_ask_and_errors_cross(pair: Pair) -> None:
    async with met(pair) as (_, client):
        back = {"method": "double", "params": 21}
        assert await ask(client, "request", method="ask back", params=back) == {"result": 42}
        assert await ask(client, "request", method="who") == {"result": 0}
        for value in ("ü\n\u2028", None, {"a": [1.5, -1, True, {}]}):
            assert (await ask(client, "request", method="echo", params=value))["result"] == value
        found = await ask(client, "request", method="fail", params="EBAD")
        assert found["message"] == "it failed there"
        assert found["code"] == "EBAD"
        for code in (False, {"a": 1}, [None]):  # which no code of an error should be
            found = await ask(client, "request", method="fail", params=code)
            assert found["message"] == "it failed there"
        found = await ask(client, "request", method="nothing")
        assert found["message"] == "Unknown method: nothing"
        if pair == ("node", "py"):
            assert found["has_stack"]
        elif pair == ("py", "py"):
            assert not found["has_stack"]


@pairs
async def test_an_end_waits_for_the_answer(pair: Pair) -> None:
    async with met(pair, spindown="none", seconds=1) as (server, client):
        assert await ask(client, "end_with", method="later", params=1) == {"result": 1}
        assert await server.hear() == {"closed": "a"}


@pairs
async def test_a_hundred_clients_pipeline(pair: Pair) -> None:
    async with started(*pair) as (server, client):
        await ask(server, "listen", id="a")
        found = await ask(client, "crowd", id="a", clients=100, requests=20)
        assert found == {"answered": 2_000}


@pairs
async def test_a_killed_server_is_followed_by_the_next(pair: Pair, place: Path) -> None:
    async with started(*pair, *LANGUAGES) as (server, follower, *clients):
        await ask(server, "listen", id="a")
        os.kill(server.pid, signal.SIGKILL)
        await released(str(place / "a.lock"))
        assert await ask(follower, "listen", id="a") == {"listening": True}
        assert sorted(os.listdir(place)) == ["a.lock", "a.sock"]
        for client in clients:
            assert (await ask(client, "connect", id="a"))["connected"]
            assert await ask(client, "request", method="echo", params=1) == {"result": 1}


@languages
@pytest.mark.parametrize(
    "lines",
    [b"no json\n", b"\n", b"null\n", b"[]\n", b'{"id":{}}\n', b"\xff\n", b"[" * 99_999 + b"\n"],
)
async def test_malformed_lines_end_their_connection_only(
    language: str, lines: bytes, place: Path
) -> None:
    async with met(("py", language)) as (_, client):
        reader, writer = await asyncio.open_unix_connection(place / "a.sock")
        writer.write(lines)
        assert await reader.read() == b""
        writer.close()
        assert await ask(client, "request", method="echo", params=1) == {"result": 1}


async def write(path: Path, data: bytes, times: int) -> None:
    _, writer = await asyncio.open_unix_connection(path)
    try:
        for _ in range(times):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


async def test_a_line_without_an_end_is_refused_in_bounded_memory(place: Path) -> None:
    async with met(("py", "py")) as (server, client):
        await ask(client, "long", size=MIB)
        before = (await ask(server, "memory"))["bytes"]
        with pytest.raises(ConnectionError):
            await write(place / "a.sock", b"x" * MIB, 64)
        assert (await ask(server, "memory"))["bytes"] - before < 40 * MIB
        assert await ask(client, "request", method="echo", params=1) == {"result": 1}


@pairs
async def test_a_long_line_crosses_both_ways_where_it_may(pair: Pair) -> None:
    # The original looks at all of a long line again with each piece that comes of it.
    size = (12 if "node" in pair else 64) * MIB
    async with met(pair, line_size=65 * MIB) as (_, client):
        assert await ask(client, "long", size=size) == {"size": size}
