from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from protomux_wakeup.host.processes import Handle, kill, name_of


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_a_process_is_killed_by_its_name(process: subprocess.Popen[bytes]) -> None:
    assert kill(name_of(process.pid))
    assert process.wait() == -signal.SIGKILL


def test_another_one_with_its_pid_is_not(process: subprocess.Popen[bytes]) -> None:
    pid, start, namespace = name_of(process.pid).split()
    for other in (
        f"{pid} {int(start) - 1} {namespace}",
        f"{pid} {start} pid:[1]",
        pid,
        "",
        "0",
        "1",
        "-1",
        "what",
    ):
        assert not kill(other)
    assert process.poll() is None


def test_one_that_has_gone_is_not_there(process: subprocess.Popen[bytes]) -> None:
    name = name_of(process.pid)
    with Handle(process.pid) as handle:
        process.kill()
        process.wait()
        assert not handle.kill()
    assert name_of(process.pid) == ""
    assert not kill(name)


def test_no_pid_is_nobody() -> None:
    with Handle(0) as handle:
        assert not handle.kill()
    assert name_of(os.getpid()).startswith(f"{os.getpid()} ")
