"""The engine of a cluster against our own server, over the wire, with connections that are lost."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from protomux_wakeup.host.backends.dialects import jamsocket
from protomux_wakeup.host.backends.engine import Launch
from protomux_wakeup.host.backends.plane import PlaneEngine
from protomux_wakeup.host.backends.serving import serving
from protomux_wakeup.host.backends.types import (
    BackendStatus,
    ConnectRequest,
    SpawnConfig,
    TerminationReason,
)

from .clustered import LIMITS
from .stage import Heard
from .world import command, monitors_gone, opened, process_engine

DOCS = Path(__file__).parents[4] / "docs" / "backends.md"
TOKEN = "t" * 43
ANY = ("127.0.0.1", 0)


class Relay:
    """A way to the server that can be cut."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writers: set[asyncio.StreamWriter] = set()
        self.passed = 0
        self.url = ""

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, to_there = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers |= {writer, to_there}

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with suppress(ConnectionError):
                while data := await source.read(65_536):
                    self.passed += len(data)
                    sink.write(data)
                    await sink.drain()
            sink.close()

        await asyncio.gather(pump(reader, to_there), pump(there, writer))
        self._writers -= {writer, to_there}

    def cut(self) -> int:
        """Cut all connections, wherever they are; return how many there were."""
        writers = tuple(self._writers)
        for writer in writers:
            writer.transport.abort()
        return len(writers) // 2


@asynccontextmanager
async def relayed(port: int) -> AsyncIterator[Relay]:
    relay = Relay(port)
    async with await asyncio.start_server(relay.pass_on, "127.0.0.1", 0) as server:
        relay.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield relay
        relay.cut()


async def test_our_own_server_is_a_cluster(place: Path) -> None:
    here, there = place / "here", place / "there"
    there.mkdir()
    serves = "printf 'HTTP/1.0 200 OK\r\n\r\nhello' > reply; exec python3 -m http.server $PORT"
    commands = {"web": command("sh", "-c", f"cd {there}; {serves}")}
    async with (
        asyncio.timeout(60),
        opened(there, make=process_engine) as world,
        serving(world.manager, ANY, ANY, token=TOKEN) as urls,
        relayed(int(urls.control.rpartition(":")[2])) as relay,
    ):
        world.commands.update(commands)
        engine = PlaneEngine(relay.url, jamsocket("-", "-"), here, token=TOKEN, limits=LIMITS)
        await engine.open(1)
        heard = Heard()
        request = ConnectRequest(key="room", spawn=SpawnConfig(tag="web"), user="ann")
        launch = Launch(backend_id="0" * 32, key="room", fencing_token=1, term=1, request=request)
        running = await engine.start(launch, heard)
        (backend,) = world.manager.backends()
        assert running.response is not None
        assert running.response.backend_id == backend.backend_id
        await heard.until_status(BackendStatus.READY)
        assert relay.cut() >= 1  # in the middle of its stream
        async with aiohttp.ClientSession() as session:
            while True:  # it is ready when it is started, and listens a moment later
                async with session.get(f"{running.response.url}reply") as answer:
                    if answer.status == 200:
                        assert (await answer.text()).endswith("hello")
                        break
        running.terminate(TerminationReason.SWEPT, hard=False)
        end = await heard.until_terminated()
        assert end.termination_reason is TerminationReason.SWEPT
        states = world.manager.states(backend.backend_id)
        assert [each.status for each in heard.states] == [each.status for each in states]
        await engine.close()
    await monitors_gone(there)


async def test_every_state_comes_once_however_often_it_is_cut(place: Path) -> None:
    here, there = place / "here", place / "there"
    there.mkdir()
    async with (
        asyncio.timeout(60),
        opened(there, make=process_engine) as world,
        serving(world.manager, ANY, ANY, token=TOKEN) as urls,
        relayed(int(urls.control.rpartition(":")[2])) as relay,
    ):
        world.commands["quick"] = command("true")
        engine = PlaneEngine(relay.url, jamsocket("-", "-"), here, token=TOKEN, limits=LIMITS)
        await engine.open(1)

        async def cut_often() -> None:
            for size in range(50, 1500, 150):  # at whatever byte it is by then
                before = relay.passed
                while relay.passed < before + size:  # noqa: ASYNC110
                    await asyncio.sleep(0)
                relay.cut()

        for number in range(5):
            heard = Heard()
            request = ConnectRequest(key=f"room {number}", spawn=SpawnConfig(tag="quick"))
            launch = Launch(
                backend_id=f"{number:032x}",
                key=f"room {number}",
                fencing_token=1,
                term=1,
                request=request,
            )
            await engine.start(launch, heard)
            cutting = asyncio.create_task(cut_often())
            await heard.until_terminated()
            cutting.cancel()
            found = [each.status for each in heard.states]
            assert found == sorted(set(found), key=lambda status: status.number)
            states = world.manager.states(world.manager.backends()[-1].backend_id)
            assert found == [each.status for each in states]
        await engine.close()
    await monitors_gone(there)


async def test_the_example_of_the_docs(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, section = DOCS.read_text().partition("\n## On a cluster\n")
    (example,) = re.findall(r"\n```python\n(.*?)\n```\n", section, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(example, str(DOCS), "exec"), names)
    here, there = place / "here", place / "there"
    for directory in (here, there):
        directory.mkdir()
    monkeypatch.chdir(here)
    async with (
        asyncio.timeout(60),
        opened(there) as world,
        serving(world.manager, ANY, ANY, token=TOKEN) as urls,
    ):
        await names["main"](urls.control, TOKEN)
        (backend,) = world.manager.backends()
        assert (backend.key, backend.state.status) == ("room", BackendStatus.READY)
        *states, url = capsys.readouterr().out.split()
        assert states[-1] == "ready"
        assert url.startswith(urls.proxy)
    assert {file.name for file in here.iterdir()} >= {"backends.db", "cluster"}
