"""What who looks on is told of all backends and of the service."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import aiohttp
import pytest

from protomux_wakeup.host.backends.errors import ManagerClosed
from protomux_wakeup.host.backends.overview import Changes, Moved, Service, Sight, overview
from protomux_wakeup.host.backends.serving import serving
from protomux_wakeup.host.backends.types import BackendStatus
from protomux_wakeup.host.errors import LeaderLost
from tests.protomux_wakeup.host.backends.world import World, reach, request

Seen = AsyncGenerator[tuple[int, Sight]]


@asynccontextmanager
async def looking(world: World, after: int = 0, status: Any = None) -> AsyncIterator[Seen]:
    async with aclosing(overview(world.manager, status, after)) as seen:
        yield seen


async def moved(seen: Seen, status: BackendStatus) -> tuple[int, list[Sight]]:
    """Return all up to the first state that is `status`, and the number of that."""
    found = []
    async for number, sight in seen:
        found.append(sight)
        if isinstance(sight, Moved) and sight.state.status == status:
            return number, found
    raise AssertionError("expected no end")


async def service(seen: Seen) -> Service:
    """Return the next that is said of the service."""
    async for _, sight in seen:
        if isinstance(sight, Service):
            return sight
    raise AssertionError("expected no end")


async def started(world: World, key: str, tag: str = "default") -> str:
    return (await world.manager.connect(request(key, tag))).backend_id


async def test_all_backends_come_first_then_their_states(world: World) -> None:
    ids = [await started(world, key) for key in ("one", "two")]
    for id in ids:
        await reach(world.manager, id, BackendStatus.READY)
    async with looking(world) as seen:
        number, first = await anext(seen)
        assert number == 0
        assert isinstance(first, Changes)
        assert [backend.backend_id for backend in first.backends] == ids
        assert first.gone == []
        later = [await moved(seen, BackendStatus.READY) for _ in ids]
    told = [each for _, some in later for each in some if isinstance(each, Moved)]
    for id in ids:
        states = [each.state for each in told if each.backend_id == id]
        assert states == world.manager.states(id)


async def test_who_comes_again_gets_the_states_after_the_last_number(world: World) -> None:
    id = await started(world, "one")
    await reach(world.manager, id, BackendStatus.READY)
    async with looking(world) as seen:
        number, _ = await moved(seen, BackendStatus.READY)
    world.manager.terminate(id)
    async with looking(world, number) as seen:
        first, changes = await anext(seen)
        assert first == number
        assert isinstance(changes, Changes)
        assert [backend.backend_id for backend in changes.backends] == [id]
        last, found = await moved(seen, BackendStatus.TERMINATED)
    assert last > number
    states = [each.state.status for each in found if isinstance(each, Moved)]
    assert states == [BackendStatus.TERMINATING, BackendStatus.TERMINATED]


async def test_a_new_backend_is_told_of_before_its_states(world: World) -> None:
    async with looking(world) as seen:
        assert await anext(seen) == (0, Changes([], []))
        id = await started(world, "new")
        _, found = await moved(seen, BackendStatus.READY)
    about = [each for each in found if not isinstance(each, Service)]
    assert isinstance(about[0], Changes)
    assert [backend.key for backend in about[0].backends] == ["new"]
    assert isinstance(about[1], Moved)
    assert about[1].backend_id == id


async def test_who_is_connected_is_told_though_no_state_says_it(world: World) -> None:
    id = await started(world, "one")
    other = await started(world, "other")
    for each in (id, other):
        await reach(world.manager, each, BackendStatus.READY)
    async with looking(world, 1_000) as seen:
        await anext(seen)
        async with world.manager.connection(id):
            async for _, sight in seen:
                if isinstance(sight, Changes):
                    break
        assert isinstance(sight, Changes)
        # Of the other one nothing has changed.
        assert [(each.backend_id, each.connections) for each in sight.backends] == [(id, 1)]


async def test_what_is_not_kept_any_more_is_gone(world: World) -> None:
    await world.leave()
    await world.next(kept=1)
    first = await started(world, "first", "exits")
    await reach(world.manager, first, BackendStatus.TERMINATED)
    async with looking(world) as seen:
        await moved(seen, BackendStatus.TERMINATED)
        second = await started(world, "second", "exits")
        async for _, sight in seen:
            if isinstance(sight, Changes) and sight.gone:
                break
    assert isinstance(sight, Changes)
    assert sight.gone == [first]
    assert [backend.backend_id for backend in world.manager.backends()] == [second]


async def test_no_service_is_said_to_be_none(world: World) -> None:
    async with looking(world) as seen:
        assert await service(seen) == Service(None)


async def test_the_service_is_told_of_when_it_says_something_else(world: World) -> None:
    asked = 0

    async def status() -> Any:
        nonlocal asked
        asked += 1
        if asked == 4:
            raise LeaderLost("the worker has gone")
        return {"topics": asked // 2}  # 0, 1, 1

    async with looking(world, status=status) as seen:
        said = [await service(seen) for _ in range(4)]
    assert said == [
        Service({"topics": 0}),
        Service({"topics": 1}),
        Service(None, "the worker has gone"),
        Service({"topics": 2}),
    ]


async def test_a_service_that_does_not_answer_holds_nothing_else_up(world: World) -> None:
    async def status() -> Any:
        await asyncio.Event().wait()

    async with looking(world, status=status) as seen:
        await started(world, "one")
        await moved(seen, BackendStatus.READY)


async def test_it_ends_with_the_manager(world: World) -> None:
    async with looking(world) as seen:
        await anext(seen)
        following = asyncio.create_task(service(seen))
        assert await following == Service(None)
        await world.manager.close()
        with pytest.raises(ManagerClosed):
            await service(seen)


async def test_over_http_it_is_a_stream_that_goes_on_where_it_broke_off(world: World) -> None:
    anywhere = ("127.0.0.1", 0)
    id = await started(world, "one")
    await reach(world.manager, id, BackendStatus.READY)
    bearer = {"Authorization": "Bearer token"}
    async with (
        serving(world.manager, anywhere, anywhere, token="token") as urls,
        aiohttp.ClientSession(urls.control, headers=bearer) as session,
    ):
        async with session.get("/overview") as answer:
            assert answer.content_type == "text/event-stream"
            number, first = await event(answer)
            assert (number, first["gone"]) == ("0", [])
            assert [(each["backend_id"], each["key"]) for each in first["backends"]] == [
                (id, "one")
            ]
            said: dict[str, Any] = {}
            while said.get("state", {}).get("status") != "ready":
                number, said = await event(answer)
            assert said["backend_id"] == id
        world.manager.terminate(id, hard=True)
        async with session.get("/overview", headers={"Last-Event-ID": number}) as answer:
            states = []
            while "terminated" not in states:
                _, said = await event(answer)
                if "state" in said:
                    states.append(said["state"]["status"])
    assert states[0] in ("terminating", "hard-terminating")


async def event(answer: aiohttp.ClientResponse) -> tuple[str, Any]:
    """Return the id and the data of the next event."""
    fields: dict[str, str] = {}
    async for line in answer.content:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if not name and fields:
            return fields["id"], json.loads(fields["data"])
        fields[name] = value
    raise AssertionError("expected no end")
