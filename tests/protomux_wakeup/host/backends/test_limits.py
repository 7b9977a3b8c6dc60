"""When a backend has to go, who may reach it, and what it is told."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import pytest
from msgspec.structs import replace

from protomux_wakeup.host.backends import ledger
from protomux_wakeup.host.backends.engine import EngineError, Launch, Listener
from protomux_wakeup.host.backends.errors import NotReady, OtherUser, TagMismatch, UnknownBackend
from protomux_wakeup.host.backends.manager import Manager
from protomux_wakeup.host.backends.tokens import TOKEN_LIFETIME, digest_of, new_token, secret_of
from protomux_wakeup.host.backends.types import (
    BackendStatus,
    ConnectResponse,
    Terminated,
    TerminationKind,
    TerminationReason,
)
from protomux_wakeup.host.errors import StoreFailed
from tests.protomux_wakeup.host.backends.local_engine import ADDRESS, LocalEngine, LocalRunning
from tests.protomux_wakeup.host.backends.world import (
    COMMANDS,
    URLS,
    World,
    news,
    reach,
    request,
    seen,
)
from tests.protomux_wakeup.host.disk import full_disk

READY = BackendStatus.READY
TERMINATED = BackendStatus.TERMINATED


async def swept(manager: Manager, backend_id: str) -> None:
    """Wait until a backend has ended, and see that it was for its limits."""
    state = await reach(manager, backend_id, TERMINATED)
    assert isinstance(state, Terminated)
    assert state.termination_reason is TerminationReason.SWEPT


# Idle


async def test_one_that_nobody_connects_to_is_swept(world: World) -> None:
    answer = await world.manager.connect(request("k", max_idle_seconds=1))
    await swept(world.manager, answer.backend_id)
    names = await seen(world.manager.follow(answer.backend_id))
    assert names[-3:] == ["ready", "terminating", "terminated"]


async def test_one_that_somebody_is_connected_to_is_not(world: World) -> None:
    manager = world.manager
    loop = asyncio.get_running_loop()
    held = await manager.connect(request("held", max_idle_seconds=1))
    other = await manager.connect(request("other", max_idle_seconds=1))
    async with manager.connection(held.backend_id) as address:
        assert address == ADDRESS
        async with manager.connection(held.backend_id):
            assert manager.backend(held.backend_id).connections == 2
        assert manager.backend(held.backend_id).connections == 1
        await swept(manager, other.backend_id)
        assert manager.backend(held.backend_id).state.status is READY
        left = loop.time()
    assert manager.backend(held.backend_id).connections == 0
    await swept(manager, held.backend_id)
    assert loop.time() - left >= 0.99  # a whole limit from there on


async def test_one_that_is_not_ready_yet_is_not_idle(world: World) -> None:
    manager = world.manager
    unready = await manager.connect(request("unready", "told", max_idle_seconds=1))
    other = await manager.connect(request("other", max_idle_seconds=1))
    await swept(manager, other.backend_id)
    assert manager.backend(unready.backend_id).state.status is BackendStatus.WAITING


# News


async def test_one_with_news_is_told_to_finish_before_it_is_swept(world: World) -> None:
    manager = world.manager
    answer = await manager.connect(
        request("k", "acknowledges all at the end", max_idle_seconds=1), [news(1)]
    )
    id = answer.backend_id
    assert manager.deliver(id, [news(2, 5), news(2, 7), news(1, 3)])
    expected = [news(1), news(2, 5), news(2, 7), news(1, 3)]
    assert [await world.acknowledged.get() for _ in expected] == [(id, each) for each in expected]
    await swept(manager, id)  # it has done everything, and does not go by itself


async def test_one_that_has_something_to_do_yet_is_swept_later(world: World) -> None:
    manager = world.manager
    loop = asyncio.get_running_loop()
    answer = await manager.connect(
        request("k", "acknowledges the first at the end", max_idle_seconds=1), [news(1)]
    )
    id = answer.backend_id
    assert manager.deliver(id, [news(2)])
    assert await world.acknowledged.get() == (id, news(1))  # it was told to finish
    acknowledged = loop.time()
    # What comes from now on is not for it any more, and waits for its end.
    assert manager.backend(id).state.status is READY
    assert not manager.deliver(id, [news(3)])
    assert not (await manager.connect(request("k", None))).spawned
    after = await manager.connect(
        request("k", "acknowledges the first at the end"), [news(2), news(3)]
    )
    assert after.spawned
    await swept(manager, id)
    assert loop.time() - acknowledged >= 1.09  # the grace of its command, and what is idle for it
    assert world.engine.started[-1].news == (news(2), news(3))


async def test_one_that_ends_when_it_is_told_to_finish(world: World) -> None:
    answer = await world.manager.connect(
        request("k", "ends at the end", max_idle_seconds=1), [news(1)]
    )
    state = await reach(world.manager, answer.backend_id, TERMINATED)
    assert isinstance(state, Terminated)
    assert (state.termination_reason, state.exit_error) == (None, False)
    assert not world.manager.deliver(answer.backend_id, [news(1)])
    world.manager.finish(answer.backend_id)


async def test_what_is_acknowledged_is_told(world: World, caplog: pytest.LogCaptureFixture) -> None:
    manager = world.manager
    answer = await manager.connect(request("k", "acknowledges"), [news(1), news(2)])
    id = answer.backend_id
    assert [await world.acknowledged.get() for _ in range(2)] == [(id, news(1)), (id, news(2))]
    again = await manager.connect(request("k", "acknowledges"), [news(3)])
    assert not again.spawned
    assert await world.acknowledged.get() == (id, news(3))
    told = world.manager.on_acknowledged

    def fail(backend_id: str, news: object) -> None:
        manager.on_acknowledged = told
        raise KeyError(backend_id)

    manager.on_acknowledged = fail
    manager.deliver(id, [news(4)])
    manager.deliver(id, [news(5)])
    assert await world.acknowledged.get() == (id, news(5))
    assert "a hook of the manager failed" in caplog.text
    manager.on_acknowledged = None
    manager.deliver(id, [news(6)])
    manager.finish(id)
    await reach(manager, id, TERMINATED)
    assert world.acknowledged.empty()


async def test_news_for_one_that_finishes_are_for_the_next(world: World) -> None:
    manager = world.manager
    first = await manager.connect(request("k", "never ends"), [news(1)])
    await manager.wait_ready(first.backend_id)
    manager.finish(first.backend_id)
    manager.finish(first.backend_id)
    waiting = asyncio.create_task(manager.connect(request("k", "never ends"), [news(2)]))
    visitor = await manager.connect(request("k", None))
    assert visitor.backend_id == first.backend_id
    manager.terminate(first.backend_id)
    second = await waiting
    assert second.spawned
    assert world.engine.started[-1].news == (news(2),)


async def test_news_that_come_before_it_runs_are_delivered_then(world: World) -> None:
    manager = world.manager
    world.engine.held.clear()
    asking = asyncio.create_task(manager.connect(request("k", "acknowledges"), [news(1)]))
    await asyncio.sleep(0)
    backend = manager.key_of("k")
    assert backend is not None
    assert manager.deliver(backend.backend_id, [news(2)])
    manager.finish(backend.backend_id)
    world.engine.held.set()
    await asking
    acknowledged = [(await world.acknowledged.get())[1] for _ in range(2)]
    assert acknowledged == [news(1), news(2)]
    state = await reach(manager, backend.backend_id, TERMINATED)
    assert isinstance(state, Terminated)
    assert state.termination_reason is None


# Lifetimes


async def test_one_whose_lifetime_is_over(world: World) -> None:
    manager = world.manager
    answer = await manager.connect(request("k", lifetime_limit_seconds=1))
    async with manager.connection(answer.backend_id):
        await swept(manager, answer.backend_id)


async def test_a_lifetime_goes_on_while_there_is_no_manager(world: World) -> None:
    short = await world.manager.connect(request("short", lifetime_limit_seconds=100))
    long = await world.manager.connect(request("long", lifetime_limit_seconds=200))
    await world.leave()
    world.time += 100
    manager = await world.next()
    await swept(manager, short.backend_id)
    assert manager.backend(long.backend_id).state.status is READY
    await world.leave()
    world.time += 99
    manager = await world.next()
    await swept(manager, long.backend_id)


async def test_idle_ones_are_swept_by_the_next_manager(world: World) -> None:
    manager = world.manager
    answer = await manager.connect(request("k", max_idle_seconds=1))
    async with manager.connection(answer.backend_id):
        await world.leave()
        manager = await world.next()
    await swept(manager, answer.backend_id)


async def test_one_that_ends_by_force_when_it_does_not_end_in_time(world: World) -> None:
    answer = await world.manager.connect(request("k", "stubborn", max_idle_seconds=1))
    await swept(world.manager, answer.backend_id)
    last = world.manager.backend(answer.backend_id).state
    assert isinstance(last, Terminated)
    assert last.termination_kind is TerminationKind.HARD


# Who may reach them


async def test_a_token_leads_to_its_backend(world: World) -> None:
    manager = world.manager
    auth = {"role": "editor", "teams": [1, 2], "nested": {"x": None}}
    answer = await manager.connect(request("k", user="ann", auth=auth))
    route = manager.route(answer.token)
    assert route is not None
    assert route == (answer.backend_id, "ann", auth, answer.secret_token)
    nobody = await manager.connect(request("k"))
    route = manager.route(nobody.token)
    assert route is not None
    assert (route.user, route.auth) == (None, None)
    assert route.secret_token == nobody.secret_token != answer.secret_token


async def test_tokens_that_lead_nowhere(world: World) -> None:
    manager = world.manager
    answer = await manager.connect(request("k"))
    for token in (new_token(), "", answer.token[:-1], answer.token + "=", secret_of(answer.token)):
        assert manager.route(token) is None
    manager.terminate(answer.backend_id)
    await reach(manager, answer.backend_id, BackendStatus.TERMINATING)
    await reach(manager, answer.backend_id, TERMINATED)
    assert manager.route(answer.token) is None
    ended = await manager.connect(request("k", "missing"))
    assert manager.route(ended.token) is None


async def test_a_token_is_good_for_an_hour_since_its_last_use(world: World) -> None:
    used = await world.manager.connect(request("k"))
    unused = await world.manager.connect(request("k"))
    for _ in range(3):
        world.time += TOKEN_LIFETIME / 2
        assert world.manager.route(used.token)
        await world.leave()
        await world.next()
    assert world.manager.route(unused.token) is None
    world.time += TOKEN_LIFETIME - 0.001
    assert world.manager.route(used.token)
    world.time += TOKEN_LIFETIME
    assert world.manager.route(used.token) is None


async def test_old_tokens_go_when_new_ones_come(world: World) -> None:
    old = await world.manager.connect(request("k"))
    digest = digest_of(old.token)
    world.time += TOKEN_LIFETIME - 1
    await world.manager.connect(request("k"))
    assert world.store.token(digest) is not None
    world.time += 1
    await world.manager.connect(request("k"))
    assert world.store.token(digest) is None


async def test_no_file_has_a_token_in_it(world: World) -> None:
    answer = await world.manager.connect(request("k", user="ann of the file"))
    assert world.manager.route(answer.token)
    await world.leave()
    files = [file for file in world.place.rglob("*") if file.is_file()]
    content = b"".join(file.read_bytes() for file in files)
    assert b"ann of the file" in content
    assert digest_of(answer.token) in content
    assert answer.secret_token is not None
    for secret in (answer.token, answer.secret_token):
        assert secret.encode() not in content
        assert base64.urlsafe_b64decode(secret + "=") not in content
    await world.next()


async def test_a_connection_waits_for_so_long(world: World) -> None:
    await world.leave()
    manager = await world.next(ready_time=0.01)
    answer = await manager.connect(request("k", "unready"))
    with pytest.raises(NotReady, match=r"^expected a backend to be ready in 0.01 seconds$"):
        async with manager.connection(answer.backend_id):
            pass
    assert manager.backend(answer.backend_id).connections == 0


class Elsewhere(LocalEngine):
    """An engine that knows what to run, and whose backends are reached without us."""

    async def start(self, launch: Launch, listener: Listener) -> LocalRunning:
        self.started.append(launch)
        theirs = replace(launch, command=COMMANDS["default"])
        running = RunningElsewhere(self._directory, theirs, listener)
        running.start()
        self._all.add(running)
        return running


class RunningElsewhere(LocalRunning):
    @property
    def address(self) -> None:
        return None

    @property
    def response(self) -> ConnectResponse:
        return ConnectResponse(
            backend_id="theirs",
            spawned=True,
            status=BackendStatus.SCHEDULED,
            token="their token",
            url="https://their.example/their%20token/",
            status_url="https://their.example/status",
            ready_url="https://their.example/ready",
        )


async def test_a_backend_that_is_reached_without_us(world: World) -> None:
    await world.leave()
    manager = await world.next(engine=Elsewhere(world.place / "engine"), is_cluster=True)
    for is_spawned in (True, False):
        answer = await manager.connect(request("k", "any", user="ann", auth={"a": 1}))
        assert answer.spawned is is_spawned
        assert (answer.token, answer.secret_token) == ("their token", None)
        assert answer.url == "https://their.example/their%20token/"
        assert answer.backend_id == manager.backends()[0].backend_id
        assert answer.status_url == URLS.status(answer.backend_id)
    with pytest.raises(NotReady, match=r"^expected a backend that is reached through us"):
        async with manager.connection(answer.backend_id):
            pass
    # That token says who was let in.
    for other in (request("k", "any", user="bob", auth={"a": 1}), request("k", None, user="ann")):
        with pytest.raises(OtherUser, match=r"^expected the user that the backend was started for"):
            await manager.connect(other)
    with pytest.raises(TagMismatch, match=r"^expected the tag 'any', .*, got None$"):
        await manager.connect(request("k", True))
    await manager.connect(request("untagged", True))
    assert [(each.tag, each.address) for each in manager.backends()] == [
        ("any", None),
        (None, None),
    ]
    assert [launch.command for launch in world.engine.started] == [None, None]


async def test_who_is_connected_elsewhere_is_not_for_us_to_say(world: World) -> None:
    await world.leave()
    manager = await world.next(engine=Elsewhere(world.place / "engine"), is_cluster=True)
    held = await manager.connect(request("held", max_idle_seconds=1))
    told = await manager.connect(request("told", max_idle_seconds=1), [news(1)])
    other = await manager.connect(request("other", lifetime_limit_seconds=2))
    await swept(manager, other.backend_id)
    for answer in (held, told):
        assert manager.backend(answer.backend_id).state.status is READY
    assert manager.deliver(told.backend_id, [news(2)])  # it was not told to finish


# Retention


async def test_the_newest_that_have_ended_are_kept(world: World) -> None:
    await world.leave()
    manager = await world.next(kept=2)
    running = await manager.connect(request("runs"))
    ended = []
    for _ in range(5):
        answer = await manager.connect(request("k", "missing"))
        ended.append(answer.backend_id)
    assert [await world.engine.forgotten.get() for _ in range(3)] == ended[:3]
    await asyncio.sleep(0)
    assert [each.backend_id for each in manager.backends()] == [running.backend_id, *ended[3:]]
    assert [await manager.log(id) != b"" for id in ended[3:]] == [True, True]
    for id in ended[:3]:
        with pytest.raises(UnknownBackend):
            manager.states(id)
    everything = manager.follow_all()
    kept = {(await anext(everything))[1] for _ in range(4 + 2 * 3)}
    assert kept == {running.backend_id, *ended[3:]}
    await world.leave()
    manager = await world.next(kept=2)
    assert [each.backend_id for each in manager.backends()] == [running.backend_id, *ended[3:]]


async def test_who_follows_one_that_is_dropped_sees_it_to_the_end(world: World) -> None:
    await world.leave()
    manager = await world.next(kept=1)
    answers = [await manager.connect(request(None, "missing"))]
    follower = manager.follow(answers[0].backend_id)
    assert (await anext(follower)).status is BackendStatus.SCHEDULED
    await manager.connect(request(None, "missing"))
    assert await world.engine.forgotten.get() == answers[0].backend_id
    assert await seen(follower) == ["starting", "terminated"]


class Forgetful(LocalEngine):
    async def forget(self, backend_id: str) -> None:
        self.forgotten.put_nowait(backend_id)
        raise EngineError("the cluster does not answer")


async def test_one_whose_log_stays_is_dropped_all_the_same(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await world.leave()
    manager = await world.next(engine=Forgetful(world.place / "engine"), kept=1)
    answers = [await manager.connect(request(None, "missing")) for _ in range(3)]
    for answer in answers[:2]:
        assert await world.engine.forgotten.get() == answer.backend_id
    await asyncio.sleep(0)
    assert [each.backend_id for each in manager.backends()] == [answers[2].backend_id]
    assert "the log of a backend stays: the cluster does not answer" in caplog.text


# Full disks


async def test_nothing_starts_that_cannot_be_written_down(world: World) -> None:
    before = await world.manager.connect(request("k"))
    with full_disk(world.place):
        with pytest.raises(StoreFailed, match=r"^cannot use .*backends.db: "):
            await world.manager.connect(request("other"))
        with pytest.raises(StoreFailed):
            await world.manager.connect(request("k"))
        world.time += TOKEN_LIFETIME / 2
        assert world.manager.route(before.token)
    assert len(world.engine.started) == 1
    assert len(world.manager.backends()) == 1
    assert (await world.manager.connect(request("other"))).spawned


async def test_states_wait_until_there_is_room(world: World) -> None:
    manager = world.manager
    answer = await manager.connect(request("k"))
    with full_disk(world.place):
        manager.terminate(answer.backend_id)
        assert manager.backend(answer.backend_id).state.status is READY
    names = await seen(manager.follow(answer.backend_id, READY))
    assert names == ["terminating", "terminated"]


async def test_states_that_wait_are_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "RETRY", 0.01)
    manager = world.manager
    answer = await manager.connect(request("k", "very stubborn"))
    await manager.wait_ready(answer.backend_id)
    with full_disk(world.place):
        manager.terminate(answer.backend_id)
        assert manager.backend(answer.backend_id).state.status is READY
    await reach(manager, answer.backend_id, BackendStatus.TERMINATING)
    manager.terminate(answer.backend_id, hard=True)


async def test_states_that_wait_at_the_end_come_to_the_next_manager(world: World) -> None:
    manager = world.manager
    answer = await manager.connect(request("k", "very stubborn"))
    await manager.wait_ready(answer.backend_id)
    with full_disk(world.place):
        manager.terminate(answer.backend_id)
        await manager.close()
    world.store.close()
    manager = await world.next()
    assert manager.backend(answer.backend_id).state.status is BackendStatus.TERMINATING
    manager.terminate(answer.backend_id, hard=True)


class SlowToForget(LocalEngine):
    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.may_forget = asyncio.Event()

    async def forget(self, backend_id: str) -> None:
        await self.may_forget.wait()
        await super().forget(backend_id)


async def test_what_cannot_be_dropped_now_is_dropped_later(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await world.leave()
    engine = SlowToForget(world.place / "engine")
    manager = await world.next(engine=engine, kept=1)
    first = await manager.connect(request(None, "missing"))
    second = await manager.connect(request(None, "missing"))
    with full_disk(world.place):
        engine.may_forget.set()
        assert await world.engine.forgotten.get() == first.backend_id
        await asyncio.sleep(0)
        assert "backends that have ended are kept for now" in caplog.text
    assert len(manager.backends()) == 2
    third = await manager.connect(request(None, "missing"))
    dropped = [await world.engine.forgotten.get() for _ in range(2)]
    assert dropped == [first.backend_id, second.backend_id]
    await asyncio.sleep(0)
    assert [each.backend_id for each in manager.backends()] == [third.backend_id]
