"""A manager with the engine of this machine's processes, each with its monitor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from protomux_wakeup.host.backends.types import (
    BackendStatus,
    Terminated,
    TerminationKind,
    TerminationReason,
)
from tests.protomux_wakeup.host.backends.world import (
    World,
    command,
    monitors_gone,
    news,
    opened,
    process_engine,
    reach,
    request,
    seen,
)
from tests.protomux_wakeup.host.disk import full_disk

TERMINATED = BackendStatus.TERMINATED


ACKNOWLEDGE = "while read hint rest; do echo ack $rest >&$PROTOMUX_ACK_FD; done"
COMMANDS = {
    "reads": command("sh", "-c", ACKNOWLEDGE),
    "stubborn": command("sh", "-c", f"trap '' TERM; {ACKNOWLEDGE}; sleep 1009", grace=0.1),
}


@pytest.fixture
async def world(place: Path) -> AsyncIterator[World]:
    async with opened(place, make=process_engine) as world:
        world.commands.update(COMMANDS)
        yield world
    await monitors_gone(place)


async def test_a_key_has_one_process_at_a_time(world: World) -> None:
    manager = world.manager
    asked = [manager.connect(request("k")) for _ in range(100)]
    answers = await asyncio.gather(*asked)
    (first,) = {answer.backend_id for answer in answers}
    manager.terminate(first)
    second = await manager.connect(request("k"))
    assert second.spawned
    names = ["scheduled", "starting", "waiting", "ready", "terminating", "terminated"]
    assert await seen(manager.follow(first)) == names
    async with manager.connection(second.backend_id) as address:
        assert address == manager.backend(second.backend_id).address


async def test_the_next_manager_has_what_runs(world: World) -> None:
    stays = await world.manager.connect(request("stays"))
    leaves = await world.manager.connect(request("leaves", lifetime_limit_seconds=100))
    before = world.manager.backends()
    await world.leave()
    world.time += 100
    manager = await world.next()
    assert [each.address for each in manager.backends()] == [each.address for each in before]
    state = await reach(manager, leaves.backend_id, TERMINATED)
    assert isinstance(state, Terminated)
    assert state.termination_reason is TerminationReason.SWEPT
    again = await manager.connect(request("stays"))
    assert (again.backend_id, again.spawned) == (stays.backend_id, False)


async def test_it_knows_a_token_of_its_own(world: World) -> None:
    world.commands["says"] = command("sh", "-c", "echo $SESSION_BACKEND_STATIC_TOKEN; cat")
    manager = world.manager
    answer = await manager.connect(request("k", "says"))
    await reach(manager, answer.backend_id, BackendStatus.READY)
    while not (token := (await manager.log(answer.backend_id)).decode().strip()):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    world.time += 1_000_000
    route = manager.route(token)
    assert route is not None
    assert (route.backend_id, route.user, route.auth) == (answer.backend_id, None, None)
    assert manager.route(answer.token) is None  # which was too old
    await world.leave()
    assert not [file for file in world.place.rglob("*.db*") if token.encode() in file.read_bytes()]
    manager = await world.next()
    assert manager.route(token) == route
    manager.terminate(answer.backend_id)
    await reach(manager, answer.backend_id, TERMINATED)
    assert manager.route(token) is None


async def test_news_are_acknowledged_and_it_finishes(world: World) -> None:
    manager = world.manager
    answer = await manager.connect(request("k", "reads", max_idle_seconds=1), [news(1)])
    assert await world.acknowledged.get() == (answer.backend_id, news(1))
    assert manager.deliver(answer.backend_id, [news(2)])
    assert await world.acknowledged.get() == (answer.backend_id, news(2))
    state = await reach(manager, answer.backend_id, TERMINATED)
    assert isinstance(state, Terminated)
    assert (state.termination_reason, state.exit_error) == (None, False)


async def test_one_that_does_not_end_by_itself(world: World) -> None:
    manager = world.manager
    answer = await manager.connect(request("k", "stubborn"), [news(1)])
    assert await world.acknowledged.get() == (answer.backend_id, news(1))
    manager.terminate(answer.backend_id)
    *_, made, ended = [state async for state in manager.follow(answer.backend_id)]
    assert made.status is BackendStatus.HARD_TERMINATING
    assert isinstance(ended, Terminated)
    assert ended.termination_kind is TerminationKind.HARD


async def test_an_end_that_is_not_written_down_is_told_to_the_next_manager(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.commands["ends"] = command("sh", "-c", "read hint; exit 0")
    answer = await world.manager.connect(request("k", "ends"))
    await reach(world.manager, answer.backend_id, BackendStatus.READY)
    world.manager.deliver(answer.backend_id, [news(1)])
    with full_disk(world.place):
        async with asyncio.timeout(60):
            while "waits to be written down" not in caplog.text:  # noqa: ASYNC110 - no event tells it
                await asyncio.sleep(0.01)
        await monitors_gone(world.place)
        await world.leave()
    await world.next()
    end = world.manager.backend(answer.backend_id).state
    assert isinstance(end, Terminated)
    assert (end.termination_reason, end.exit_error) == (None, False)
    assert not list((world.place / "run").glob("*.result"))


async def test_what_a_manager_knew_and_could_not_say_is_not_left(world: World) -> None:
    answer = await world.manager.connect(request("k"))
    world.manager.terminate(answer.backend_id)
    await reach(world.manager, answer.backend_id, TERMINATED)
    await monitors_gone(world.place)
    left = world.place / "run" / f"{answer.backend_id}.result"
    other = world.place / "run" / f"{'f' * 32}.result"
    for path in (left, other):
        path.write_bytes(b"{}")  # the manager was killed before it had said that it knew
    await world.leave()
    await world.next()
    assert not left.exists()
    assert other.exists()  # nobody knows of it
    other.unlink()


async def test_who_is_forgotten_leaves_nothing(world: World) -> None:
    left = world.place / "run" / f"{'f' * 32}.result"
    left.write_bytes(b"{}")
    await world.engine.forget("f" * 32)
    assert not left.exists()
