from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from protomux_wakeup.host.backends.engine import EngineError, Launch, Listener
from protomux_wakeup.host.backends.errors import (
    BackendError,
    KeyUnheld,
    ManagerClosed,
    NotReady,
    TagMismatch,
    TooManyBackends,
    UnknownBackend,
    UnknownTag,
)
from protomux_wakeup.host.backends.limits import ManagerLimits
from protomux_wakeup.host.backends.manager import Manager
from protomux_wakeup.host.backends.types import (
    BackendState,
    BackendStatus,
    ConnectRequest,
    HardTerminating,
    SpawnConfig,
    Terminated,
    Terminating,
    TerminationKind,
    TerminationReason,
)
from tests.protomux_wakeup.host.backends.local_engine import LocalEngine, LocalRunning
from tests.protomux_wakeup.host.backends.world import (
    URLS,
    World,
    news,
    reach,
    request,
    seen,
)

READY = BackendStatus.READY
TERMINATED = BackendStatus.TERMINATED


# Keys


async def test_a_key_has_one_backend_for_a_hundred_who_ask_at_once(world: World) -> None:
    manager = world.manager
    answers = await asyncio.gather(
        *(manager.connect(request("k", user=f"u{number}")) for number in range(100))
    )
    assert len({answer.backend_id for answer in answers}) == 1
    assert len({answer.token for answer in answers}) == 100
    assert [answer.spawned for answer in answers] == [True] + 99 * [False]
    assert len(world.engine.started) == 1
    assert [each.key for each in manager.backends()] == ["k"]
    users = [route.user for answer in answers if (route := manager.route(answer.token))]
    assert users == [f"u{number}" for number in range(100)]


async def test_an_answer_says_where_the_backend_is_and_how_it_goes(world: World) -> None:
    answer = await world.manager.connect(request("k"))
    assert re.fullmatch(r"[0-9a-f]{32}", answer.backend_id)
    assert answer.url == f"{URLS.proxy}/{answer.token}/"
    assert answer.status_url == f"{URLS.control}/v2/backend/{answer.backend_id}/status"
    assert answer.ready_url == f"{URLS.control}/v2/backend/{answer.backend_id}/ready"
    assert answer.status is READY
    assert answer.secret_token
    assert answer.secret_token != answer.token


@pytest.mark.parametrize("spawn", [None, False])
async def test_where_none_runs_and_none_is_to_be_started(world: World, spawn: bool | None) -> None:
    for key in ("k", None):
        with pytest.raises(KeyUnheld, match=r"^no backend has the key, and spawn was not asked"):
            await world.manager.connect(request(key, spawn))
    assert world.manager.backends() == []


@pytest.mark.parametrize("spawn", [None, False, "default"])
async def test_where_one_runs_it_is_the_one(world: World, spawn: Any) -> None:
    first = await world.manager.connect(request("k"))
    second = await world.manager.connect(request("k", spawn))
    assert (second.backend_id, second.spawned) == (first.backend_id, False)
    assert second.token != first.token


async def test_without_a_key_it_is_always_a_new_one(world: World) -> None:
    answers = [await world.manager.connect(request(None)) for _ in range(3)]
    assert all(answer.spawned for answer in answers)
    assert len({each.key for each in world.manager.backends()}) == 3


async def test_another_tag_under_the_same_key(world: World) -> None:
    await world.manager.connect(request("k"))
    expected = r"^expected the tag 'default', which the backend of the key has, got 'other'$"
    with pytest.raises(TagMismatch, match=expected) as raised:
        await world.manager.connect(request("k", "other"))
    assert raised.value.kind == "KeyHeld"


async def test_a_tag_that_nothing_is_set_up_for(world: World) -> None:
    with pytest.raises(UnknownTag, match=r"^expected one of the tags \['acknow.*, got 'none'$"):
        await world.manager.connect(request("k", "none"))
    assert world.manager.backends() == []
    world.commands["none"] = world.commands["default"]
    assert (await world.manager.connect(request("k", "none"))).spawned


async def test_who_names_no_tag_gets_the_default_or_the_only_one(world: World) -> None:
    first = await world.manager.connect(request("a", True))
    second = await world.manager.connect(ConnectRequest(key="b", spawn=SpawnConfig()))
    only = world.commands["other"]
    world.commands.clear()
    with pytest.raises(UnknownTag, match=r"^expected one of the tags \[\], got 'default'$"):
        await world.manager.connect(request("c", True))
    world.commands["only"] = only
    third = await world.manager.connect(request("c", True))
    tags = [world.manager.backend(each.backend_id).tag for each in (first, second, third)]
    assert tags == ["default", "default", "only"]


async def test_who_comes_while_one_ends_gets_the_next(world: World) -> None:
    manager = world.manager
    first = await manager.connect(request("k", "very stubborn"))
    await manager.wait_ready(first.backend_id)
    manager.terminate(first.backend_id)
    waiting = [asyncio.create_task(manager.connect(request("k"))) for _ in range(10)]
    await reach(manager, first.backend_id, BackendStatus.TERMINATING)
    unwilling = asyncio.create_task(manager.connect(request("k", None)))
    manager.terminate(first.backend_id, hard=True)
    seconds = await asyncio.gather(*waiting)
    assert len({answer.backend_id for answer in seconds}) == 1
    assert [answer.spawned for answer in seconds] == [True] + 9 * [False]
    assert (await unwilling).backend_id == seconds[0].backend_id != first.backend_id
    tokens = [launch.fencing_token for launch in world.engine.started]
    assert tokens[0] < tokens[1]
    assert manager.backend(first.backend_id).state.status is TERMINATED


async def test_whom_somebody_has_asked_to_end_is_not_handed_out(world: World) -> None:
    manager = world.manager
    world.engine.held.clear()
    first = asyncio.create_task(manager.connect(request("k")))
    await asyncio.sleep(0)
    (backend,) = manager.backends()
    manager.terminate(backend.backend_id)  # it does not run yet
    second = asyncio.create_task(manager.connect(request("k")))
    world.engine.held.set()
    assert (await first).backend_id == backend.backend_id
    answer = await second
    assert answer.spawned
    assert answer.backend_id != backend.backend_id
    assert isinstance(manager.states(backend.backend_id)[-1], Terminated)


async def test_fencing_tokens_grow_though_the_clock_goes_back(world: World) -> None:
    for time in (5_000.0, 5_000.0, 1.0, 6_000.0):
        world.time = time
        await world.manager.connect(request(None))
    tokens = [launch.fencing_token for launch in world.engine.started]
    assert tokens == [5_000_000, 5_000_001, 5_000_002, 6_000_000]


async def test_so_many_at_once(world: World) -> None:
    await world.leave()
    manager = await world.next(backends=2)
    first = await manager.connect(request("a"))
    await manager.connect(request("b"))
    with pytest.raises(TooManyBackends, match=r"^expected at most 2 backends at once$"):
        await manager.connect(request("c"))
    assert not (await manager.connect(request("a"))).spawned
    manager.terminate(first.backend_id)
    await reach(manager, first.backend_id, TERMINATED)
    assert (await manager.connect(request("c"))).spawned


async def test_who_asks_may_go_before_it_was_started(world: World) -> None:
    world.engine.held.clear()
    asking = asyncio.create_task(world.manager.connect(request("k")))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    world.engine.held.set()
    answer = await world.manager.connect(request("k", None))
    assert answer.spawned is False
    await world.manager.wait_ready(answer.backend_id)


class RefusingEngine(LocalEngine):
    async def start(self, launch: Launch, listener: Listener) -> LocalRunning:
        await self.held.wait()
        raise EngineError("expected a CPU controller for cpu_period_percent, there is none")


async def test_what_the_engine_refuses_is_told_to_all_who_asked(world: World) -> None:
    await world.leave()
    engine = RefusingEngine(world.place / "engine")
    manager = await world.next(engine=engine)
    engine.held.clear()
    asking = [asyncio.create_task(manager.connect(request("k"))) for _ in range(3)]
    await asyncio.sleep(0)
    (backend,) = manager.backends()
    engine.held.set()
    for each in asking:
        with pytest.raises(EngineError, match=r"^expected a CPU controller"):
            await each
    assert await seen(manager.follow(backend.backend_id)) == ["scheduled", "terminated"]
    state = manager.backend(backend.backend_id).state
    assert isinstance(state, Terminated)
    assert state.termination_reason is TerminationReason.INTERNAL_ERROR
    assert manager.key_of("k") is None


# Their lives


@pytest.mark.parametrize(("tag", "has_failed"), [("exits", False), ("fails", True)])
async def test_one_that_ends_by_itself(world: World, tag: str, has_failed: bool) -> None:
    answer = await world.manager.connect(request("k", tag))
    states = [state async for state in world.manager.follow(answer.backend_id)]
    assert [state.status for state in states] == [
        BackendStatus.SCHEDULED,
        BackendStatus.STARTING,
        BackendStatus.WAITING,
        BackendStatus.READY,
        BackendStatus.TERMINATED,
    ]
    last = states[-1]
    assert isinstance(last, Terminated)
    assert (last.termination_reason, last.termination_kind) == (None, None)
    assert last.exit_error is has_failed
    assert world.manager.states(answer.backend_id) == states
    assert world.manager.key_of("k") is None
    assert world.manager.backend(answer.backend_id).address is None


async def test_one_that_cannot_be_executed(world: World) -> None:
    answer = await world.manager.connect(request("k", "missing"))
    assert answer.spawned
    assert answer.status is TERMINATED
    names = await seen(world.manager.follow(answer.backend_id))
    assert names == ["scheduled", "starting", "terminated"]
    assert b"No such file" in await world.manager.log(answer.backend_id)


async def test_one_that_is_asked_to_end(world: World) -> None:
    answer = await world.manager.connect(request("k"))
    world.manager.terminate(answer.backend_id)
    world.manager.terminate(answer.backend_id)
    *_, asked, ended = [state async for state in world.manager.follow(answer.backend_id)]
    assert isinstance(asked, Terminating)
    assert asked.termination_reason is TerminationReason.EXTERNAL
    assert isinstance(ended, Terminated)
    assert ended.termination_reason is TerminationReason.EXTERNAL
    assert ended.termination_kind is TerminationKind.SOFT
    world.manager.terminate(answer.backend_id, hard=True)
    assert len(world.manager.states(answer.backend_id)) == 6


async def test_one_that_is_made_to_end_after_it_was_asked(world: World) -> None:
    manager = world.manager
    answer = await manager.connect(request("k", "very stubborn"))
    await manager.wait_ready(answer.backend_id)
    manager.terminate(answer.backend_id, reason=TerminationReason.KEY_EXPIRED)
    await reach(manager, answer.backend_id, BackendStatus.TERMINATING)
    manager.terminate(answer.backend_id, hard=True)
    *_, asked, made, ended = [state async for state in manager.follow(answer.backend_id)]
    assert isinstance(asked, Terminating)
    assert isinstance(made, HardTerminating)
    assert made.termination_reason is TerminationReason.KEY_EXPIRED
    assert isinstance(ended, Terminated)
    assert ended.termination_kind is TerminationKind.HARD
    assert ended.exit_error is True


async def test_what_is_asked_of_one_that_does_not_run_yet_is_asked_then(world: World) -> None:
    manager = world.manager
    world.engine.held.clear()
    asking = asyncio.create_task(manager.connect(request("k", "stubborn")))
    await asyncio.sleep(0)
    (backend,) = manager.backends()
    assert backend.state.status is BackendStatus.SCHEDULED
    assert backend.address is None
    manager.terminate(backend.backend_id)
    manager.terminate(backend.backend_id, hard=True)
    world.engine.held.set()
    await asking
    names = await seen(manager.follow(backend.backend_id))
    assert names[-3:] == ["terminating", "hard-terminating", "terminated"]


async def test_waiting_for_one_to_be_ready(world: World) -> None:
    manager = world.manager
    answer = await manager.connect(request("k", "told"))
    assert answer.status is BackendStatus.WAITING
    waiting = [asyncio.create_task(manager.wait_ready(answer.backend_id)) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(each.done() for each in waiting)
    assert manager.deliver(answer.backend_id, [news(1)])
    await asyncio.gather(*waiting)
    assert manager.backend(answer.backend_id).state.status is READY


async def test_waiting_for_one_that_ends_before_it_is_ready(world: World) -> None:
    manager = world.manager
    answer = await manager.connect(request("k", "unready"))
    waiting = asyncio.create_task(manager.wait_ready(answer.backend_id))
    connecting = asyncio.create_task(connect_through(manager, answer.backend_id))
    await asyncio.sleep(0)
    manager.terminate(answer.backend_id)
    for each in (waiting, connecting):
        with pytest.raises(NotReady, match=r"^expected a backend that is ready, or will be; it is"):
            await each
    await reach(manager, answer.backend_id, TERMINATED)
    with pytest.raises(NotReady, match=r"it is terminated$"):
        await manager.wait_ready(answer.backend_id)
    assert manager.backend(answer.backend_id).connections == 0


async def connect_through(manager: Manager, backend_id: str) -> tuple[str, int]:
    async with manager.connection(backend_id) as address:
        return address


async def test_ids_of_none(world: World) -> None:
    manager = world.manager
    for call in (
        manager.backend,
        manager.states,
        manager.follow,
        manager.terminate,
        manager.finish,
        lambda id: manager.deliver(id, []),
    ):
        with pytest.raises(UnknownBackend, match=r"^expected the id of a backend .*, got 'x'$"):
            call("x")
    for wait in (manager.wait_ready, manager.log, lambda id: connect_through(manager, id)):
        with pytest.raises(UnknownBackend):
            await wait("x")
    assert manager.key_of("x") is None


def test_errors_have_the_names_that_plane_gives_them() -> None:
    kinds = {kind.kind for kind in BackendError.__subclasses__()}
    assert kinds == {"KeyUnheldNoSpawnConfig", "KeyHeld", "NotFound", "NoDroneAvailable", "Other"}


# Those who follow


async def test_each_state_is_seen_once_and_in_order_by_all(world: World) -> None:
    """However early or late they come, and whatever they have seen."""
    manager = world.manager
    world.engine.held.clear()
    asking = asyncio.create_task(manager.connect(request("k", "told")))
    await asyncio.sleep(0)
    (backend,) = manager.backends()
    id = backend.backend_id
    followers: list[tuple[BackendStatus | None, asyncio.Task[list[str]]]] = []

    def follow() -> None:
        for after in (None, *BackendStatus):
            follower = asyncio.create_task(seen(manager.follow(id, after)))
            followers.append((after, follower))

    follow()
    world.engine.held.set()
    follow()
    await asking
    follow()
    manager.deliver(id, [news(1)])
    await manager.wait_ready(id)
    follow()
    manager.terminate(id)
    await reach(manager, id, BackendStatus.TERMINATING)
    follow()
    await reach(manager, id, TERMINATED)
    follow()
    names = ["scheduled", "starting", "waiting", "ready", "terminating", "terminated"]
    for after, follower in followers:
        later = [name for name in names if after is None or after.is_before(BackendStatus(name))]
        assert await follower == later


class Stammering:
    """A listener that hears everything again, and in no order."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._heard: list[BackendState] = []
        self.acknowledged = listener.acknowledged

    def moved(self, state: BackendState) -> None:
        self._heard.append(state)
        for each in (state, *self._heard, *reversed(self._heard)):
            self._listener.moved(each)


class StammeringEngine(LocalEngine):
    async def start(self, launch: Launch, listener: Listener) -> LocalRunning:
        return await super().start(launch, Stammering(listener))


async def test_each_state_is_seen_once_however_often_it_is_told(world: World) -> None:
    await world.leave()
    manager = await world.next(engine=StammeringEngine(world.place / "engine"))
    everything = manager.follow_all()
    answer = await manager.connect(request("k"))
    manager.terminate(answer.backend_id)
    names = await seen(manager.follow(answer.backend_id))
    assert names == ["scheduled", "starting", "waiting", "ready", "terminating", "terminated"]
    assert [(await anext(everything))[2].status.value for _ in names] == names


async def test_following_all_goes_on_from_a_number(world: World) -> None:
    manager = world.manager
    everything = manager.follow_all()
    first = await manager.connect(request("a", "exits"))
    second = await manager.connect(request("b"))
    await reach(manager, first.backend_id, TERMINATED)
    found = [await anext(everything) for _ in range(9)]
    numbers = [number for number, _, _ in found]
    assert numbers == sorted(set(numbers))
    for answer, count in ((first, 5), (second, 4)):
        states = [state for _, id, state in found if id == answer.backend_id]
        assert states == manager.states(answer.backend_id)
        assert len(states) == count
    for index, number in enumerate(numbers[:-1]):
        again = manager.follow_all(number)
        assert [await anext(again) for _ in range(8 - index)] == found[index + 1 :]
    late = manager.follow_all(numbers[-1])
    news = asyncio.ensure_future(anext(late))
    await asyncio.sleep(0)
    manager.terminate(second.backend_id)
    number, id, state = await news
    assert number > numbers[-1]
    assert (id, state.status) == (second.backend_id, BackendStatus.TERMINATING)
    assert await anext(everything) == (number, id, state)


async def test_following_more_than_is_read_at_once(world: World) -> None:
    for _ in range(30):
        answers = await asyncio.gather(
            *(world.manager.connect(request(None, "exits")) for _ in range(3))
        )
        for answer in answers:
            await reach(world.manager, answer.backend_id, TERMINATED)
    everything = world.manager.follow_all()
    found = [await anext(everything) for _ in range(90 * 5)]
    for backend in world.manager.backends():
        states = [state for _, id, state in found if id == backend.backend_id]
        assert states == world.manager.states(backend.backend_id)


# Ends of managers


async def test_a_manager_that_closes_tells_all_who_wait(world: World) -> None:
    manager = world.manager
    answer = await manager.connect(request("k", "very stubborn"))
    await manager.wait_ready(answer.backend_id)
    unready = await manager.connect(request("u", "unready"))
    manager.terminate(answer.backend_id)
    await reach(manager, answer.backend_id, BackendStatus.TERMINATING)
    world.engine.held.clear()
    waiting = [
        asyncio.ensure_future(each)
        for each in (
            manager.connect(request("k")),
            manager.connect(request("new")),
            manager.wait_ready(unready.backend_id),
            seen(manager.follow(answer.backend_id)),
            anext(manager.follow_all(100)),
            connect_through(manager, unready.backend_id),
        )
    ]
    for _ in range(5):
        await asyncio.sleep(0)
    await world.leave()
    for each in waiting:
        with pytest.raises(ManagerClosed):
            await each
    for late in (
        manager.connect(request("k")),
        manager.connect(request("too late")),
        seen(manager.follow(answer.backend_id)),
        anext(manager.follow_all()),
    ):
        with pytest.raises(ManagerClosed):
            await late
    await manager.close()
    manager = await world.next()
    states = manager.states(answer.backend_id)
    assert [state.status for state in states][-1] is BackendStatus.TERMINATING
    assert manager.backend(unready.backend_id).state.status is BackendStatus.WAITING
    assert manager.key_of("too late") is None
    (lost,) = [each for each in manager.backends() if each.key == "new"]
    assert lost.state.status is TERMINATED
    manager.terminate(answer.backend_id, hard=True)


async def test_shutting_down_ends_all_by_force_if_need_be(world: World) -> None:
    await world.leave()
    manager = await world.next(shut_down_time=0.2)
    soft = await manager.connect(request("a"))
    hard = await manager.connect(request("b", "very stubborn"))
    await manager.wait_ready(hard.backend_id)
    followers = [
        asyncio.create_task(seen(manager.follow(each.backend_id))) for each in (soft, hard)
    ]
    shutting = asyncio.create_task(manager.shut_down())
    await asyncio.sleep(0)
    with pytest.raises(ManagerClosed):
        await manager.connect(request("c"))
    await shutting
    ends = [await follower for follower in followers]
    assert ends[0][-2:] == ["terminating", "terminated"]
    assert ends[1][-3:] == ["terminating", "hard-terminating", "terminated"]


@pytest.mark.parametrize("limits", [{"backends": 0}, {"kept": -1}, {"ready_time": 0.0}])
def test_limits_are_above_zero(limits: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^expected [a-z_]+ above 0, got "):
        ManagerLimits(**limits)
