from __future__ import annotations

import asyncio
from pathlib import Path

from protomux_wakeup.host.coordinator import Coordinator
from protomux_wakeup.host.jitpc import Client, connect, listen
from protomux_wakeup.host.messages import (
    LEAVE,
    REQUEST_PORT,
    STATUS,
    ClientId,
    Hello,
    Known,
    fields_of,
    read,
)


def hello(name: str, *, is_keeper: bool = False) -> dict[str, object]:
    return fields_of(Hello(client_id=name, pid=1, program="test", is_keeper=is_keeper))


async def test_who_has_gone_is_forgotten(place: Path) -> None:
    coordinator = Coordinator(str(place))
    gone = asyncio.Event()

    async def welcome(client: Client) -> None:
        await coordinator.welcome(client)
        gone.set()

    server = await listen("coordinator", directory=place, on_client=welcome)
    assert server is not None
    async with server:
        for has_said_hello in (True, False):
            gone.clear()
            async with connect("coordinator", directory=place) as client:
                if has_said_hello:
                    await client.request("hello", hello("a"))
                await client.request(REQUEST_PORT, fields_of(ClientId(client_id="a")))
                known = read(Known, await client.request(STATUS))
                assert [each.client_id for each in known.clients] == ["a"] * has_said_hello
                assert list(coordinator._by_id) == ["a"]
            await gone.wait()
            assert not coordinator._clients
            assert not coordinator._by_id


async def test_leave_is_answered_when_the_keepers_have_gone(place: Path) -> None:
    server = await listen("coordinator", directory=place, on_client=Coordinator(str(place)).welcome)
    assert server is not None
    async with server, connect("coordinator", directory=place) as visitor:
        assert await visitor.request(LEAVE) == 0
        keeper, other = (connect("coordinator", directory=place) for _ in range(2))
        asked = asyncio.Event()
        keeper.respond(LEAVE, lambda _params: asked.set())
        await keeper.request("hello", hello("keeper", is_keeper=True))
        await other.request("hello", hello("other"))
        answer = visitor.request(LEAVE)
        await asked.wait()
        known = read(Known, await visitor.request(STATUS))
        assert [client.client_id for client in known.clients] == ["keeper", "other"]
        assert not answer.done()
        keeper.end()
        assert await answer == 1
        known = read(Known, await visitor.request(STATUS))
        assert [client.client_id for client in known.clients] == ["other"]
        other.end()
        await other.wait_closed()
