"""What the next manager finds when one has been dropped, or killed."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from protomux_wakeup.host.backends.engine import Engine, EngineError, Launch, Listener
from protomux_wakeup.host.backends.errors import Superseded
from protomux_wakeup.host.backends.manager import Manager
from protomux_wakeup.host.backends.types import (
    BackendStatus,
    Terminated,
    TerminationKind,
    TerminationReason,
)
from tests.protomux_wakeup.host.backends import dying_manager
from tests.protomux_wakeup.host.backends.local_engine import LocalEngine, LocalRunning
from tests.protomux_wakeup.host.backends.world import (
    World,
    local_engine,
    monitors_gone,
    news,
    opened,
    process_engine,
    reach,
    request,
    seen,
)

READY = BackendStatus.READY
TERMINATED = BackendStatus.TERMINATED


# One after the other


async def test_the_next_manager_has_what_runs(world: World) -> None:
    answer = await world.manager.connect(request("k", user="ann", max_idle_seconds=1_000))
    before = world.manager.backends()
    await world.leave()
    assert world.engine.is_closed
    manager = await world.next()
    assert manager.backends() == before
    assert manager.key_of("k") == before[0]
    again = await manager.connect(request("k"))
    assert (again.backend_id, again.spawned) == (answer.backend_id, False)
    route = manager.route(answer.token)
    assert route is not None
    assert (route.backend_id, route.user) == (answer.backend_id, "ann")
    async with manager.connection(answer.backend_id) as address:
        assert address == before[0].address
    manager.terminate(answer.backend_id)
    names = ["scheduled", "starting", "waiting", "ready", "terminating", "terminated"]
    assert await seen(manager.follow(answer.backend_id)) == names


async def test_one_that_has_ended_while_there_was_no_manager(world: World) -> None:
    answer = await world.manager.connect(request("k", "very stubborn"))
    await world.manager.wait_ready(answer.backend_id)
    world.manager.terminate(answer.backend_id)
    await world.leave()
    world.kill(answer.backend_id)
    manager = await world.next()
    state = manager.backend(answer.backend_id).state
    assert isinstance(state, Terminated)
    assert (state.termination_reason, state.termination_kind) == (TerminationReason.LOST, None)
    assert state.exit_error is None
    assert (await manager.connect(request("k"))).spawned


async def test_one_that_cannot_be_read_keeps_no_manager_from_opening(world: World) -> None:
    wrong = request("k", max_idle_seconds=2**31)
    answer = await world.manager.connect(wrong)
    await world.leave()
    manager = await world.next()
    end = manager.backend(answer.backend_id).state
    assert isinstance(end, Terminated)
    assert end.termination_reason is TerminationReason.INTERNAL_ERROR
    assert (await manager.connect(request("k"))).spawned
    world.kill(answer.backend_id)


async def test_one_that_ends_under_the_next_manager(world: World) -> None:
    answer = await world.manager.connect(request("k", "stubborn"))
    await world.manager.wait_ready(answer.backend_id)
    world.manager.terminate(answer.backend_id)
    await world.leave()
    manager = await world.next()
    waiting = asyncio.create_task(manager.connect(request("k")))
    manager.terminate(answer.backend_id, hard=True)
    state = await reach(manager, answer.backend_id, TERMINATED)
    assert isinstance(state, Terminated)
    assert state.termination_reason is TerminationReason.EXTERNAL
    assert state.termination_kind is TerminationKind.HARD
    assert (await waiting).backend_id != answer.backend_id


async def test_followers_go_on_where_they_were_under_the_next_manager(world: World) -> None:
    """A manager is dropped after every state in turn, and each follower sees each state once."""
    answer = await world.manager.connect(request("k", "told"))
    id = answer.backend_id
    told: list[str] = []
    number = 0
    told_to_all: list[str] = []

    async def go_on(to: BackendStatus) -> None:
        nonlocal number
        after = BackendStatus(told[-1]) if told else None
        async for state in world.manager.follow(id, after):
            told.append(state.status.value)
            if state.status is to:
                break
        everything = world.manager.follow_all(number)
        while not told_to_all or told_to_all[-1] != to:
            number, _, state = await anext(everything)
            told_to_all.append(state.status.value)
        await world.drop()
        await world.next()

    await go_on(BackendStatus.WAITING)
    # What it was told of did not outlive that manager, and neither would it have become ready.
    world.manager.terminate(id)
    await go_on(BackendStatus.TERMINATING)
    await go_on(TERMINATED)
    assert told == ["scheduled", "starting", "waiting", "terminating", "terminated"]
    assert told_to_all == told
    assert [state.status.value for state in world.manager.states(id)] == told


async def test_a_dropped_manager_changes_nothing_any_more(world: World) -> None:
    old = world.manager
    answer = await old.connect(request("k"))
    await world.drop()
    manager = await world.next()
    old.terminate(answer.backend_id)
    assert manager.backend(answer.backend_id).state.status is READY
    assert (await manager.connect(request("k", None))).backend_id == answer.backend_id


async def test_a_manager_of_an_earlier_term_writes_nothing(world: World) -> None:
    answer = await world.manager.connect(request("k"))
    await world.leave()
    before = {file: file.read_bytes() for file in world.place.rglob("*") if file.is_file()}
    world.term = -1
    with pytest.raises(Superseded, match=r"^expected a term of 1 or later, got 0$"):
        await world.next()
    world.store.close()
    assert {file: file.read_bytes() for file in world.place.rglob("*") if file.is_file()} == before
    world.term = 1
    manager = await world.next()
    assert manager.backend(answer.backend_id).state.status is READY


async def test_an_engine_that_has_seen_a_later_manager(world: World) -> None:
    await world.leave()
    (world.place / "engine" / "term").write_text("9")
    with pytest.raises(EngineError, match=r"^expected a term of 9 or later, got 2$"):
        await world.next()
    world.store.close()
    world.term = 8
    await world.next()


class Unreachable(LocalEngine):
    async def adopt(
        self, launch: Launch, listener: Listener, seen: BackendStatus
    ) -> LocalRunning | None:
        if launch.key == "unreachable":
            raise EngineError("the cluster does not answer")
        return await super().adopt(launch, listener, seen)


async def test_what_cannot_be_taken_over_is_not_lost(world: World) -> None:
    """Where nobody knows whether it runs, there is no manager that would start another."""
    for key in ("k", "unreachable"):
        await world.manager.connect(request(key))
    await world.leave()
    with pytest.raises(EngineError, match=r"^the cluster does not answer$"):
        await world.next(engine=Unreachable(world.place / "engine"))
    world.store.close()
    manager = await world.next()
    for key in ("k", "unreachable"):
        assert not (await manager.connect(request(key, None))).spawned


async def test_what_was_acknowledged_may_be_told_again(world: World) -> None:
    answer = await world.manager.connect(request("k", "acknowledges"), [news(1)])
    told = (answer.backend_id, news(1))
    assert await world.acknowledged.get() == told
    await world.leave()
    await world.next()
    assert await world.acknowledged.get() == told


async def test_one_with_news_is_told_to_finish_by_the_next_manager_too(world: World) -> None:
    """It has not acknowledged what an earlier one has told it, and is given the time to."""
    manager = world.manager
    answer = await manager.connect(request("k", "unready", max_idle_seconds=1), [news(1)])
    assert world.engine.started[0].news == (news(1),)
    await world.leave()
    manager = await world.next()
    assert manager.deliver(answer.backend_id, [news(2)])
    manager.finish(answer.backend_id)
    assert not manager.deliver(answer.backend_id, [news(3)])


# Killed


async def test_a_manager_that_is_killed_before_any_of_its_commits(place: Path) -> None:
    """Whatever was told is known to the next one, goes on there, and comes to its end."""
    commits = 0
    while not await killed_before(commits, place / str(commits)):
        commits += 1
    # The term; the states of three backends, and for each its own token and that of who asked.
    assert commits == 1 + 6 + 4 + 4 + 3 * 2


@pytest.mark.parametrize("commits", [3, 8, 14])
async def test_a_manager_of_monitored_processes_that_is_killed(place: Path, commits: int) -> None:
    """Those go on without it."""
    assert not await killed_before(commits, place, process_engine, "default")
    await monitors_gone(place)


async def killed_before(
    commits: int,
    place: Path,
    make: Callable[[Path], Engine] = local_engine,
    tag: str = "told",
) -> bool:
    """Have a manager killed after so many commits; tell whether it had nothing to do any more."""
    place.mkdir(exist_ok=True)  # noqa: ASYNC240
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        dying_manager.__name__,
        str(place),
        str(commits),
        make.__name__,
        tag,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    told: list[tuple[int, str, str]] = []
    is_done = False
    try:
        async with asyncio.timeout(60):
            async for line in process.stdout:
                is_done = line == b"done\n"
                if is_done:
                    break
                number, backend_id, name = line.decode().split()
                told.append((int(number), backend_id, name))
    except TimeoutError:
        process.kill()
        raise
    if is_done:
        process.kill()
    assert await process.wait() == -signal.SIGKILL
    async with opened(place, make=make, term=dying_manager.TERM) as world:
        await check(world.manager, told)
    return is_done


async def check(manager: Manager, told: list[tuple[int, str, str]]) -> None:
    before = manager.backends()
    assert {id for _, id, _ in told} <= {backend.backend_id for backend in before}
    held = [each.key for each in before if each.state.status is not TERMINATED]
    assert len(set(held)) == len(held)
    served = [each.key for each in before if each.state.status.is_before(BackendStatus.TERMINATING)]
    for key in ("ends", "stays"):
        answer = await manager.connect(request(key, None if key in served else "default"))
        assert answer.spawned is (key not in served)
    for backend in manager.backends():
        manager.terminate(backend.backend_id)
    for backend in manager.backends():
        names = await seen(manager.follow(backend.backend_id))
        numbers = [BackendStatus(name).number for name in names]
        assert numbers == sorted(set(numbers))
        assert (names[0], names[-1]) == ("scheduled", "terminated")
    # Who had heard of those goes on, and has heard of all at the end.
    whole = list(told)
    rest = manager.follow_all(told[-1][0] if told else 0)
    while len(whole) < sum(len(manager.states(each.backend_id)) for each in manager.backends()):
        number, id, state = await anext(rest)
        whole.append((number, id, state.status.value))
    assert [number for number, _, _ in whole] == sorted({number for number, _, _ in whole})
    for backend in manager.backends():
        names = [name for _, id, name in whole if id == backend.backend_id]
        assert names == [state.status.value for state in manager.states(backend.backend_id)]
