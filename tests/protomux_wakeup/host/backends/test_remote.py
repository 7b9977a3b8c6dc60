from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from protomux_wakeup.host.backends.cluster import (
    ClusterLimits,
)
from protomux_wakeup.host.backends.dialects import read_state
from protomux_wakeup.host.backends.engine import Engine, News
from protomux_wakeup.host.backends.plane import PlaneEngine
from protomux_wakeup.host.backends.types import (
    ConnectRequest,
    SpawnConfig,
    Terminated,
    Terminating,
    TerminationKind,
    TerminationReason,
)
from protomux_wakeup.host.errors import StoreFailed

from .clustered import (
    ALL,
    DIALECTS,
    IMPATIENT,
    A,
    B,
    C,
    dialects,
    launch,
    live,
    opened,
)
from .scripted import (
    SECRET,
    TOKEN,
    ScriptedCluster,
    Told,
    answer,
    drip,
    endless,
    hang_up,
    never,
    play,
    silent,
)

# Its states.


@dialects
async def test_all_states_are_told_in_order(dialect: str, place: Path) -> None:
    async with ScriptedCluster(dialect).running() as cluster, opened(cluster, place) as engine:
        typed: Engine = engine
        told = Told()
        running = await typed.start(launch(), told)
        for status in ALL[:5]:
            await cluster.say(status)
            assert (await told.reached(status)).time == "2026-01-02T03:04:05.678Z"
        assert running.address is None
        assert running.response is not None
        assert running.response.url == f"{cluster.base}/{SECRET}/"
        assert running.response.ready_url == (
            f"{cluster.base}/ready" if dialect == "jamsocket" else ""
        )
        for status in ALL[5:7]:
            await cluster.say(status, termination_reason="key_expired")
        await cluster.say("terminated", termination_kind="soft", exit_error=False)
        assert await told.reached("terminated") == Terminated(
            time="2026-01-02T03:04:05.678Z", termination_kind=TerminationKind.SOFT, exit_error=False
        )
        assert told.statuses == ALL
        terminating = told.states[5]
        assert isinstance(terminating, Terminating)
        assert terminating.termination_reason is TerminationReason.KEY_EXPIRED
        assert len(cluster.requests("/connect")) == 1
        assert [each.headers.get("Authorization") for each in cluster.received] == [
            f"Bearer {TOKEN}",
            None,
            None,
        ]
        assert await typed.log("0" * 32) == b""


async def test_jamsocket_is_asked_for_the_same_with_a_key(place: Path) -> None:
    requests = [
        (ConnectRequest(), {"key": "room", "spawn": True}),
        (ConnectRequest(key="room", spawn=False), {"key": "room", "spawn": True}),
        (
            ConnectRequest(
                spawn=SpawnConfig(tag="t", max_idle_seconds=5), user="u", auth={"a": [1]}
            ),
            {
                "key": "room",
                "spawn": {"tag": "t", "max_idle_seconds": 5},
                "user": "u",
                "auth": {"a": [1]},
            },
        ),
    ]
    async with (
        ScriptedCluster("jamsocket").running() as cluster,
        opened(cluster, place) as engine,
    ):
        for number, (request, body) in enumerate(requests):
            await engine.start(launch(backend_id=f"{number:032x}", request=request), Told())
            asked = cluster.requests("/connect")[-1]
            assert (asked.path, asked.body) == ("/v2/service/acme/rooms/connect", body)


@dialects
async def test_a_stream_may_be_cut_anywhere(dialect: str, place: Path) -> None:
    async with ScriptedCluster(dialect).running() as cluster, opened(cluster, place) as engine:
        await live(cluster)
        whole = cluster.stream()
        for number, cut in enumerate(range(0, len(whole), 17)):
            cluster.streams.append(play(whole[:cut]))
            told = Told()
            await engine.start(launch(backend_id=f"{number:032x}", key=str(number)), told)
            await told.reached("terminated")
            assert told.statuses == ALL


@dialects
@pytest.mark.parametrize("has_ids", [True, False])
async def test_a_stream_may_be_cut_again_and_again(
    dialect: str, has_ids: bool, place: Path
) -> None:
    async with ScriptedCluster(dialect).running() as cluster, opened(cluster, place) as engine:
        cluster.has_ids = has_ids
        await live(cluster)
        whole = cluster.stream()
        size = max(map(len, whole.split(b"\n\n"))) + 2
        first = [whole[:cut] for cut in range(0, len(whole), size // 3)]
        cluster.streams.extend(play(piece) for piece in first)
        told = Told()
        await engine.start(launch(), told)
        await told.reached("terminated")
        assert told.statuses == ALL
        streams = cluster.requests("stream")
        sent = [each.headers.get("Last-Event-ID") for each in streams]
        assert sent[:2] == [None, None]
        assert set(sent) <= ({None, *ALL} if has_ids else {None})
        assert not has_ids or len(set(sent)) > 3


async def test_where_a_stream_goes_on_it_is_told_by_an_id_that_can_be_sent(place: Path) -> None:
    async with (
        ScriptedCluster("jamsocket").running() as cluster,
        opened(cluster, place) as engine,
    ):
        state = '{"status":"scheduled","time":"x"}'
        ids = ["x" * 256, "x" * 257, "\x01", "ü", "a b"]
        for id in ids:
            cluster.streams.append(play(f"id: {id}\ndata: {state}\n\n".encode()))
        told = Told()
        await engine.start(launch(), told)
        streams = await cluster.until(1 + len(ids), "/stream")
        sent = [each.headers.get("Last-Event-ID") for each in streams[1:]]
        assert sent == ["x" * 256, None, None, None, "a b"]


@dialects
async def test_states_that_go_back_or_come_twice_are_not_told(dialect: str, place: Path) -> None:
    async with ScriptedCluster(dialect).running() as cluster, opened(cluster, place) as engine:
        told = Told()
        await engine.start(launch(), told)
        for status in ("loading", "scheduled", "loading", "ready", "waiting", "ready"):
            await cluster.say(status)
        await cluster.say("terminated")
        await cluster.say("hard-terminating", termination_reason="lost")
        await told.reached("terminated")
        assert told.statuses == ["loading", "ready", "terminated"]


async def test_what_cannot_be_read_is_passed_over(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        ScriptedCluster("jamsocket").running() as cluster,
        opened(cluster, place) as engine,
    ):
        await live(cluster)
        whole = cluster.stream()
        cluster.streams.append(
            play(
                b"data: {\n\ndata: []\n\ndata: \xff\n\ndata\n\n: comment\n\nretry: 1\n\n"
                b"data: " + b"[" * 10_000 + b"\n\n"
                b'data: {"status":"paused","time":"x"}\nid: paused\n\n'
                b'data: {"status":"terminating","time":"x"}\n\n'
                b'event: other\ndata: {"status":"terminated","time":"x"}\n\n' + whole,
                cut=False,
            )
        )
        cluster.statuses.append(answer(200, b"{"))
        told = Told()
        await engine.start(launch(), told)
        await told.reached("terminated")
        assert told.statuses == ALL
        assert len(cluster.requests("/stream")) == 1
    assert sum("cannot be read" in each for each in caplog.messages) == 7


async def test_of_what_was_not_understood_the_id_is_not_sent_back(place: Path) -> None:
    async with (
        ScriptedCluster("jamsocket").running() as cluster,
        opened(cluster, place) as engine,
    ):
        await live(cluster)
        cluster.streams.append(
            play(cluster.stream()[:200], b'\n\ndata: {"status":1}\nid: terminated\n\n')
        )
        told = Told()
        await engine.start(launch(), told)
        await told.reached("terminated")
        assert told.statuses == ALL


@pytest.mark.parametrize(
    "broken",
    [
        endless,
        silent,
        hang_up,
        play(b"data: \n" * 2_000),
        play(b"x", kind="text/html", cut=False),
        play(cut=False),
        play(kind="text/event-stream; charset*", cut=False),
        answer(500),
        answer(503, Retry_After="0"),
        answer(429, Retry_After="0"),
        answer(401),
        answer(302, Location="/elsewhere"),
        answer(204),
        never,
    ],
)
@pytest.mark.parametrize("which", ["streams", "statuses"])
async def test_after_a_stream_that_is_none_comes_the_next(
    which: str, broken: Any, place: Path
) -> None:
    limits = ClusterLimits(
        first_wait=0.001,
        longest_wait=0.05,
        silence=0.1,
        request_time=0.1,
        event_size=1_000,
        answer_size=1_000,
    )
    async with (
        ScriptedCluster("jamsocket").running() as cluster,
        opened(cluster, place, limits=limits) as engine,
    ):
        await cluster.say("ready")
        getattr(cluster, which).extend([broken, broken])
        told = Told()
        await engine.start(launch(), told)
        await told.reached("ready")
        await cluster.say("terminated")
        await told.reached("terminated")
        assert told.statuses == ["ready", "terminated"]
        assert not cluster.requests("/elsewhere")


async def test_a_stream_may_say_what_it_is_in_many_ways(place: Path) -> None:
    async with (
        ScriptedCluster("jamsocket").running() as cluster,
        opened(cluster, place) as engine,
    ):
        ended = b'data: {"status": "terminated", "time": "2026-01-02T03:04:05Z"}\n\n'
        for kind in ("text/event-stream", "Text/Event-Stream ;charset=x", "text/event-stream; a*"):
            await cluster.say("ready")
            cluster.streams.append(play(ended, kind=kind))
            told = Told()
            await engine.start(launch(backend_id=kind, key=kind), told)
            await told.reached("terminated")
            assert len(cluster.requests("/stream")) == 1
            cluster.received.clear()


async def test_what_nobody_thought_of_is_a_failed_try(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fails = [IndexError("no such part"), AssertionError("cannot be")]

    def read(data: bytes) -> Any:
        if fails:
            raise fails.pop()
        return read_state(data)

    monkeypatch.setattr("protomux_wakeup.host.backends.remote.read_state", read)
    async with (
        ScriptedCluster("jamsocket").running() as cluster,
        opened(cluster, place) as engine,
    ):
        await cluster.say("terminated")
        told = Told()
        await engine.start(launch(), told)
        await told.reached("terminated")
        assert "no such part" in caplog.text


async def test_an_answer_has_to_come_to_its_end_in_time(place: Path) -> None:
    limits = ClusterLimits(first_wait=0.001, request_time=0.2)
    async with (
        ScriptedCluster("jamsocket").running() as cluster,
        opened(cluster, place, limits=limits) as engine,
    ):
        await cluster.say("ready")
        cluster.statuses.append(drip)
        told = Told()
        await engine.start(launch(), told)
        await told.reached("ready")
        assert len(cluster.requests("/status")) > 1


async def test_a_stream_that_is_alive_is_left_alone(place: Path) -> None:
    limits = ClusterLimits(first_wait=0.001, longest_wait=0.001, silence=1)

    async def alive(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for _ in range(24):
            await response.write(b":\n\n")
            await asyncio.sleep(0.05)
        await response.write(cluster.stream())
        return response

    async with (
        ScriptedCluster("jamsocket").running() as cluster,
        opened(cluster, place, limits=limits) as engine,
    ):
        await cluster.say("ready")
        cluster.streams.append(alive)
        told = Told()
        await engine.start(launch(), told)
        await told.reached("ready")
        assert len(cluster.requests("/stream")) == 1


# What has ended, and what is lost.


@dialects
async def test_a_backend_that_the_cluster_does_not_know_is_lost(
    dialect: str, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        ScriptedCluster(dialect).running() as cluster,
        opened(cluster, place, limits=IMPATIENT) as engine,
    ):
        told = Told()
        await engine.start(launch(), told)
        await cluster.say("ready")
        await told.reached("ready")
        cluster.known.clear()
        cluster.cut()
        state = await told.reached("terminated")
        assert isinstance(state, Terminated)
        assert state.termination_reason is TerminationReason.LOST
        assert (state.termination_kind, state.exit_error) == (None, None)
        assert datetime.fromisoformat(state.time) <= datetime.now(UTC)
        assert told.statuses == ["ready", "terminated"]
        assert len(cluster.requests("status")) > 2
    assert any("is lost" in each for each in caplog.messages)


async def test_a_cluster_that_has_gone_loses_what_it_has(place: Path) -> None:
    cluster = ScriptedCluster("jamsocket")
    async with cluster.running():
        engine = PlaneEngine(
            cluster.base, DIALECTS["jamsocket"], place, token=TOKEN, limits=IMPATIENT
        )
        await engine.open(1)
        told = Told()
        await engine.start(launch(), told)
        await cluster.until(1, "/stream")
    state = await told.reached("terminated")
    assert isinstance(state, Terminated)
    assert state.termination_reason is TerminationReason.LOST
    await engine.close()


async def test_what_has_ended_is_told_though_its_stream_does_not_say_so(place: Path) -> None:
    async with (
        ScriptedCluster("jamsocket").running() as cluster,
        opened(cluster, place) as engine,
    ):
        await cluster.say("ready")
        ready = cluster.stream()
        await cluster.say("terminated", exit_error=True)
        cluster.streams.append(play(ready, cut=False))
        told = Told()
        await engine.start(launch(), told)
        state = await told.reached("terminated")
        assert told.statuses == ["ready", "terminated"]
        assert isinstance(state, Terminated)
        assert (state.termination_reason, state.exit_error) == (None, True)
        assert len(cluster.requests("/stream")) == 1


async def test_what_has_ended_is_told_though_its_stream_always_breaks(place: Path) -> None:
    async with (
        ScriptedCluster("jamsocket").running() as cluster,
        opened(cluster, place, limits=IMPATIENT) as engine,
    ):
        await cluster.say("terminated", exit_error=True)
        cluster.streams.extend([play(kind="text/plain")] * 1_000)
        told = Told()
        await engine.start(launch(), told)
        state = await told.reached("terminated")
        assert told.statuses == ["terminated"]
        assert isinstance(state, Terminated)
        assert (state.termination_reason, state.exit_error) == (None, True)
        assert len(cluster.requests("/stream")) > 2


# Ending.


@dialects
async def test_a_backend_is_asked_to_end_and_then_made_to(dialect: str, place: Path) -> None:
    async with ScriptedCluster(dialect).running() as cluster, opened(cluster, place) as engine:
        told = Told()
        running = await engine.start(launch(), told)
        cluster.ends.extend([answer(503), hang_up])
        for _ in range(2):
            running.terminate(TerminationReason.SWEPT, hard=False)
        await cluster.until(3, "terminate")
        for _ in range(2):
            running.terminate(TerminationReason.KEY_EXPIRED, hard=True)
        running.terminate(TerminationReason.KEY_EXPIRED, hard=False)
        asked = (await cluster.until(4, "terminate"))[-2:]
        if dialect == "jamsocket":
            assert {each.path for each in asked} == {"/v2/backend/ba-0/terminate"}
            assert [each.body for each in asked] == [{"hard": False}, {"hard": True}]
        else:
            paths = ["/ctrl/b/ba-0/soft-terminate", "/ctrl/b/ba-0/hard-terminate"]
            assert [each.path for each in asked] == paths
            assert [each.body for each in asked] == [None, None]
        assert {each.headers["Authorization"] for each in asked} == {f"Bearer {TOKEN}"}
        await live(cluster)
        await told.reached("terminated")
        assert told.statuses == ALL
        reasons = [getattr(state, "termination_reason", None) for state in told.states]
        assert reasons == [None] * 5 + [TerminationReason.SWEPT] * 3  # ours, not "external"
        running.terminate(TerminationReason.SWEPT, hard=True)
        running.deliver([A])
        assert len(cluster.requests("terminate")) == 4


async def test_a_reason_of_the_clusters_own_is_kept(place: Path) -> None:
    async with (
        ScriptedCluster("jamsocket").running() as cluster,
        opened(cluster, place) as engine,
    ):
        told = Told()
        running = await engine.start(launch(), told)
        running.terminate(TerminationReason.SWEPT, hard=False)
        await cluster.say("terminated", termination_reason="lost", termination_kind="unheard of")
        state = await told.reached("terminated")
        assert isinstance(state, Terminated)
        assert state.termination_reason is TerminationReason.LOST
        assert state.termination_kind is None


async def test_a_cluster_that_does_not_let_us_end_it_is_asked_once(place: Path) -> None:
    async with (
        ScriptedCluster("jamsocket").running() as cluster,
        opened(cluster, place) as engine,
    ):
        cluster.ends.extend([answer(403), answer(404)])
        told = Told()
        running = await engine.start(launch(), told)
        for count, hard in ((1, False), (2, True)):
            running.terminate(TerminationReason.SWEPT, hard=hard)
            await cluster.until(count, "/terminate")
            for number in range(5):  # longer than it would wait until it asks again
                other = launch(backend_id=f"{count}{number}", key=f"{count}{number}")
                await engine.start(other, Told())
            assert len(cluster.requests("/terminate")) == count


async def test_what_is_still_to_be_done_ends_with_the_backend(place: Path) -> None:
    async with (
        ScriptedCluster("jamsocket").running() as cluster,
        opened(cluster, place) as engine,
    ):
        cluster.ends.append(never)
        cluster.hints.append(never)
        await cluster.say("ready")
        told = Told()
        running = await engine.start(launch(news=(A,)), told)
        await cluster.until(1, "/hints")
        running.terminate(TerminationReason.SWEPT, hard=False)
        await cluster.until(1, "/terminate")
        await cluster.say("terminated")
        await told.reached("terminated")


# News.


def news_of(*news: News) -> dict[str, Any]:
    return {"news": [[each.topic.hex(), each.key.hex(), each.length] for each in news]}


@dialects
async def test_news_wait_until_a_backend_is_ready(dialect: str, place: Path) -> None:
    async with ScriptedCluster(dialect).running() as cluster, opened(cluster, place) as engine:
        told = Told()
        running = await engine.start(launch(news=(A, B)), told)
        running.deliver([C, A._replace(length=9), B._replace(length=1)])
        await cluster.say("waiting")
        await told.reached("waiting")
        assert cluster.requests("/hints") == []
        await cluster.say("ready")
        await told.until(lambda: bool(told.acknowledgements))
        (posted,) = cluster.requests("/hints")
        some = [A._replace(length=9), B, C]
        assert (posted.path, posted.body) == (f"/{SECRET}/hints", news_of(*some))
        assert posted.headers["Content-Type"] == "application/json"
        assert "Authorization" not in posted.headers
        assert told.acknowledgements == [some]
        running.deliver([])
        running.deliver([A])
        await told.until(lambda: len(told.acknowledgements) == 2)
        assert told.acknowledgements[1] == [A]


async def test_news_are_told_until_they_are_taken(place: Path) -> None:
    async with (
        ScriptedCluster("jamsocket").running() as cluster,
        opened(cluster, place) as engine,
    ):
        await cluster.say("ready")
        grown = A._replace(length=5)

        async def grow(_request: web.Request) -> web.StreamResponse:
            running.deliver([grown, B])
            return web.Response(status=200, body=b"x" * 100_000)

        cluster.hints.extend([answer(500), answer(404), answer(302, Location="/"), hang_up, grow])
        told = Told()
        running = await engine.start(launch(news=(A,)), told)
        await told.until(lambda: len(told.acknowledgements) == 2)
        assert [each.body for each in cluster.requests("/hints")] == [news_of(A)] * 5 + [
            news_of(grown, B)
        ]
        assert told.acknowledgements == [[A], [grown, B]]


async def test_many_news_are_told_in_parts_and_too_many_are_left(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limits = ClusterLimits(first_wait=0.001, news=5, news_at_once=2)
    many = [News(bytes(32), bytes([n]) * 32, n) for n in range(10)]
    async with (
        ScriptedCluster("jamsocket").running() as cluster,
        opened(cluster, place, limits=limits) as engine,
    ):
        told = Told()
        running = await engine.start(launch(news=tuple(many)), told)
        grown = many[4]._replace(length=9)
        running.deliver([*many, grown])
        running.finish()
        running.deliver([grown._replace(length=10)])
        await cluster.say("ready")
        await told.until(lambda: len(told.acknowledgements) == 3)
        assert told.acknowledgements == [many[:2], many[2:4], [grown]]
    assert sum("takes no news in" in each for each in caplog.messages) == 1


async def test_news_that_cannot_be_noted_are_told_again(place: Path) -> None:
    class Failing(Told):
        def acknowledged(self, news: Any) -> None:
            super().acknowledged(news)
            if len(self.acknowledgements) == 1:
                raise StoreFailed("full")

    async with (
        ScriptedCluster("jamsocket").running() as cluster,
        opened(cluster, place) as engine,
    ):
        await cluster.say("ready")
        told = Failing()
        await engine.start(launch(news=(A,)), told)
        await told.until(lambda: told.acknowledgements == [[A], [A]])
        assert len(cluster.requests("/hints")) == 2


async def test_a_state_that_cannot_be_noted_is_told_again(place: Path) -> None:
    class Failing(Told):
        def moved(self, state: Any) -> None:
            super().moved(state)
            if self.statuses == ["scheduled", "loading"]:
                raise StoreFailed("full")

    async with (
        ScriptedCluster("jamsocket").running() as cluster,
        opened(cluster, place) as engine,
    ):
        await live(cluster)
        told = Failing()
        await engine.start(launch(), told)
        await told.reached("terminated")
        assert told.statuses == ["scheduled", "loading", *ALL[1:]]
