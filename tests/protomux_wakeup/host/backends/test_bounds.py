from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from protomux_wakeup.host.backends.bounds import excess, limits_of, rlimits
from protomux_wakeup.host.backends.cgroups import Cgroup, best_of, own_group
from protomux_wakeup.host.backends.cgroups import place as place_of_groups
from protomux_wakeup.host.backends.engine import EngineError
from protomux_wakeup.host.backends.family import (
    children_by_parent,
    children_by_task,
    family_of,
    kill_marked,
    share_of,
    usage_of,
)
from protomux_wakeup.host.backends.process import ProcessEngine
from protomux_wakeup.host.backends.types import (
    ConnectRequest,
    Executable,
    ResourceLimits,
    SpawnConfig,
    TerminationKind,
    TerminationReason,
)
from tests.protomux_wakeup.host.backends.stage import Heard, Stage, log_of, pids_of, python, shell

MIB = 2**20
NOBODY = 2**22 + 1
"""A pid that no process has."""


@pytest.fixture
async def engine(stage: Stage) -> ProcessEngine:
    return await stage.engine()


async def until_swept(heard: Heard) -> None:
    end = await heard.until_terminated()
    assert heard.statuses[-2:] == ["hard-terminating", "terminated"]
    assert end.termination_reason is TerminationReason.SWEPT
    assert end.termination_kind is TerminationKind.HARD
    assert end.exit_error


async def test_one_process_that_eats_memory(stage: Stage, engine: ProcessEngine) -> None:
    script = """
eaten = []
try:
    while True:
        eaten.append(bytearray(1_000_000))
except MemoryError:
    print("enough", len(eaten) < 64)
"""
    limits = ResourceLimits(memory_limit_bytes=64 * MIB)
    launch, heard, _ = await stage.start(python(script), limits=limits)
    await heard.until_terminated()
    assert (await engine.log(launch.backend_id)) == b"enough True\n"


async def test_many_processes_that_eat_memory(stage: Stage, engine: ProcessEngine) -> None:
    """Each of them less than may be."""
    script = """
import os, time
for _ in range(4):
    if os.fork() == 0:
        eaten = os.urandom(30_000_000)
        time.sleep(1000)
time.sleep(1000)
"""
    limits = ResourceLimits(memory_limit_bytes=64 * MIB)
    launch, heard, _ = await stage.start(python(script), limits=limits)
    await until_swept(heard)
    assert b"at most 67108864 bytes of memory" in await engine.log(launch.backend_id)
    assert not pids_of(launch)


async def test_memory_that_is_shared_counts_once(stage: Stage, engine: ProcessEngine) -> None:
    script = """
import os, time
eaten = os.urandom(30_000_000)
pids = []
for _ in range(4):
    pid = os.fork()
    if pid == 0:
        time.sleep(1)
        os._exit(0)
    pids.append(pid)
for pid in pids:
    os.waitpid(pid, 0)
"""
    limits = ResourceLimits(memory_limit_bytes=64 * MIB)
    _, heard, _ = await stage.start(python(script), limits=limits)
    assert (await heard.until_terminated()).termination_reason is None


BOMB = """
import os, time
if "GROUP" in os.environ:
    open(os.environ["GROUP"], "w").write("0")
end = time.monotonic() + 20
while time.monotonic() < end:
    try:
        if os.fork() == 0:
            os.setsid()
        time.sleep(0.1)
    except OSError:
        pass
"""


async def test_a_fork_bomb(stage: Stage, engine: ProcessEngine) -> None:
    """Of processes that leave session and parent, and do not stop where one cannot start."""
    launch, heard, _ = await stage.start(python(BOMB, processes=20))
    await until_swept(heard)
    assert b"at most 20 processes" in await engine.log(launch.backend_id)
    assert not pids_of(launch)


@pytest.mark.skipif(place_of_groups() is None, reason="there is no control group to leave")
async def test_a_fork_bomb_that_leaves_its_group(stage: Stage, engine: ProcessEngine) -> None:
    """Or has none, where we may not make one."""
    env = {"GROUP": f"{place_of_groups()}/cgroup.procs"}
    launch, heard, _ = await stage.start(python(BOMB, processes=20), env=env)
    await until_swept(heard)
    assert not pids_of(launch)


async def test_processor_time_of_one(stage: Stage, engine: ProcessEngine) -> None:
    script = "ulimit -S -t; ulimit -H -t; while :; do :; done"
    launch, heard, _ = await stage.start(shell(script), limits=ResourceLimits(cpu_time_limit=1))
    await until_swept(heard)
    log = await engine.log(launch.backend_id)
    assert log.startswith(b"3\n4\n")  # of the kernel, which comes later
    assert b"at most 1 s of CPU time" in log


async def test_what_the_kernel_has_ended_was_swept(
    stage: Stage, engine: ProcessEngine, place: Path
) -> None:
    both = ResourceLimits(cpu_time_limit=1000, disk_limit_bytes=10_000)
    for script, word in (
        ("kill -XCPU $$", b"at most 1000 s of CPU time"),
        (f"exec head -c 100000 /dev/zero >{place}/file", b"files of at most 10000 bytes"),
    ):
        launch, heard, _ = await stage.start(shell(script), limits=both)
        await until_swept(heard)
        assert heard.statuses[:2] == ["starting", "waiting"]
        assert word in await engine.log(launch.backend_id)
    assert (place / "file").stat().st_size == 10_000


async def test_a_signal_without_a_bound_is_its_own(stage: Stage, engine: ProcessEngine) -> None:
    for script in ("kill -XCPU $$", "kill -XFSZ $$"):
        _, heard, _ = await stage.start(shell(script))
        end = await heard.until_terminated()
        assert (end.termination_reason, end.termination_kind) == (None, None)
        assert end.exit_error


async def test_who_is_asked_to_end_and_ends_by_a_bound_was_asked(
    stage: Stage, engine: ProcessEngine
) -> None:
    script = "trap 'kill -XCPU $$' TERM; echo up; while :; do sleep 0.01; done"
    limits = ResourceLimits(cpu_time_limit=1000)
    launch, heard, running = await stage.start(shell(script), limits=limits)
    await log_of(stage, launch, "up")
    running.terminate(TerminationReason.EXTERNAL, hard=False)
    end = await heard.until_terminated()
    assert (end.termination_reason, end.termination_kind) == (
        TerminationReason.EXTERNAL,
        TerminationKind.SOFT,
    )


async def test_processor_time_of_all(stage: Stage, engine: ProcessEngine) -> None:
    """Those that have ended included."""
    script = "while :; do (i=0; while [ $i -lt 20000 ]; do i=$((i + 1)); done); done"
    launch, heard, _ = await stage.start(shell(script), limits=ResourceLimits(cpu_time_limit=1))
    await until_swept(heard)
    assert b"at most 1 s of CPU time" in await engine.log(launch.backend_id)


async def test_large_files(stage: Stage, engine: ProcessEngine, place: Path) -> None:
    file = place / "file"
    limits = ResourceLimits(disk_limit_bytes=10_000)
    command = shell("head -c 100000 /dev/zero >$FILE; exit 7")
    _, heard, _ = await stage.start(command, limits=limits, env={"FILE": str(file)})
    await heard.until_terminated()
    assert file.stat().st_size == 10_000


async def test_a_share_of_the_processor_needs_a_controller(
    stage: Stage, engine: ProcessEngine
) -> None:
    parent = place_of_groups()
    if parent is not None and "cpu" in Cgroup(parent / "any").controllers:
        pytest.skip("the cpu controller is handed down to us")
    limits = ResourceLimits(cpu_period_percent=50)
    with pytest.raises(EngineError, match="cpu_period_percent"):
        await stage.start(shell("true"), limits=limits)
    assert stage.files() == []


def test_limits_are_found_where_they_are(place: Path) -> None:
    launch = Stage(place).launch(None)
    limits = ResourceLimits(cpu_time_limit=3)
    for spawn, found in (
        (True, ResourceLimits()),
        (None, ResourceLimits()),
        (SpawnConfig(), ResourceLimits()),
        (SpawnConfig(executable=Executable()), ResourceLimits()),
        (SpawnConfig(executable=Executable(resource_limits=limits)), limits),
    ):
        assert limits_of(replace(launch, request=ConnectRequest(spawn=spawn))) == found


def test_more_than_we_have_is_not_given() -> None:
    script = """
import resource
from protomux_wakeup.host.backends.bounds import rlimits
from protomux_wakeup.host.backends.types import ResourceLimits
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 1000))
for size in 500, 5000:
    print(dict(rlimits(ResourceLimits(disk_limit_bytes=size)))[resource.RLIMIT_FSIZE])
"""
    argv = [sys.executable, "-c", script]
    found = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    assert found == "(500, 500)\n(1000, 1000)\n"
    assert rlimits(ResourceLimits()) == [(resource.RLIMIT_CORE, (0, 0))]


def test_what_has_gone_takes_nothing() -> None:
    limits = ResourceLimits(memory_limit_bytes=1, cpu_time_limit=2**31 - 1)
    assert usage_of(NOBODY) == (0, 0)
    assert share_of(NOBODY) == 0
    assert excess(limits, 1, [NOBODY]) is None
    assert excess(limits, 0, [NOBODY]) == "expected at most 0 processes, there are 1"
    assert "bytes of memory" in (excess(limits, 1, [os.getpid()]) or "")
    assert children_by_task(NOBODY) == []


@pytest.fixture
def family() -> Iterator[int]:
    """A process with a child that has a child."""
    script = "(echo $$; sleep 1000; true); true"
    command = ["sh", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        os.killpg(process.pid, 9)


def test_a_family_is_found_by_both_ways(family: int) -> None:
    while len(found := family_of(family)) < 2:
        pass
    (child, parent), (grandchild, its_parent) = found
    assert (parent, its_parent) == (family, child)
    for children in (children_by_task, children_by_parent().__getitem__):
        assert list(children(family)) == [child]
        assert list(children(child)) == [grandchild]
    assert (os.getpid(), os.getppid()) not in family_of(os.getpid())


def test_marked_processes_that_do_not_end_are_told() -> None:
    """One that is not there is no problem."""
    assert kill_marked("SESSION_BACKEND_ID", "nobody", 0)


def group(path: Path, controllers: str) -> Path:
    path.mkdir(parents=True)
    (path / "cgroup.subtree_control").write_text(controllers)
    return path


def test_a_group_bounds_what_it_can(place: Path) -> None:
    """The files of a group are stood for by plain ones."""
    limits = ResourceLimits(cpu_period_percent=150, memory_limit_bytes=1_000_000)
    for controllers, found in (
        ("cpu memory pids", ["150000 100000", "1000000", "20"]),
        ("io", ["", "", ""]),
        ("pids", ["", "", "20"]),
    ):
        parent = group(place / controllers, controllers)
        cgroup = Cgroup.make(parent)
        assert cgroup is not None
        files = [cgroup.path / name for name in ("cpu.max", "memory.max", "pids.max")]
        for file in files:
            file.touch()
        cgroup.bound(limits, 20)
        assert [file.read_text() for file in files] == found
        for file in files:
            file.write_text("")
        cgroup.bound(ResourceLimits(), 7)
        assert [file.read_text() for file in files] == [
            "",
            "",
            "7" if "pids" in controllers else "",
        ]
        assert not cgroup.remove()
        for file in files:
            file.unlink()
        assert cgroup.remove()
        assert cgroup.remove()
        cgroup.kill()


def test_a_group_that_cannot_be_made(place: Path) -> None:
    assert Cgroup.make(None) is None
    assert Cgroup.make(place / "nowhere") is None
    assert Cgroup(place / "nowhere" / "any").controllers == frozenset()


def test_groups_that_were_left_go(place: Path) -> None:
    (place / "protomux-used" / "what").mkdir(parents=True)
    for name, age in (("new", 0), ("old", 3600), ("used", 3600)):
        (place / f"protomux-{name}").mkdir(exist_ok=True)
        os.utime(place / f"protomux-{name}", (time.time() - age, time.time() - age))
    (place / "a").mkdir()
    os.utime(place / "a", (0, 0))
    cgroup = Cgroup.make(place)
    assert cgroup is not None
    names = {path.name for path in place.iterdir()}
    assert names == {"protomux-new", "protomux-used", "a", cgroup.path.name}


def test_only_a_group_of_ours_is_found_again(place: Path) -> None:
    for name, is_ours in (("protomux-1", True), ("system.slice", False)):
        (place / name).mkdir()
        assert Cgroup.of(str(place / name)) is None
        (place / name / "cgroup.kill").touch()
        assert (Cgroup.of(str(place / name)) is not None) is is_ours


def test_where_our_own_group_is(place: Path) -> None:
    (place / "a" / "b").mkdir(parents=True)
    v1 = f"30 20 0:25 / {place} rw - cgroup cgroup rw,cpu"
    part = f"31 20 0:26 /a {place} rw - cgroup2 cgroup2 rw"
    whole = f"32 20 0:26 / {place} rw shared:4 - cgroup2 cgroup2 rw"
    mounts = "\n".join((v1, part, whole))
    for groups, found in (
        ("3:cpu:/x\n0::/a/b\n", place / "a" / "b"),
        ("0::/\n", place),
        ("0::/gone\n", None),
        ("0::/../a\n", None),
        ("3:cpu:/a\n", None),
    ):
        assert own_group(groups, mounts) == found
    assert own_group("0::/a", part) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to be another user")
def test_which_group_is_the_better_place(place: Path) -> None:
    """For a user who is handed some, and with what root does."""
    above = group(place / "above", "cpu memory")
    own = group(above / "own", "")
    assert best_of(own, above) == own
    script = """
import os, sys
from pathlib import Path
from protomux_wakeup.host.backends.cgroups import best_of
above = Path(sys.argv[1])
os.chown(above, int(sys.argv[2]), -1), os.chown(above / "own", int(sys.argv[3]), -1)
os.setuid(65534)
print(best_of(above / "own", above))
"""
    place.chmod(0o755)
    for owners, found in (
        (("65534", "65534"), above),
        (("0", "65534"), own),
        (("0", "0"), None),
        (("65534", "0"), above),
    ):
        argv = [sys.executable, "-c", script, str(above), *owners]
        out = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
        assert out.strip() == str(found)
