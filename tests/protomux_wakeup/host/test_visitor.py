from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from protomux import StreamClosed
from protomux_wakeup import host
from protomux_wakeup.host import HostNotRunning, LeaderLost, RemoteError, RequestTimeout

from .members import QUICK, WORKERS, members, until_empty

LIMITS = host.Limits(**QUICK)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
async def _guard() -> AsyncIterator[None]:
    async with asyncio.timeout(60):
        yield


def joining(place: Path, **options: Any) -> host.Client:
    return host.join("test", f"{WORKERS}:main", directory=place, limits=LIMITS, **options)


async def visit_for_ever(place: Path) -> None:
    while True:
        async with host.visit("test", directory=place):
            pass


async def test_a_visit_starts_nothing(place: Path) -> None:
    with pytest.raises(HostNotRunning, match="the host 'test' is not running"):
        async with host.visit("test", directory=place):
            pass
    assert os.listdir(place) == []


async def test_what_a_dead_coordinator_left_is_not_running(place: Path) -> None:
    async with members(place, 1) as found, host.visit("test", directory=place) as visitor:
        member = found.pop()
        worker = (await member.result("state"))["worker"]
        coordinator = (await visitor.known()).pid
        for pid in (member.pid, worker, coordinator):
            os.kill(pid, signal.SIGKILL)
        await member.ended()
        with pytest.raises(StreamClosed):
            await visitor.call("stamp")
        with pytest.raises(StreamClosed):
            await visitor.known()
        assert "coordinator.sock" in os.listdir(place / "test")
        with pytest.raises(HostNotRunning):
            await visit_for_ever(place)  # the kernel may close the listening socket last


async def test_a_visitor_takes_no_part(place: Path) -> None:
    async with (
        joining(place) as client,
        joining(place, is_keeper=True) as keeper,
        host.visit("test", directory=place) as visitor,
    ):
        assert visitor.worker_pid is None
        known = await visitor.known()
        assert known.leader is not None
        assert known.leader.leader_id == client.leader_id
        assert {(each.client_id, each.is_leader, each.is_keeper) for each in known.clients} == {
            (client.id, True, False),
            (keeper.id, False, True),
        }
        assert {each.pid for each in known.clients} == {os.getpid()}
        assert (await visitor.call("stamp"))["pid"] == client.worker_pid == visitor.worker_pid
        assert await visitor.call("add", [1, 2]) == 3
        assert await visitor.known() == known
        await client.leave()
        # Who leads now is never the visitor.
        worker = (await visitor.call("stamp"))["pid"]
        assert (await keeper.call("stamp"))["pid"] == worker
        assert keeper.worker_pid == visitor.worker_pid == worker
        assert [each.is_leader for each in (await visitor.known()).clients] == [True]
        await keeper.leave()
        while (await visitor.known()).clients or visitor.worker_pid is not None:
            pass
    await until_empty(place)


async def test_errors_of_calls(place: Path) -> None:
    async with joining(place) as client, host.visit("test", directory=place) as visitor:
        with pytest.raises(RemoteError, match="no such thing"):
            await visitor.call("fail", "no such thing")
        with pytest.raises(RequestTimeout, match=r"no answer to 'for ever' in 0\.05 s"):
            await visitor.call("for ever", timeout=0.05)
        begun = asyncio.Event()
        client.respond("begun", lambda _params: begun.set())
        lost = asyncio.create_task(visitor.call("for ever"))
        await client.call("add", [1])
        before = visitor.worker_pid
        assert before is not None
        os.kill(before, signal.SIGKILL)
        with pytest.raises(LeaderLost, match="'for ever'"):
            await lost
        assert (await visitor.call("stamp"))["pid"] == visitor.worker_pid != before


async def test_keepers_that_do_not_leave(place: Path) -> None:
    async with (
        joining(place, is_keeper=True) as keeper,
        host.visit("test", directory=place) as visitor,
    ):
        with pytest.raises(RequestTimeout):
            await visitor.stop(within=0.1)
        assert keeper.asked_to_leave.is_set()
    await until_empty(place)
