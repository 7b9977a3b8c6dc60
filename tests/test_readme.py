"""The programs of the README that take part in a host, as a reader would copy them."""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.protomux_wakeup.host.local import RemotePeer
from tests.protomux_wakeup.host.members import until_empty

README: Final = Path(__file__).parent.parent / "README.md"
CAPABILITY: Final = b"\x09" * 32
KEY: Final = b"\x0a" * 32
LIMIT: Final = 30.0


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's directories."""
    path = Path(tempfile.mkdtemp(prefix="pw-", dir="/tmp"))
    for variable, name in {"XDG_RUNTIME_DIR": "run", "XDG_STATE_HOME": "state"}.items():
        (path / name).mkdir(mode=0o700)
        monkeypatch.setenv(variable, str(path / name))
    monkeypatch.chdir(path)
    yield path
    shutil.rmtree(path)


@pytest.fixture
async def peer() -> AsyncIterator[RemotePeer]:
    peer = RemotePeer(CAPABILITY)
    yield peer
    await peer.close()


@asynccontextmanager
async def running(marked_by: str, address: str) -> AsyncIterator[None]:
    """Run the program in which that is found, with a peer at `address`, until the context ends."""
    (text,) = (
        found
        for found in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
        if marked_by in found
    )
    names: dict[str, Any] = {}
    exec(compile(text.replace("peer.example:4000", address), str(README), "exec"), names)
    program = asyncio.create_task(names["main"](CAPABILITY))
    try:
        yield
    finally:
        program.cancel()
        with pytest.raises(asyncio.CancelledError):
            await program


async def test_hints_are_printed(
    home: Path, peer: RemotePeer, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running('watcher="indexer"', await peer.listen()):
        async with asyncio.timeout(LIMIT):
            await peer.asked.get()
            peer.announce((KEY, 7))
            printed = ""
            while not printed:
                await asyncio.sleep(0.01)
                printed = capsys.readouterr().out
        assert printed == f"{KEY.hex()} 7\n"
    await until_empty(home / "run" / "protomux-wakeup")


async def test_a_command_runs_when_there_is_news(home: Path, peer: RemotePeer) -> None:
    script, out = home / "sync.sh", home / "out"
    script.write_text(f"#!/bin/sh\nread -r line && echo $line >{out}.new && mv {out}.new {out}\n")
    script.chmod(0o755)
    async with running("join_backends", await peer.listen()):
        async with asyncio.timeout(LIMIT):
            await peer.asked.get()
            assert not out.exists()
            peer.announce((KEY, 7))
            while not out.exists():  # noqa: ASYNC110 - a file tells nobody that it comes
                await asyncio.sleep(0.01)
        words = out.read_text().split()
        assert (words[0], words[2:]) == ("hint", [KEY.hex(), "7"])
    await until_empty(home / "run" / "protomux-wakeup")
