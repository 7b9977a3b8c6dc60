from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from protomux import LimitExceeded, StreamClosed
from protomux_wakeup import Wakeup, Writer, host
from protomux_wakeup.host.calls import CALLS
from protomux_wakeup.host.errors import ForeignPeer, LeaderLost, RemoteError, RequestTimeout
from protomux_wakeup.host.limits import Limits

from .members import QUICK, WORKERS, gone, is_running, members, start, until_empty
from .workers import CAPABILITY, WRITER

LIMITS = Limits(**QUICK)  # type: ignore[arg-type]


def joining(place: Path, worker: str = "main", **options: Any) -> host.Client:
    return host.join("test", f"{WORKERS}:{worker}", directory=place, limits=LIMITS, **options)


async def test_the_first_leads_and_is_served(place: Path) -> None:
    async with joining(place) as client:
        assert client.is_leader
        assert await client.call("add", [1, 2, 3]) == 6
        stamp = await client.call("stamp")
        assert stamp["pid"] == client.worker_pid != os.getpid()
        assert await client.call("clients") == [client.id]
        worker = client.worker_pid
    assert worker is not None
    assert not is_running(worker)
    await until_empty(place)


async def test_all_share_one_worker(place: Path) -> None:
    async with joining(place) as first, joining(place) as second, members(place, 1) as [third]:
        state = await third.result("state")
        assert state["worker"] == first.worker_pid == second.worker_pid
        assert state["leader"] == first.leader_id == second.leader_id
        assert [first.is_leader, second.is_leader, state["leads"]] == [True, False, False]
        assert await first.call("add", [1]) == await third.result("call", "add", [1])
        assert sorted(await second.call("clients")) == sorted([first.id, second.id, state["id"]])
    await until_empty(place)


async def test_what_is_said(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The first client, its connection to itself, then a follower."""
    caplog.set_level(logging.DEBUG, "protomux_wakeup.host")
    async with joining(place) as first, joining(place) as second:
        said = "\n".join(map(str.strip, caplog.messages))
    said = said.replace(first.id, "first").replace(second.id, "second")
    # Who asks before there is a worker is told to wait, and asks again.
    lines = [line for line in said.splitlines() if " -> " in line or " <- " in line]
    ready = lines.index("first -> coordinator: new-leader first")
    early = ("claim", "request-port", "patience")
    before = [line for line in lines[:ready] if line.split(": ")[1].split()[0] not in early]
    assert [*before, *dict.fromkeys(lines[ready:])] == [
        "leader <- worker: listening",
        "leader -> worker: init first",
        "leader <- worker: ready",
        "first -> coordinator: new-leader first",
        "first -> coordinator: request-port first",
        "first <- coordinator: request-port first",
        "leader -> worker: start-session first",
        "leader <- worker: session first",
        "first -> coordinator: provide-port first",
        "first <- coordinator: provide-port first",
        "second <- coordinator: new-leader first",
        "second -> coordinator: request-port second",
        "first <- coordinator: request-port second",
        "leader -> worker: start-session second",
        "leader <- worker: session second",
        "first -> coordinator: provide-port second",
        "second <- coordinator: provide-port second",
    ]


async def test_errors_cross(place: Path) -> None:
    async with joining(place) as client:
        with pytest.raises(RemoteError, match="no such thing") as caught:
            await client.call("fail", "no such thing")
        assert caught.value.code == "EOOPS"
        with pytest.raises(RemoteError, match="Unknown method: nothing"):
            await client.call("nothing")
        with pytest.raises(RequestTimeout, match="'for ever'"):
            await client.call("for ever", timeout=0.05)
        with pytest.raises(TypeError, match="JSON"):
            await client.call("add", object())
        assert await client.call("add", [1]) == 1


async def test_the_worker_tells_and_asks_its_clients(place: Path) -> None:
    async with joining(place) as first, joining(place) as second:
        told: list[asyncio.Queue[Any]] = [asyncio.Queue(), asyncio.Queue()]
        first.respond("told", told[0].put_nowait)
        second.respond("told", told[1].put_nowait)
        await first.call("tell", "news")
        assert await told[0].get() == await told[1].get() == [first.id, "news"]
        second.respond("go on", lambda _params: None)
        assert await second.call("slowly", 7) == 7


async def test_any_protocol_runs_over_the_app_port(place: Path) -> None:
    async with joining(place, "wakes") as client:
        wakeup = Wakeup()
        announced: asyncio.Future[list[Writer]] = asyncio.get_running_loop().create_future()
        session = wakeup.session(
            CAPABILITY,
            on_announce=lambda writers, _peer, _session: announced.set_result(writers),
            on_peer_add=lambda peer, session: session.lookup(peer),
        )
        assert client.mux is not None
        wakeup.add_stream(client.mux)
        assert await announced == [Writer(WRITER, 42)]
        session.destroy()
        wakeup.destroy()


@pytest.mark.parametrize(
    ("worker", "why"),
    [
        ("raises", "Oops: there is nothing here to work on"),
        ("returns", "it ended before it was ready"),
        ("nothing", "has no attribute 'nothing'"),
        ("not_a_function", "to be a function, got 7"),
        ("hangs", "it was not ready after 1.5 s"),
    ],
)
async def test_a_worker_that_does_not_start(place: Path, worker: str, why: str) -> None:
    limits = Limits(**QUICK, start_time=1.5 if worker == "hangs" else 30)  # type: ignore[arg-type]
    with pytest.raises(host.WorkerFailed, match=why):
        async with host.join("test", f"{WORKERS}:{worker}", directory=place, limits=limits):
            pass
    await until_empty(place)


@pytest.mark.parametrize("target", ["no.such.module:main", "os", ":main"])
async def test_a_worker_that_is_none(place: Path, target: str) -> None:
    with pytest.raises(host.WorkerFailed, match=r"no\.such|no module|expected a worker like"):
        async with host.join("test", target, directory=place, limits=LIMITS):
            pass
    await until_empty(place)


@pytest.mark.parametrize("name", ["", "a/b", "..", "a" * 33, "ü", ".a"])
async def test_a_name_that_is_none(place: Path, name: str) -> None:
    with pytest.raises(ValueError, match="expected a name"):
        async with host.join(name, f"{WORKERS}:main", directory=place):
            pass


async def test_a_directory_that_is_open_to_others_is_refused(place: Path) -> None:
    (place / "test").mkdir()
    (place / "test").chmod(0o755)
    with pytest.raises(ForeignPeer, match="0755"):
        async with joining(place):
            pass


async def test_a_worker_that_dies_is_replaced(place: Path) -> None:
    async with joining(place) as first, joining(place) as second:
        begun = asyncio.Event()
        second.respond("begun", lambda _params: begun.set())
        changes: list[str | None] = []
        second.on_leader_change = lambda client: changes.append(client.leader_id)
        before, pid = second.leader_id, second.worker_pid
        assert pid is not None
        lost = asyncio.create_task(second.call("for ever"))
        again = asyncio.create_task(second.call("slowly", 7, idempotent=True))
        await begun.wait()
        second.respond("go on", lambda _params: None)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(LeaderLost, match="'for ever'"):
            await lost
        assert await again == 7
        assert second.worker_pid not in (None, pid)
        assert changes == [second.leader_id] != [before]
        assert [first.is_leader, second.is_leader].count(True) == 1
        assert await first.call("add", [1]) == 1
    await until_empty(place)


async def test_a_call_that_was_not_sent_is_not_lost(place: Path) -> None:
    """It waits for its turn, behind as many as may be in flight."""
    async with joining(place) as client:
        begun = asyncio.Semaphore(0)
        client.respond("begun", lambda _params: begun.release())
        lost = [asyncio.create_task(client.call("for ever")) for _ in range(CALLS)]
        for _ in lost:
            await begun.acquire()
        waiting = asyncio.create_task(client.call("add", [1, 2]))
        await asyncio.sleep(0)
        assert client.worker_pid is not None
        os.kill(client.worker_pid, signal.SIGKILL)
        errors = await asyncio.gather(*lost, return_exceptions=True)
        assert {type(error) for error in errors} == {LeaderLost}
        assert await waiting == 3
    await until_empty(place)


async def test_calls_that_were_given_up_cost_nobody_the_worker(place: Path) -> None:
    """They count until they are answered, or it would be at work on more and more."""
    async with joining(place) as client:
        worker = client.worker_pid
        gate = asyncio.Event()
        client.respond("go on", lambda _params: gate.wait())
        for _ in range(3):
            calls = (client.call("slowly", timeout=0.2) for _ in range(CALLS))
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(result) for result in results} == {RequestTimeout}
        gate.set()
        assert await client.call("add", [1, 2]) == 3
        assert client.worker_pid == worker


async def test_what_is_too_long_costs_the_call_alone(place: Path) -> None:
    async with joining(place) as client:
        worker = client.worker_pid
        for size in range(2**24 - 240, 2**24, 8):  # around what a frame takes
            for method in ("long", "long later"):
                with suppress(RemoteError):
                    assert len(await client.call(method, size)) == size
            with suppress(LimitExceeded):
                assert await client.call("stamp", "a" * size)
        for method in ("long", "long later"):
            with pytest.raises(RemoteError, match="expected a message of at most"):
                await client.call(method, 2**24)
        with pytest.raises(LimitExceeded, match="expected a message of at most"):
            await client.call("stamp", "a" * 2**24)
        assert client.worker_pid == worker


async def test_a_leader_that_dies_is_replaced(place: Path) -> None:
    async with members(place, 1) as found, joining(place) as follower:
        worker = follower.worker_pid
        assert worker is not None
        assert not follower.is_leader
        waiting = asyncio.create_task(follower.call("for ever"))
        begun = asyncio.Event()
        follower.respond("begun", lambda _params: begun.set())
        await begun.wait()
        await found.pop().kill()
        with pytest.raises(LeaderLost):
            await waiting
        assert await follower.call("add", [1]) == 1
        assert follower.is_leader
        await gone(worker)
    await until_empty(place)


async def test_a_leader_that_leaves_hands_over(place: Path) -> None:
    leader = joining(place)
    await leader.__aenter__()
    async with joining(place) as follower:
        begun, going_on = asyncio.Event(), asyncio.Event()
        follower.respond("begun", lambda _params: begun.set())
        follower.respond("go on", lambda _params: going_on.wait())
        slow = asyncio.create_task(follower.call("slowly", 7))
        await begun.wait()
        leaving = asyncio.create_task(leader.leave())
        await asyncio.sleep(0)
        going_on.set()
        assert await slow == 7  # it was begun, so it is ended
        assert await follower.call("add", [1]) == 1  # never lost, though not idempotent
        await leaving
        assert follower.is_leader
        with pytest.raises(StreamClosed, match="left"):
            await leader.call("add", [1])
    await until_empty(place)


async def test_an_answer_that_is_on_its_way_arrives(place: Path) -> None:
    """Though the worker that gives it goes right after."""
    leader = joining(place)
    await leader.__aenter__()
    async with joining(place) as follower:
        begun, going_on = asyncio.Event(), asyncio.Event()
        follower.respond("begun", lambda _params: begun.set())
        follower.respond("go on", lambda _params: going_on.wait())
        large = "x" * 8_000_000
        slow = asyncio.create_task(follower.call("slowly", large))
        await begun.wait()
        leaving = asyncio.create_task(leader.leave())
        await asyncio.sleep(0)
        going_on.set()
        assert await slow == large
        await leaving


async def test_a_call_that_waits_outlives_a_hook_of_another(place: Path) -> None:
    """The calls of a hook go to its own host."""
    async with joining(place / "a") as other:
        names: list[Any] = []

        async def on_connect(_client: host.Client) -> None:
            names.append(await other.call("clients"))

        async with joining(place / "b", on_connect=on_connect) as client:
            assert names == [[other.id]]
            assert await client.call("clients") == [client.id]


async def test_a_hook_that_fails_keeps_nobody_out(place: Path) -> None:
    async def on_connect(_client: host.Client) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    async with joining(place, on_connect=on_connect) as client:
        assert await client.call("add", [1]) == 1


async def test_leaving_that_is_cancelled_ends_all_the_same(place: Path) -> None:
    client = joining(place)
    await client.__aenter__()
    worker = client.worker_pid
    assert worker is not None
    leaving = asyncio.create_task(client.leave())
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await client.leave()
    await gone(worker)
    with pytest.raises(RuntimeError, match="joined before"):
        await client.__aenter__()
    await until_empty(place)


async def test_modules_of_the_directory_it_was_started_in_are_not_taken(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cwd = place / "cwd"
    cwd.mkdir()
    (cwd / "msgspec.py").write_text("raise SystemExit('of another user')")
    monkeypatch.chdir(cwd)
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[3]), *sys.path])
    async with joining(place / "run") as client:
        assert await client.call("add", [1]) == 1


async def test_who_finds_the_worker_full_waits(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And does not take the leader for hung."""
    caplog.set_level(logging.DEBUG, "protomux_wakeup.host")
    limits = Limits(heartbeat=0.5, missed=4, repeat=0.1, spindown=0.5, sessions=1)
    target = f"{WORKERS}:main"
    first = host.join("test", target, directory=place, limits=limits)
    second = host.join("test", target, directory=place, limits=limits)
    async with first:
        worker = first.worker_pid
        told = f"{second.id} <- coordinator: patience"
        joining_it = asyncio.create_task(second.__aenter__())
        async with asyncio.timeout(60):
            while sum(line.startswith(told) for line in caplog.messages) < 30:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert not joining_it.done()
        assert first.worker_pid == worker
        assert await first.call("add", [1]) == 1
    await joining_it
    assert await second.call("add", [2]) == 2
    await second.leave()
    await until_empty(place)


async def test_all_meet_again_when_their_files_were_taken_away(place: Path) -> None:
    async with joining(place) as first:
        shutil.rmtree(place / "test")
        async with joining(place) as second:
            async with asyncio.timeout(60):
                while len(await first.call("clients", idempotent=True)) < 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            assert await first.call("clients") == await second.call("clients")
            assert [first.is_leader, second.is_leader].count(True) == 1
    await until_empty(place)


async def test_a_worker_that_hangs_before_anybody_is_served(place: Path) -> None:
    options = {"mark": str(place / "mark")}
    async with members(place / "run", 1, worker="hangs_when_ready", options=options) as [member]:
        assert (await member.result("state"))["leads"]


async def test_options_that_are_no_json_are_refused_at_once(place: Path) -> None:
    with pytest.raises(TypeError, match="object"):
        joining(place, options={"what": object()})


async def test_the_next_worker_waits_for_all_that_the_last_one_does(place: Path) -> None:
    journal = place / "journal"
    options = {"journal": str(journal)}
    first = joining(place, "lingers", options=options)
    await first.__aenter__()
    async with joining(place, "lingers", options=options) as second:
        changed = asyncio.Event()
        second.on_leader_change = lambda _client: changed.set()
        await first.leave()
        await changed.wait()  # which leaving does not wait for, where it takes long
    lines = [line.split() for line in journal.read_text().splitlines()]
    assert [what for what, *_ in lines] == ["start", "flushed", "start", "flushed"]
    assert lines[0][1:] == lines[1][1:] != lines[2][1:] == lines[3][1:]


@pytest.mark.parametrize("who", ["worker", "leader", "both"])
async def test_one_that_hangs_is_replaced(place: Path, who: str) -> None:
    async with members(place, 1) as [leader], joining(place) as follower:
        worker = follower.worker_pid
        assert worker is not None
        if who != "leader":
            os.kill(worker, signal.SIGSTOP)
        if who != "worker":
            leader.signal(signal.SIGSTOP)
        changed = asyncio.Event()
        follower.on_leader_change = lambda _client: changed.set()
        async with asyncio.timeout(60):
            await changed.wait()
        assert follower.worker_pid != worker
        assert await follower.call("add", [1]) == 1
        await gone(worker)
        leader.signal(signal.SIGCONT)
        assert await leader.result("call", "add", [2]) == 2
        state = await leader.result("state")
        assert state["worker"] == follower.worker_pid
        if who != "worker":
            assert [state["leads"], follower.is_leader] == [False, True]
    await until_empty(place)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_coordinator_that_is_gone_or_hangs_is_replaced(
    place: Path, number: signal.Signals
) -> None:
    async with joining(place) as first:
        known = await first._coordination.ask()
        os.kill(known.pid, number)
        async with joining(place) as second:
            assert await second.call("add", [1]) == 1
            assert (await second._coordination.ask()).pid != known.pid
            assert first.is_leader
            assert second.worker_pid == first.worker_pid
        assert not is_running(known.pid)
    await until_empty(place)


async def test_many_come_at_once(place: Path) -> None:
    found = await asyncio.gather(*(start(place) for _ in range(6)))
    try:
        for member in found:
            await member.event("joined")
        states = [await member.result("state") for member in found]
        assert [state["leads"] for state in states].count(True) == 1
        assert len({state["worker"] for state in states}) == 1
        for member in found:
            assert await member.leave() == 0
    finally:
        for member in found:
            await member.kill()
    await until_empty(place)


async def test_what_dead_processes_left_is_cleared_away(place: Path) -> None:
    async with members(place, 2) as found:
        worker = (await found[0].result("state"))["worker"]
        for member in found:
            member.signal(signal.SIGKILL)
        os.kill(worker, signal.SIGKILL)
        for member in found:
            await member.ended()
        found.clear()
        async with joining(place) as client:
            assert await client.call("add", [1]) == 1
    await until_empty(place)


AS_ANOTHER = """
import asyncio, os, sys
from protomux_wakeup import host
os.setgid(12345); os.setuid(12345)
async def main():
    async with host.join("test", "tests.protomux_wakeup.host.workers:main", **eval(sys.argv[1])):
        print("joined")
try:
    asyncio.run(main())
except host.ForeignPeer as error:
    print("refused")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
async def test_two_users_never_meet(place: Path) -> None:
    async with joining(place):
        other = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            AS_ANOTHER,
            repr({"directory": str(place)}),
            stdout=subprocess.PIPE,
        )
        said, _ = await other.communicate()
    assert said == b"refused\n"
