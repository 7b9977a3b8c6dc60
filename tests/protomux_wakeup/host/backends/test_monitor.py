from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from protomux_wakeup.host.backends.backend import Backend
from protomux_wakeup.host.backends.engine import EngineError, Launch
from protomux_wakeup.host.backends.family import family_of
from protomux_wakeup.host.backends.orders import key_lock
from protomux_wakeup.host.backends.types import (
    BackendStatus,
    TerminationKind,
    TerminationReason,
)
from protomux_wakeup.host.errors import RemoteError
from protomux_wakeup.host.jitpc import connect
from protomux_wakeup.host.locks import FileLock
from protomux_wakeup.host.places import lock_path
from tests.protomux_wakeup.host.backends.stage import (
    GUARD,
    Heard,
    Stage,
    is_alive,
    log_of,
    marked,
    news_of,
    pids_of,
    shell,
    until,
)

EXTERNAL = TerminationReason.EXTERNAL
SCHEDULED = BackendStatus.SCHEDULED
READY = BackendStatus.READY

UNTIL_MARKED = "while [ ! -e $MARK ]; do sleep 0.01; done"


def monitor_of(launch: Launch) -> int:
    """The pid of the monitor of a backend that runs."""
    parents = {
        int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        for pid in pids_of(launch)
    }
    (found,) = (
        pid
        for pid in parents
        if b"protomux_wakeup.host" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )
    return found


@asynccontextmanager
async def manager(
    stage: Stage, launch: Launch, **env: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that starts a backend. It is killed on the way out."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.protomux_wakeup.host.backends.manager",
        stage.directory,
        stage.logs,
        msgspec.json.encode(launch).decode(),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, **env},
    )
    try:
        yield process
    finally:
        process.kill()
        await process.communicate()


async def test_the_next_manager_hears_what_the_killed_one_did_not(stage: Stage) -> None:
    mark = stage.directory.parent / "mark"
    launch = stage.launch(shell(UNTIL_MARKED), env={"MARK": str(mark)})
    ours = secrets.token_hex(16)
    async with manager(stage, launch, MANAGER_MARK=ours) as process:
        assert process.stdout is not None
        async with asyncio.timeout(GUARD):
            lines = [await process.stdout.readline() for _ in range(3)]
        assert lines == [b"starting\n", b"waiting\n", b"ready\n"]
        # Itself, the monitor, a spare, and what that is to start.
        await until(lambda: len(marked("MANAGER_MARK", ours)) >= 4)
    engine = await stage.engine(2)
    heard = Heard()
    running = await engine.adopt(launch, heard, BackendStatus.WAITING)
    assert running is not None
    assert running.address is not None
    assert heard.statuses == ["ready"]
    mark.touch()
    end = await heard.until_terminated()
    assert heard.statuses == ["ready", "terminated"]
    assert end.exit_error is False
    await until(lambda: not any(map(is_alive, marked("MANAGER_MARK", ours))))


async def test_what_ended_while_there_was_no_manager(stage: Stage) -> None:
    engine = await stage.engine(1)
    news = [news_of(1, 5)]
    launch, heard, _ = await stage.start(shell("sleep 0.3; exit 0"), news=news)
    assert heard.statuses == ["starting", "waiting", "ready"]
    await engine.close()
    await until(lambda: stage.files() == [f"{launch.backend_id}.result"])
    later = await stage.engine(2)
    running = await later.adopt(launch, heard, READY)
    assert running is not None
    end = await heard.until_terminated()
    assert heard.statuses == ["starting", "waiting", "ready", "terminated"]
    assert end.exit_error is False
    assert heard.length_of(news[0]) == 5
    assert stage.files() == []
    running.terminate(EXTERNAL, hard=True)
    running.deliver(news)
    running.finish()
    assert await later.adopt(launch, heard, READY) is None


async def test_a_result_that_is_of_no_use(stage: Stage) -> None:
    engine = await stage.engine(1)
    launch = stage.launch(shell(""))
    (stage.directory / f"{launch.backend_id}.result").write_bytes(b'{"states":1}')
    assert await engine.adopt(launch, Heard(), SCHEDULED) is None
    assert stage.files() == []


async def test_its_locks_do_not_become_old(stage: Stage) -> None:
    await stage.engine(1)
    launch, heard, running = await stage.start(shell("exec sleep 1000"))
    await heard.until_status(READY)
    locks = sorted(stage.directory.glob("*.lock"))
    assert [path.name[:4] for path in locks] == sorted(("key-", launch.backend_id[:4]))
    long_ago = 1_000_000_000
    for path in locks:
        os.utime(path, (long_ago, long_ago))
    await until(lambda: all(path.stat().st_mtime > long_ago for path in locks))
    running.terminate(TerminationReason.EXTERNAL, hard=True)
    await heard.until_terminated()


async def test_what_was_never_started(stage: Stage) -> None:
    engine = await stage.engine(1)
    assert await engine.adopt(stage.launch(shell("")), Heard(), SCHEDULED) is None
    assert stage.files() == []


async def test_a_killed_monitor_takes_all_with_it(stage: Stage) -> None:
    await stage.engine(1)
    script = "setsid sleep 1000 & echo $!; setsid sh -c 'sleep 1001 & echo $!'; wait"
    launch, heard, _ = await stage.start(shell(script))
    pids = (await log_of(stage, launch, "\n", 2)).split()
    os.kill(monitor_of(launch), signal.SIGKILL)
    end = await heard.until_terminated()
    assert heard.statuses == ["starting", "waiting", "ready", "terminated"]
    assert (end.termination_reason, end.termination_kind, end.exit_error) == (
        TerminationReason.LOST,
        TerminationKind.HARD,
        True,
    )
    assert not any(is_alive(int(pid)) for pid in pids)
    assert pids_of(launch) == []
    assert stage.files() == []


async def test_a_killed_monitor_is_looked_for_until_that_can_be(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    await stage.engine(1)
    launch, heard, _ = await stage.start(shell("sleep 1000"))
    lock = stage.directory / f"{launch.backend_id}.lock"
    await until(lock.exists)
    lock.unlink()
    lock.mkdir()  # which cannot be opened for a lock
    os.kill(monitor_of(launch), signal.SIGKILL)
    await until(lambda: "cannot look for" in caplog.text)
    assert heard.statuses[-1] != "terminated"
    lock.rmdir()
    assert (await heard.until_terminated()).termination_reason is TerminationReason.LOST


async def test_a_monitor_that_was_killed_while_there_was_no_manager(stage: Stage) -> None:
    engine = await stage.engine(1)
    script = "setsid sleep 1000 & echo $! $$; wait"
    launch, heard, _ = await stage.start(shell(script))
    rest, command = map(int, (await log_of(stage, launch, "\n")).split())
    await engine.close()
    os.kill(monitor_of(launch), signal.SIGKILL)
    await until(lambda: not is_alive(command))  # by itself
    assert is_alive(rest)
    later = await stage.engine(2)
    assert await later.adopt(launch, heard, READY) is None
    assert not is_alive(rest)
    assert heard.statuses[-1] == "ready"
    assert stage.files() == []


async def test_a_monitor_that_hangs_is_lost(stage: Stage) -> None:
    engine = await stage.engine(1)
    launch, heard, _ = await stage.start(shell("echo $$; exec sleep 1000"))
    pid = int(await log_of(stage, launch, "\n"))
    monitor = monitor_of(launch)
    os.kill(monitor, signal.SIGSTOP)
    assert await engine.adopt(launch, Heard(), READY) is None
    await until(lambda: not is_alive(monitor))
    assert not is_alive(pid)
    assert (await heard.until_terminated()).termination_reason is TerminationReason.LOST


async def test_a_monitor_that_is_told_to_end_asks_its_command(stage: Stage) -> None:
    await stage.engine(1)
    launch, heard, _ = await stage.start(shell("exec sleep 1000"))
    os.kill(monitor_of(launch), signal.SIGTERM)
    end = await heard.until_terminated()
    assert (end.termination_reason, end.termination_kind) == (EXTERNAL, TerminationKind.SOFT)


async def test_terms_grow(stage: Stage) -> None:
    early = await stage.engine(5)
    launch, heard, _ = await stage.start(shell("exec sleep 1000"), term=5)
    late = await stage.engine(7)
    with pytest.raises(EngineError, match="term of 7 or later, got 6"):
        await stage.engine(6)
    # Nothing starts for the earlier one, whose order comes too late.
    with pytest.raises(EngineError, match="term 7 or later"):
        await early.start(stage.launch(shell("true"), term=5), Heard())
    with pytest.raises(EngineError, match="for term 7"):
        await late.start(stage.launch(shell("true"), term=5), Heard())
    # And what runs is for who came last.
    there = Heard()
    running = await late.adopt(launch, there, SCHEDULED)
    assert running is not None
    with pytest.raises(EngineError, match="not ours"):
        await early.adopt(launch, Heard(), READY)
    running.terminate(EXTERNAL, hard=True)
    await there.until_terminated()
    assert heard.statuses == ["starting", "waiting", "ready"]
    assert there.statuses == [*heard.statuses, "hard-terminating", "terminated"]


async def test_who_has_a_backend_twice_hears_once(stage: Stage) -> None:
    """The first is not to take it back."""
    engine = await stage.engine(1)
    launch, first, before = await stage.start(shell("cat"))
    second = Heard()
    running = await engine.adopt(launch, second, READY)
    assert running is not None
    before.terminate(EXTERNAL, hard=True)
    running.finish()
    end = await second.until_terminated()
    assert end.exit_error is False
    assert first.statuses[-1] == "ready"


async def test_a_connection_that_breaks_is_made_again(stage: Stage) -> None:
    await stage.engine(1)
    _launch, heard, running = await stage.start(shell("trap 'exit 4' TERM; echo up; cat; wait"))
    assert isinstance(running, Backend)
    assert running._connection is not None
    running._connection.abort()
    running.deliver([news_of(1, 1)])
    running.finish()
    end = await heard.until_terminated()
    assert heard.statuses == ["starting", "waiting", "ready", "terminated"]
    assert end.exit_error is False
    assert heard.length_of(news_of(1, 1)) == 1


async def test_one_backend_for_a_key_at_a_time(stage: Stage) -> None:
    await stage.engine(1)
    slow = shell("trap 'sleep 0.3; exit 0' TERM; echo up; while :; do sleep 0.01; done")
    launch, heard, running = await stage.start(slow, key="one")
    await log_of(stage, launch, "up")
    starting = asyncio.create_task(stage.start(shell("true"), key="one"))
    running.terminate(EXTERNAL, hard=False)
    _, after, _ = await starting
    end = await heard.until_terminated()
    await after.until_terminated()
    assert after.statuses == ["starting", "waiting", "ready", "terminated"]
    assert after.states[0].time >= end.time


async def test_a_key_that_is_not_let_go(stage: Stage) -> None:
    engine = await stage.engine(1, key_wait=0.2)
    lock = FileLock.try_acquire(key_lock(stage.directory, "one"))
    assert lock is not None
    launch, heard, _ = await stage.start(shell("true"), key="one")
    end = await heard.until_terminated()
    assert heard.statuses == ["starting", "terminated"]
    assert end.termination_reason is TerminationReason.INTERNAL_ERROR
    assert "its key is still held" in (await engine.log(launch.backend_id)).decode()
    lock.release(remove=True)


async def test_an_id_is_used_once(stage: Stage) -> None:
    engine = await stage.engine(1)
    launch, heard, running = await stage.start(shell("echo up; cat"))
    await log_of(stage, launch, "up")
    with pytest.raises(EngineError, match="id that no backend has"):
        await engine.start(replace(launch, key="another"), Heard())
    assert await engine.log(launch.backend_id) == b"up\n"
    running.finish()
    await heard.until_terminated()


async def test_without_a_manager_it_ends_after_a_while(stage: Stage) -> None:
    engine = await stage.engine(1, lease=0.2)
    launch, heard, _ = await stage.start(shell("exec sleep 1000"))
    await engine.close()
    await until(lambda: stage.files() == [f"{launch.backend_id}.result"])
    later = await stage.engine(2)
    assert await later.adopt(launch, heard, READY) is not None
    end = await heard.until_terminated()
    assert heard.statuses[-2:] == ["terminating", "terminated"]
    assert (end.termination_reason, end.termination_kind) == (
        TerminationReason.KEY_EXPIRED,
        TerminationKind.SOFT,
    )
    assert "no manager" in (await later.log(launch.backend_id)).decode()


async def test_with_a_manager_it_does_not(stage: Stage) -> None:
    await stage.engine(1, lease=0.1)
    _, heard, _ = await stage.start(shell("sleep 0.5"))
    assert (await heard.until_terminated()).termination_reason is None


async def test_who_is_not_the_manager_is_not_heard(stage: Stage) -> None:
    await stage.engine(3)
    launch, heard, _ = await stage.start(shell("cat"), term=3)
    async with connect(launch.backend_id, directory=stage.directory) as stranger:
        refused: list[tuple[str, object, str]] = [
            ("terminate", {"reason": "external", "hard": True}, "expected the manager"),
            ("seen", None, "expected the manager"),
            ("attach", {"term": 2}, "term 3 or later, got 2"),
            ("attach", {"term": "x"}, "expected Attach"),
            ("order", {}, "Unknown method"),
        ]
        for method, params, why in refused:
            with pytest.raises(RemoteError, match=why):
                await stranger.request(method, params)
    async with connect(launch.backend_id, directory=stage.directory) as stranger:
        await stranger.request("attach", {"term": 3})
        wrong: list[tuple[str, object]] = [
            ("terminate", {"reason": "nothing", "hard": True}),
            ("terminate", None),
            ("deliver", {"news": [["AA==", 1]]}),
            ("deliver", {"news": [["AA==", "A" * 44, 1]]}),
            ("deliver", {"news": [["A" * 43 + "=", "A" * 43 + "=", -1]]}),
        ]
        for method, params in wrong:
            with pytest.raises(RemoteError, match="expected"):
                await stranger.request(method, params)
        await stranger.request("seen")
    engine = stage.engines[-1]
    again = await engine.adopt(launch, heard, READY)
    assert again is not None
    again.finish()
    await heard.until_terminated()


async def test_a_directory_that_goes(stage: Stage, place: Path) -> None:
    engine = await stage.engine(1)
    stage.directory.rename(place / "elsewhere")
    launch = stage.launch(shell("true"))
    with pytest.raises(EngineError, match="cannot start"):
        await engine.start(launch, Heard())
    assert os.listdir(stage.logs) == []
    (place / "elsewhere").rename(stage.directory)


async def test_a_spare_that_was_killed_is_replaced(stage: Stage, place: Path) -> None:
    engine = await stage.engine(1)
    assert engine._spares is not None
    spare = engine._spares._next
    assert spare is not None
    os.kill(spare.pid, signal.SIGKILL)
    await spare.has_ended.wait()
    _, heard, _ = await stage.start(shell("true"))
    await heard.until_terminated()
    assert spare.tidy()


async def test_what_a_spare_was_to_become_may_end_before(stage: Stage) -> None:
    engine = await stage.engine(1)
    assert engine._spares is not None
    spare = engine._spares._next
    assert spare is not None
    await until(lambda: family_of(spare.pid))
    for pid, _ in family_of(spare.pid):
        os.kill(pid, signal.SIGKILL)
    launch, heard, _ = await stage.start(shell("true"))
    end = await heard.until_terminated()
    assert end.termination_reason is TerminationReason.INTERNAL_ERROR
    assert "has ended before" in (await engine.log(launch.backend_id)).decode()


async def test_an_engine_that_closes_in_a_start(stage: Stage) -> None:
    """What has come so far ends, or is for the next manager."""
    engine = await stage.engine(1)
    launch = stage.launch(shell("true"))
    heard = Heard()
    starting = asyncio.create_task(engine.start(launch, heard))
    await asyncio.sleep(0)
    await engine.close()
    with pytest.raises(EngineError, match="cannot start"):
        await starting
    assert heard.states == []
    assert stage.files() == []


async def test_a_start_that_is_given_up(stage: Stage) -> None:
    await stage.engine(1)
    lock = FileLock.try_acquire(key_lock(stage.directory, "one"))
    assert lock is not None
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await stage.start(shell("true"), key="one")
    lock.release(remove=True)
    assert stage.files() == []


async def test_a_monitor_that_is_about_to_end_is_waited_for(stage: Stage) -> None:
    """It has its lock still, and does not listen any more."""
    engine = await stage.engine(1)
    launch = stage.launch(shell(""))
    lock = FileLock.try_acquire(lock_path(stage.directory, launch.backend_id))
    assert lock is not None
    adopting = asyncio.create_task(engine.adopt(launch, Heard(), SCHEDULED))
    await asyncio.sleep(0)
    assert not adopting.done()
    lock.release()
    assert await adopting is None
    assert stage.files() == []


async def test_who_was_passed_by_meanwhile_hears_no_more(stage: Stage) -> None:
    """Its connection breaks, and is made anew behind that of the next manager."""
    await stage.engine(1)
    launch, heard, running = await stage.start(shell("cat"))
    late = await stage.engine(2)
    there = Heard()
    monitor = monitor_of(launch)
    os.kill(monitor, signal.SIGSTOP)
    adopting = asyncio.create_task(late.adopt(launch, there, READY))
    await asyncio.sleep(0)
    assert isinstance(running, Backend)
    assert running._connection is not None
    running._connection.abort()
    await until(lambda: running._reaching)
    os.kill(monitor, signal.SIGCONT)
    adopted = await adopting
    assert adopted is not None
    await until(lambda: running._is_over)
    adopted.finish()
    await there.until_terminated()
    assert there.statuses == ["terminated"]
    assert heard.statuses[-1] == "ready"


@pytest.mark.parametrize("is_adopting", [True, False])
async def test_an_engine_that_closes_while_a_monitor_is_slow(
    stage: Stage, is_adopting: bool
) -> None:
    engine = await stage.engine(1)
    launch, heard, running = await stage.start(shell("cat"))
    monitor = monitor_of(launch)
    os.kill(monitor, signal.SIGSTOP)
    again = Heard()
    adopting = None
    if is_adopting:
        adopting = asyncio.create_task(engine.adopt(launch, again, SCHEDULED))
        await asyncio.sleep(0)
    else:
        assert isinstance(running, Backend)
        assert running._connection is not None
        running._connection.abort()
        await until(lambda: running._reaching)
        await asyncio.sleep(0)
    await engine.close()
    os.kill(monitor, signal.SIGCONT)
    if adopting is not None:
        await adopting
    assert again.states == []
    late = await stage.engine(2)
    adopted = await late.adopt(launch, heard, READY)
    assert adopted is not None
    adopted.finish()
    await heard.until_terminated()
    assert heard.statuses == ["starting", "waiting", "ready", "terminated"]


async def test_no_process_can_be_started(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment may be too large for one."""
    engine = await stage.engine(1)
    _, heard, _ = await stage.start(shell("true"))
    await heard.until_terminated()
    monkeypatch.setenv("TOO_LONG", "x" * 2**18)
    with pytest.raises(EngineError, match="cannot start a process"):
        await stage.start(shell("true"))
    monkeypatch.undo()
    launch, heard, _ = await stage.start(shell("echo fine"))
    await heard.until_terminated()
    assert await engine.log(launch.backend_id) == b"fine\n"
