from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest

from protomux import Protomux
from protomux.encoding import string
from protomux_wakeup.host.ports import Port, use_port


async def close(*muxes: Protomux) -> None:
    for mux in muxes:
        mux.destroy()
    for mux in muxes:
        await mux.stream.wait_closed()


async def test_a_port_carries_a_mux(place: Path) -> None:
    port = Port(str(place))
    assert stat.S_IMODE(os.stat(port.path).st_mode) == 0o600
    here, there = await asyncio.gather(port.accept(), use_port(port.path))
    got: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    here_channel = here.create_channel(
        "talk", messages=((string, lambda value, _channel: got.set_result(value)),)
    )
    there_channel = there.create_channel("talk", messages=((string, None),))
    assert here_channel is not None
    assert there_channel is not None
    here_channel.open()
    there_channel.open()
    there_channel.messages[0].send("hello")
    assert await got == "hello"
    assert here.stream.handshake_hash == there.stream.handshake_hash is not None
    await close(here, there)


async def test_a_port_is_used_once(place: Path) -> None:
    port = Port(str(place))
    here, there = await asyncio.gather(port.accept(), use_port(port.path))
    assert os.listdir(place) == []
    with pytest.raises(FileNotFoundError):
        await use_port(port.path)
    await close(here, there)


async def test_a_port_that_nobody_uses_goes(place: Path) -> None:
    port = Port(str(place))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await port.accept()
    assert os.listdir(place) == []


async def test_a_port_that_is_closed(place: Path) -> None:
    port = Port(str(place))
    port.close()
    port.close()
    assert os.listdir(place) == []


async def test_a_place_where_no_port_can_be(place: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Port(str(place / "nowhere"))
    with pytest.raises(ValueError, match="socket path of at most 103 bytes"):
        Port(str(place / ("a" * 90)))
