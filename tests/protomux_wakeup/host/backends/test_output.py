from __future__ import annotations

import os
import resource
import stat
from pathlib import Path

import pytest

from protomux_wakeup.host.backends.output import BoundedLog, drop_log, read_log
from protomux_wakeup.host.backends.process import ProcessEngine
from tests.protomux_wakeup.host.backends.stage import Stage, python, shell

ID = "0" * 32
PIPE_MAX_SIZE = int(Path("/proc/sys/fs/pipe-max-size").read_text())


@pytest.fixture
async def engine(stage: Stage) -> ProcessEngine:
    return await stage.engine()


def size_of(place: Path) -> int:
    return sum(path.stat().st_size for path in place.iterdir())


@pytest.mark.parametrize("size", [1, 2, 10, 100])
def test_the_last_is_kept(place: Path, size: int) -> None:
    log = BoundedLog(place, ID, size)
    everything = b""
    for number in range(200):
        piece = f"{number} ".encode() * (number % 7)
        log.write(piece)
        everything += piece
        found = read_log(place, ID)
        assert everything.endswith(found)
        assert min(size // 2, len(everything)) <= len(found) <= max(size, 2)
        assert size_of(place) == len(found)
    log.write(b"abc" * 1000)
    assert (b"abc" * 1000).endswith(read_log(place, ID))
    assert size_of(place) <= max(size, 2)
    for path in place.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    log.close()
    drop_log(place, ID)
    drop_log(place, ID)
    assert not list(place.iterdir())
    assert read_log(place, ID) == b""


def test_a_note_is_a_line(place: Path) -> None:
    log = BoundedLog(place, ID, 1000)
    log.note("a\udcffb")
    assert read_log(place, ID) == b"[protomux-wakeup] a\\udcffb\n"
    log.close()


def test_where_it_cannot_be_written_nothing_happens(place: Path) -> None:
    logs = place / "logs"
    logs.mkdir()
    log = BoundedLog(logs, ID, 10)
    log.write(b"1234567")
    logs.rename(place / "elsewhere")
    log.write(b"89" * 10)
    (place / "elsewhere").rename(logs)
    log.write(b"abcde" * 10)
    assert read_log(logs, ID) == b"abcdeabcde"
    log.close()
    log.note("too late")
    assert read_log(logs, ID) == b"abcdeabcde"


async def test_who_writes_much_is_neither_stopped_nor_kept(
    stage: Stage, engine: ProcessEngine
) -> None:
    command = shell("head -c 20000000 /dev/zero; echo; echo the end", log_size=100_000)
    launch, heard, _ = await stage.start(command)
    end = await heard.until_terminated()
    assert end.exit_error is False
    assert size_of(stage.logs) <= 100_000
    found = await engine.log(launch.backend_id)
    assert 50_000 <= len(found) <= 100_000
    assert found.endswith(b"\nthe end\n")


async def test_both_streams_are_one(stage: Stage, engine: ProcessEngine) -> None:
    launch, heard, _ = await stage.start(shell("echo a; echo b >&2; echo c"))
    await heard.until_terminated()
    assert await engine.log(launch.backend_id) == b"a\nb\nc\n"


async def test_all_that_was_in_the_pipe_is_there(stage: Stage, engine: ProcessEngine) -> None:
    """As much as a pipe can be made to hold."""
    most = PIPE_MAX_SIZE
    script = f"""
import fcntl, os
fcntl.fcntl(1, fcntl.F_SETPIPE_SZ, {most})
os.write(1, b"x" * {most} + b"end")
"""
    launch, heard, _ = await stage.start(python(script, log_size=4 * most))
    await heard.until_terminated()
    found = await engine.log(launch.backend_id)
    assert len(found) == most + 3
    assert found.endswith(b"end")
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    assert os.listdir(stage.logs) == [f"{launch.backend_id}.log"]
