from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from protomux_wakeup.host.backends.cgroups import place as place_of_groups
from protomux_wakeup.host.backends.engine import Command, Engine, EngineError, Readiness
from protomux_wakeup.host.backends.process import ProcessEngine
from protomux_wakeup.host.backends.types import (
    BackendStatus,
    TerminationKind,
    TerminationReason,
)
from tests.protomux_wakeup.host.backends.stage import (
    Heard,
    Stage,
    is_alive,
    log_of,
    news_of,
    pids_of,
    python,
    shell,
    until,
)

EXTERNAL = TerminationReason.EXTERNAL


@pytest.fixture
async def engine(stage: Stage) -> ProcessEngine:
    return await stage.engine()


async def test_a_command_that_does_well(stage: Stage, engine: ProcessEngine) -> None:
    as_engine: Engine = engine
    launch, heard, running = await stage.start(shell("echo done; exit 0"))
    end = await heard.until_terminated()
    assert heard.statuses == ["starting", "waiting", "ready", "terminated"]
    assert (end.termination_reason, end.termination_kind, end.exit_error) == (None, None, False)
    assert await as_engine.log(launch.backend_id) == b"done\n"
    assert isinstance(running.address, tuple)
    assert running.response is None
    await engine.forget(launch.backend_id)
    assert await engine.log(launch.backend_id) == b""
    assert os.listdir(stage.logs) == []


async def test_a_command_that_fails(stage: Stage, engine: ProcessEngine) -> None:
    _, heard, running = await stage.start(shell("exit 3"))
    end = await heard.until_terminated()
    assert (end.termination_reason, end.termination_kind, end.exit_error) == (None, None, True)
    running.terminate(EXTERNAL, hard=True)
    running.deliver([])
    running.finish()
    assert heard.statuses[-1] == "terminated"


async def test_a_command_that_is_killed(stage: Stage, engine: ProcessEngine) -> None:
    _, heard, _ = await stage.start(shell("kill -9 $$"))
    end = await heard.until_terminated()
    assert (end.termination_reason, end.termination_kind, end.exit_error) == (None, None, True)


async def test_what_it_is_told_by_its_environment(stage: Stage, engine: ProcessEngine) -> None:
    command = shell("env; pwd; ulimit -c", env={"PATH": os.environ["PATH"], "A": "1", "B": "2"})
    launch, heard, running = await stage.start(command, env={"B": "3"})
    await heard.until_terminated()
    lines = (await engine.log(launch.backend_id)).decode().splitlines()
    assert running.address is not None
    assert {
        "A=1",
        "B=3",
        f"PORT={running.address[1]}",
        f"SESSION_BACKEND_ID={launch.backend_id}",
        f"SESSION_BACKEND_KEY={launch.key}",
        "SESSION_BACKEND_FENCING_TOKEN=7",
        "PROTOMUX_ACK_FD=3",
    } < set(lines)
    assert lines[-2:] == ["/", "0"]
    assert not any(line.startswith(("PYTHONPATH=", "NOTIFY_SOCKET=")) for line in lines)


async def test_it_has_what_it_should_have_and_no_more(stage: Stage, place: Path) -> None:
    """Not even what whoever runs the engine would hand on."""
    file = os.open(place, os.O_RDONLY)
    os.set_inheritable(file, True)
    try:
        engine = await stage.engine()
    finally:
        os.close(file)
    script = """
import os
for file in sorted(map(int, os.listdir("/proc/self/fd"))):
    if os.path.exists(f"/proc/self/fd/{file}"):
        print(os.readlink(f"/proc/self/fd/{file}").partition(":[")[0])
print(os.getsid(0) == os.getpgid(0) == os.getpid())
"""
    launch, heard, _ = await stage.start(python(script))
    await heard.until_terminated()
    *files, key, leads = (await engine.log(launch.backend_id)).decode().splitlines()
    assert files == ["pipe"] * 4
    assert key.startswith(f"{stage.directory}/key-")
    assert leads == "True"


async def test_signals_do_what_they_do_by_default(stage: Stage, engine: ProcessEngine) -> None:
    """Though the interpreter that started it ignores two of them."""
    launch, heard, _ = await stage.start(shell("grep SigIgn: /proc/self/status"))
    await heard.until_terminated()
    ignored = int((await engine.log(launch.backend_id)).split()[1], 16)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        assert not ignored & 1 << (number - 1)


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (("/no/such/program",), "No such file"),
        (("no-such-program",), "No such file"),
        (("/",), "Permission denied"),
        (("sh", "-c", "a\0b"), "null"),
    ],
)
async def test_what_cannot_be_executed(
    stage: Stage, engine: ProcessEngine, argv: tuple[str, ...], why: str
) -> None:
    launch, heard, _ = await stage.start(Command(argv=argv, directory="/", env={}))
    end = await heard.until_terminated()
    assert heard.statuses == ["starting", "terminated"]
    assert (end.termination_reason, end.termination_kind) == (
        TerminationReason.INTERNAL_ERROR,
        None,
    )
    assert end.exit_error
    assert why in (await engine.log(launch.backend_id)).decode()


async def test_a_directory_that_is_not_there(stage: Stage, engine: ProcessEngine) -> None:
    launch, heard, _ = await stage.start(shell("true", directory="/no/such/place"))
    assert (await heard.until_terminated()).termination_reason is TerminationReason.INTERNAL_ERROR
    assert "/no/such/place" in (await engine.log(launch.backend_id)).decode()


async def test_who_is_asked_to_end(stage: Stage, engine: ProcessEngine) -> None:
    launch, heard, running = await stage.start(
        shell("trap 'exit 0' TERM; echo up; while :; do sleep 0.01; done")
    )
    await log_of(stage, launch, "up")
    running.terminate(EXTERNAL, hard=False)
    running.terminate(TerminationReason.SWEPT, hard=False)
    end = await heard.until_terminated()
    assert heard.statuses == ["starting", "waiting", "ready", "terminating", "terminated"]
    assert (end.termination_reason, end.termination_kind) == (EXTERNAL, TerminationKind.SOFT)
    assert end.exit_error is False


async def test_who_is_stopped_is_asked_as_well(stage: Stage, engine: ProcessEngine) -> None:
    launch, heard, running = await stage.start(shell("echo up; kill -STOP $$"))
    await log_of(stage, launch, "up")
    running.terminate(EXTERNAL, hard=False)
    assert (await heard.until_terminated()).termination_kind is TerminationKind.SOFT


async def test_who_does_not_hear_is_made_to_end(stage: Stage, engine: ProcessEngine) -> None:
    script = "trap '' TERM; echo up; while :; do sleep 0.01; done"
    launch, heard, running = await stage.start(shell(script, grace=0.1))
    await log_of(stage, launch, "up")
    running.terminate(EXTERNAL, hard=False)
    end = await heard.until_terminated()
    assert heard.statuses[-3:] == ["terminating", "hard-terminating", "terminated"]
    assert (end.termination_reason, end.termination_kind, end.exit_error) == (
        EXTERNAL,
        TerminationKind.HARD,
        True,
    )


async def test_who_is_made_to_end_at_once(stage: Stage, engine: ProcessEngine) -> None:
    _, heard, running = await stage.start(shell("sleep 1000"))
    running.terminate(TerminationReason.SWEPT, hard=True)
    running.terminate(EXTERNAL, hard=True)
    end = await heard.until_terminated()
    assert heard.statuses[-3:] == ["ready", "hard-terminating", "terminated"]
    assert (end.termination_reason, end.termination_kind) == (
        TerminationReason.SWEPT,
        TerminationKind.HARD,
    )


@pytest.mark.parametrize(
    "group",
    [
        "",
        pytest.param(
            f"{place_of_groups()}/cgroup.procs",
            marks=pytest.mark.skipif(
                not place_of_groups(), reason="there is no control group to leave"
            ),
        ),
    ],
)
async def test_nothing_of_it_outlives_it(stage: Stage, engine: ProcessEngine, group: str) -> None:
    """Whatever session, environment, parent or control group they have."""
    script = """
        [ -z "$GROUP" ] || echo 0 >"$GROUP"
        setsid sh -c 'echo $$; trap "" TERM; sleep 1000' &
        env -i setsid sh -c 'setsid sh -c "echo \\$\\$; sleep 1001" & sleep 1002' &
        (sh -c 'echo $$; kill -STOP $$' &)
        sleep 1000
    """
    launch, heard, running = await stage.start(shell(script), env={"GROUP": group})
    pids = [int(each) for each in (await log_of(stage, launch, "\n", 3)).split()]
    assert all(map(is_alive, pids))
    running.terminate(EXTERNAL, hard=True)
    await heard.until_terminated()
    assert not any(map(is_alive, pids))
    assert not pids_of(launch)


async def test_what_it_leaves_behind_ends_with_it(stage: Stage, engine: ProcessEngine) -> None:
    launch, heard, _ = await stage.start(shell("setsid sleep 1000 & echo $!; exit 0"))
    end = await heard.until_terminated()
    assert end.exit_error is False
    assert not is_alive(int(await engine.log(launch.backend_id)))
    assert not pids_of(launch)


async def test_who_closes_its_descriptors_goes_on(stage: Stage, engine: ProcessEngine) -> None:
    script = "exec 0<&- 1>&- 2>&- 3>&-; while [ ! -e $MARK ]; do sleep 0.01; done"
    mark = stage.directory / "mark"
    launch, heard, running = await stage.start(shell(script), env={"MARK": str(mark)})
    await asyncio.sleep(0)
    running.deliver([])
    assert len(pids_of(launch)) >= 1
    mark.touch()
    end = await heard.until_terminated()
    assert end.exit_error is False
    assert end.termination_reason is None
    mark.unlink()


async def test_the_manager_is_told_each_state_by_itself(
    stage: Stage, engine: ProcessEngine
) -> None:
    """Those that come after the start, and not with its answer."""
    command = shell("exec sleep 1000", readiness=Readiness.PORT, startup_timeout=0.1)
    _, heard, _ = await stage.start(command)
    assert heard.statuses == ["starting", "waiting"]
    end = await heard.until_terminated()
    assert heard.statuses == ["starting", "waiting", "terminating", "terminated"]
    assert end.termination_reason is TerminationReason.STARTUP_TIMEOUT
    assert end.termination_kind is TerminationKind.SOFT


async def test_many_at_once(stage: Stage, engine: ProcessEngine) -> None:
    found = await asyncio.gather(*(stage.start(shell(f"exit {n % 2}")) for n in range(8)))
    ends = [await heard.until_terminated() for _, heard, _ in found]
    assert [end.exit_error for end in ends] == [False, True] * 4
    ports = {running.address for _, _, running in found}
    assert len(ports) >= 7  # one that has ended may have handed its port on


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Let this process open nothing."""
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


async def test_what_was_started_is_had_though_no_descriptor_is_free(
    stage: Stage, engine: ProcessEngine, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    go = place / "go"
    script = f"read hint; while [ ! -e {go} ]; do sleep 0.01; done"
    launch = stage.launch(shell(script), news=[news_of(1, 5)])
    heard = Heard()
    with no_descriptors():
        starting = asyncio.create_task(engine.start(launch, heard))
        await until(lambda: starting.done() or "cannot look for backend" in caplog.text)
        assert not starting.done()
    running = await starting
    assert running.address is not None
    go.touch()
    assert (await heard.until_terminated()).exit_error is False
    assert heard.length_of(news_of(1, 5)) == 5


async def test_a_closed_engine_starts_nothing(stage: Stage, engine: ProcessEngine) -> None:
    launch, heard, _ = await stage.start(shell("exec sleep 1000"))
    await engine.close()
    await engine.close()
    with pytest.raises(EngineError, match="open"):
        await stage.start(shell(""))
    with pytest.raises(EngineError, match="open"):
        await engine.adopt(launch, heard, BackendStatus.READY)
    assert len(pids_of(launch)) == 1
    later = await stage.engine(2)
    running = await later.adopt(launch, heard, BackendStatus.READY)
    assert running is not None
    running.terminate(EXTERNAL, hard=True)
    await heard.until_terminated()


async def test_what_is_no_order(stage: Stage, engine: ProcessEngine) -> None:
    right = stage.launch(shell("true"))
    heard = Heard()
    for wrong, why in (
        (replace(right, backend_id="../../etc/passwd"), "32 hex digits"),
        (replace(right, command=None), "command"),
        (replace(right, command=replace(shell(""), argv=())), "command"),
        (replace(right, term=0), "term 1"),
        (replace(right, command=replace(shell(""), argv=("\udcff",))), "cannot start"),
    ):
        with pytest.raises(EngineError, match=why):
            await engine.start(wrong, heard)
    assert await engine.adopt(replace(right, backend_id="x"), heard, BackendStatus.READY) is None
    assert await engine.log("../../etc/passwd") == b""
    await engine.forget("../../etc/passwd")
    assert not heard.states


async def test_a_listener_that_fails_hears_no_more(stage: Stage, engine: ProcessEngine) -> None:
    class Failing:
        told = 0

        def moved(self, state: object) -> None:
            self.told += 1
            raise ValueError("no")

        def acknowledged(self, news: object) -> None:
            raise AssertionError("it heard more")

    launch = stage.launch(shell("echo up; cat"))
    failing = Failing()
    await engine.start(launch, failing)
    assert failing.told == 1
    # The next manager has it all.
    heard = Heard()
    running = await engine.adopt(launch, heard, BackendStatus.SCHEDULED)
    assert running is not None
    running.finish()
    await heard.until_terminated()
    assert heard.statuses == ["starting", "waiting", "ready", "terminated"]
