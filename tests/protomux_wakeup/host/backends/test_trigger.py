"""What is run for topics: the trigger over a manager, and processes that want something run."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from protomux.crypto import discovery_key
from protomux_wakeup import host
from protomux_wakeup.host.backends import trigger
from protomux_wakeup.host.backends.client import BackendsClient, join_backends
from protomux_wakeup.host.backends.engine import Command, News
from protomux_wakeup.host.backends.trigger import Trigger
from protomux_wakeup.host.backends.types import BackendStatus
from protomux_wakeup.host.errors import RemoteError
from protomux_wakeup.host.service_client import Hint
from tests.protomux_wakeup.host.backends.world import (
    World,
    command,
    key,
    opened,
    reach,
    request,
    shell,
)

CAPABILITY = b"\1" * 32
TOPIC = discovery_key(CAPABILITY)
OTHER = b"\2" * 32
LIMIT = 60.0

SLEEPS = command("sleep", "1100", grace=1.0)


class Service:
    """Where hints come from, as a trigger sees it.

    Attributes:
        failure: what it raises.
        stored: what was acknowledged.
    """

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.stored: list[Hint] = []
        self._hints: asyncio.Queue[Hint] = asyncio.Queue()

    async def watch(self, capability: bytes, *, watcher: str) -> bytes:
        self._fail()
        return discovery_key(capability)

    async def acknowledge(self, *hints: Hint) -> None:
        await asyncio.sleep(0)
        self._fail()
        self.stored += hints

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure

    async def hints(self, *, acknowledge: bool) -> AsyncIterator[Hint]:
        assert not acknowledge
        while True:
            yield await self._hints.get()

    def tell(self, number: int, length: int = 1, capability: bytes = CAPABILITY) -> None:
        """A log of the topic has grown."""
        self._hints.put_nowait(Hint(discovery_key(capability), key(number), length))


class Stage:
    """A trigger that runs."""

    def __init__(self, world: World) -> None:
        self.manager = world.manager
        self.engine = world.engine
        self.service = Service()
        self.commands: dict[str, Command] = world.commands
        service: Any = self.service
        self.trigger = Trigger(self.manager, self.commands, service)
        self.states: asyncio.Queue[tuple[str, BackendStatus]] = asyncio.Queue()
        self.trigger.on_state = lambda _topic, id, state: self.states.put_nowait((id, state.status))

    async def until(self, status: BackendStatus) -> str:
        """Return the id of the next backend that is in that state."""
        while True:
            backend_id, found = await self.states.get()
            if found is status:
                return backend_id


@asynccontextmanager
async def _running(world: World) -> AsyncIterator[Stage]:
    stage = Stage(world)
    running = asyncio.create_task(stage.trigger.run())
    try:
        yield stage
    finally:
        running.cancel()
        await asyncio.wait((running,))


@pytest.fixture
async def stage(place: Path) -> AsyncIterator[Stage]:
    async with opened(place) as world, _running(world) as stage:
        yield stage


# Who does not want it any more


async def test_off_ends_what_an_earlier_manager_has_started(stage: Stage) -> None:
    answer = await stage.manager.connect(request(TOPIC.hex()))
    await stage.trigger.remove("user", TOPIC)
    state = stage.manager.backend(answer.backend_id).state
    assert state.status is BackendStatus.TERMINATED


async def test_off_while_one_is_to_start(stage: Stage) -> None:
    slow = shell("trap 'sleep 0.5; exit 0' TERM; echo READY=1; while :; do sleep 0.1; done")
    tag = "before"
    stage.commands[tag] = slow
    before = await stage.manager.connect(request(TOPIC.hex(), tag))
    await reach(stage.manager, before.backend_id, BackendStatus.READY)
    stage.manager.terminate(before.backend_id)
    await stage.trigger.add("user", CAPABILITY, SLEEPS, idle=None)
    stage.service.tell(1)
    for _ in range(10):  # it waits for the end of the one before
        await asyncio.sleep(0)
    await stage.trigger.remove("user", TOPIC)
    assert stage.manager.key_of(TOPIC.hex()) is None
    await asyncio.sleep(0)
    assert stage.manager.key_of(TOPIC.hex()) is None


async def test_off_in_the_moment_of_a_hint(stage: Stage) -> None:
    await stage.trigger.add("user", CAPABILITY, SLEEPS, idle=None)
    await asyncio.sleep(0)
    stage.service.tell(1)
    for _ in range(10):
        await asyncio.sleep(0)
        if stage.trigger._topics[TOPIC].is_wanted:
            break
    await stage.trigger.remove("user", TOPIC)
    for _ in range(10):
        await asyncio.sleep(0)
    assert stage.manager.key_of(TOPIC.hex()) is None
    # What came meanwhile is for who wants it next.
    await stage.trigger.add("user", CAPABILITY, SLEEPS, idle=None)
    await stage.until(BackendStatus.READY)


async def test_off_waits_for_what_is_acknowledged_of_the_topic_alone(stage: Stage) -> None:
    await stage.trigger.add("user", CAPABILITY, SLEEPS, idle=None)
    await stage.trigger.add("user", OTHER, SLEEPS, idle=None)
    told = stage.manager.on_acknowledged
    assert told is not None
    other = discovery_key(OTHER)

    async def goes_on() -> None:
        for length in range(1_000_000):
            told("id", [News(other, key(1), length)])
            await asyncio.sleep(0)

    busy = asyncio.create_task(goes_on())
    told("id", [News(TOPIC, key(1), 5)])
    await stage.trigger.remove("user", TOPIC)
    assert Hint(TOPIC, key(1), 5) in stage.service.stored
    assert not busy.done()
    busy.cancel()


async def test_off_while_the_service_fails(stage: Stage) -> None:
    await stage.trigger.add("user", CAPABILITY, SLEEPS, idle=None)
    stage.service.failure = RemoteError("the disk is full")
    told = stage.manager.on_acknowledged
    assert told is not None
    told("id", [News(TOPIC, key(1), 5)])
    async with asyncio.timeout(LIMIT):
        await stage.trigger.remove("user", TOPIC)
    assert stage.service.stored == []


# Who wants it again


async def test_a_wish_that_is_told_again_stays_where_the_service_fails(stage: Stage) -> None:
    await stage.trigger.add("user", CAPABILITY, SLEEPS, idle=None)
    stage.service.failure = RemoteError("the disk is full")
    for user, wanted in (("user", [TOPIC]), ("other", [])):
        with pytest.raises(RemoteError):
            await stage.trigger.add(user, CAPABILITY, SLEEPS, idle=None)
        assert stage.trigger.wanted_by(user) == wanted


async def test_who_has_acknowledged_at_once_has_the_next_one_started_at_once(stage: Stage) -> None:
    loop = asyncio.get_running_loop()
    told = stage.manager.on_acknowledged
    assert told is not None
    await stage.trigger.add("user", CAPABILITY, command("false"), idle=None)
    begun = loop.time()
    stage.service.tell(0)
    for number in range(5):
        stage.engine.held.clear()
        while len(stage.engine.started) == number:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)
        told(stage.engine.started[-1].backend_id, [News(TOPIC, key(number), 1)])
        stage.service.tell(number + 1)
        stage.engine.held.set()
        await stage.until(BackendStatus.TERMINATED)
    assert loop.time() - begun < 1 + 2 + 4 + 8


async def test_who_acknowledges_the_same_again_has_acknowledged_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trigger, "FIRST_DELAY", 10 * LIMIT)
    told = stage.manager.on_acknowledged
    assert told is not None

    async def starts(capability: bytes, length: int) -> None:
        """One starts for the topic, acknowledges so much of its log, and fails."""
        topic = discovery_key(capability)
        while (backend := stage.manager.key_of(topic.hex())) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        told(backend.backend_id, [News(topic, key(1), length)])
        stage.manager.terminate(backend.backend_id)
        while await stage.until(BackendStatus.TERMINATED) != backend.backend_id:
            pass

    for capability in (CAPABILITY, OTHER):
        await stage.trigger.add("user", capability, SLEEPS, idle=None)
        stage.service.tell(1, 10, capability)
    for length in (3, 5, 5):  # at once, but for the last
        await starts(CAPABILITY, length)
    for length in (3, 5, 7, 9):
        await starts(OTHER, length)
    keys = [launch.key for launch in stage.engine.started]
    assert keys.count(TOPIC.hex()) == 3


# What an earlier manager has run


async def _end_between_managers(world: World) -> str:
    """Have a backend for the topic that ends while there is no manager; return its id."""
    answer = await world.manager.connect(request(TOPIC.hex()))
    await reach(world.manager, answer.backend_id, BackendStatus.READY)
    await world.leave()
    world.kill(answer.backend_id)
    await world.next()
    return answer.backend_id


async def test_what_has_ended_between_two_managers_is_told(place: Path) -> None:
    async with opened(place) as world:
        backend_id = await _end_between_managers(world)
        expected = [(backend_id, state.status) for state in world.manager.states(backend_id)]
        assert expected[-1] == (backend_id, BackendStatus.TERMINATED)
        async with _running(world) as stage:
            for user in ("user", "other"):
                await stage.trigger.add(user, CAPABILITY, SLEEPS, idle=None)
            assert [await stage.states.get() for _ in expected] == expected
            # Who comes then hears of it as well, and of what runs now.
            told = stage.trigger.states(TOPIC)
            assert [(id, state.status) for id, state in told] == expected
            stage.service.tell(1)
            after = await stage.until(BackendStatus.READY)
            told = stage.trigger.states(TOPIC)
            assert [(id, state.status) for id, state in told[: len(expected)]] == expected
            assert {id for id, _ in told[len(expected) :]} == {after}


async def test_what_has_ended_is_no_news_for_who_comes_late(place: Path) -> None:
    async with opened(place) as world:
        backend_id = await _end_between_managers(world)
        async with _running(world) as stage:
            await stage.trigger.abandon()
            await stage.trigger.add("user", CAPABILITY, SLEEPS, idle=None)
            assert stage.trigger.states(TOPIC) == []
            stage.service.tell(1)
            first, status = await stage.states.get()
            assert (first != backend_id, status) == (True, BackendStatus.SCHEDULED)


async def test_what_was_acknowledged_to_an_earlier_manager_is_not_done_again(stage: Stage) -> None:
    told = stage.manager.on_acknowledged
    assert told is not None
    told("id", [News(TOPIC, key(1), 5)])
    stage.service.tell(1, 5)  # which does not know yet
    stage.service.tell(2, 3)
    stage.service.tell(3, 1, OTHER)
    other = stage.trigger._topic(discovery_key(OTHER))
    await other.until(lambda: other.pending)
    await stage.trigger.add("user", CAPABILITY, SLEEPS, idle=None)
    await stage.until(BackendStatus.READY)
    (started,) = stage.engine.started
    assert started.news == (News(TOPIC, key(2), 3),)


# Over processes


@asynccontextmanager
async def _joined(place: Path) -> AsyncIterator[tuple[host.ServiceClient, BackendsClient]]:
    async with (
        asyncio.timeout(LIMIT),
        host.join("p", directory=place / "r", state=place / "p") as peer,
        host.join("n", directory=place / "r", state=place / "n") as service,
        join_backends("n", directory=place / "r", state=place / "n") as backends,
    ):
        await service.connect(await peer.listen(f"unix:{place}/peer.sock"))
        yield peer, backends


async def test_off_while_the_manager_is_replaced(place: Path) -> None:
    states: asyncio.Queue[BackendStatus] = asyncio.Queue()
    async with _joined(place) as (peer, backends):
        backends.on_state = lambda _topic, _id, state: states.put_nowait(state.status)
        topic = await backends.on(CAPABILITY, ["sleep", "1101"], idle=None)
        await peer.announce(CAPABILITY, [(key(1), 5)])
        while await states.get() is not BackendStatus.READY:
            pass
        assert backends.client.worker_pid is not None
        os.kill(backends.client.worker_pid, signal.SIGKILL)
        await backends.off(topic)
        found = [each.state.status for each, _ in await backends.backends()]
        assert found == [BackendStatus.TERMINATED]


async def test_how_long_one_may_be_idle_has_a_bound(place: Path) -> None:
    async with _joined(place) as (_, backends):
        for seconds in (0, 2**31):
            with pytest.raises(RemoteError, match=r"\$\.idle"):
                await backends.on(CAPABILITY, ["true"], idle=seconds)
        await backends.on(CAPABILITY, ["true"], idle=2**31 - 1)


async def test_each_state_is_told_once_while_the_manager_is_replaced(place: Path) -> None:
    go, done = place / "go", place / "done"
    script = f"""read _ topic key length; while [ ! -e {go} ]; do sleep 0.01; done
echo $length >>{done}; echo "ack $topic $key $length" >&$PROTOMUX_ACK_FD"""
    async with (
        _joined(place) as (peer, backends),
        join_backends("n", directory=place / "r", state=place / "n") as others,
    ):
        heard: list[asyncio.Queue[tuple[str, BackendStatus]]] = []
        for client in (backends, others):
            states: asyncio.Queue[tuple[str, BackendStatus]] = asyncio.Queue()
            client.on_state = lambda _topic, id, state, states=states: states.put_nowait(
                (id, state.status)
            )
            heard.append(states)
            await client.on(CAPABILITY, ["sh", "-c", script], idle=None)
        await peer.announce(CAPABILITY, [(key(1), 5)])
        found: list[list[tuple[str, BackendStatus]]] = [[], []]
        for told, states in zip(found, heard, strict=True):
            while not told or told[-1][1] is not BackendStatus.READY:
                told.append(await states.get())
        assert backends.client.worker_pid is not None
        os.kill(backends.client.worker_pid, signal.SIGKILL)
        go.touch()
        for told, states in zip(found, heard, strict=True):
            while told[-1][1] is not BackendStatus.TERMINATED:
                told.append(await states.get())
            ((_, expected),) = await backends.backends()
            assert [status for _, status in told] == [state.status for state in expected]
            assert len({id for id, _ in told}) == 1
        assert done.read_text() == "5\n"
