from __future__ import annotations

import errno
import fcntl
import io
import os
import resource
import stat
from collections.abc import Callable
from pathlib import Path
from unittest.mock import ANY

import pytest

from protomux import StreamClosed
from protomux.dissect import (
    CaptureWriter,
    Direction,
    Entry,
    Frame,
    Problem,
    StreamEnd,
    StreamStart,
    read_capture,
)
from protomux.dissect.capture import MAGIC

HASH, KEY = b"h" * 64, b"k" * 32


def entries_of(data: bytes) -> list[Entry | Problem]:
    return list(read_capture(io.BytesIO(data)))


def without_times(entries: list[Entry | Problem]) -> list[Entry | Problem]:
    return [entry if isinstance(entry, Problem) else entry._replace(time=0.0) for entry in entries]


def write(path: Path) -> list[Entry | Problem]:
    """Write a capture of two streams; return what must be read of it."""
    capture = CaptureWriter(path)
    first = capture.start(True, HASH, KEY)
    capture.frame(first, Direction.OUT, b"one")
    second = capture.start(False, KEY + HASH[:32], KEY)
    capture.frame(second, Direction.IN, b"")
    capture.frame(first, Direction.IN, bytes(range(256)))
    capture.end(first, None)
    capture.end(second, StreamClosed("lost ä"))
    capture.close()
    assert (first, second) == (1, 2)
    return [
        StreamStart(1, 0.0, True, HASH, KEY),
        Frame(1, 0.0, Direction.OUT, b"one", 149),
        StreamStart(2, 0.0, False, KEY + HASH[:32], KEY),
        Frame(2, 0.0, Direction.IN, b"", 283),
        Frame(1, 0.0, Direction.IN, bytes(range(256)), 300),
        StreamEnd(1, 0.0, None),
        StreamEnd(2, 0.0, "lost ä"),
    ]


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "capture"
    expected = write(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    data = path.read_bytes()
    found = entries_of(data)
    assert without_times(found) == expected
    times = [entry.time for entry in found if not isinstance(entry, Problem)]
    assert times == sorted(times, key=lambda time: time or 0)
    for entry in found:
        if isinstance(entry, Frame):
            assert data[entry.offset : entry.offset + len(entry.data)] == entry.data


def test_a_torn_capture_is_read_up_to_where_it_is_torn(tmp_path: Path) -> None:
    path = tmp_path / "capture"
    expected = write(path)
    data = path.read_bytes()
    whole = 0
    for size in range(1, len(data)):
        found = without_times(entries_of(data[:size]))
        if found and isinstance(found[-1], Problem):
            assert found.pop() == Problem(size, ANY)
        else:
            whole += 1
        assert found == expected[: len(found)]
    assert whole == len(expected)  # a cut between two records goes unnoticed; the header is one


@pytest.mark.parametrize(
    ("change", "offset", "reason"),
    [
        (lambda data: b"\x89PMUXcAP" + data[8:], 5, "expected a capture"),
        (lambda data: data[:8] + b"\x02\x00" + data[10:], 8, "expected 1, got 2"),
        (lambda data: data[:18] + b"\x00\x00\x00\x02" + data[22:], 18, "at most 16778240 bytes"),
        (lambda data: data[:18] + b"\x09\x00\x00\x00" + data[22:31], 31, "8 bytes of time"),
        (lambda data: data[:22] + b"\x09" + data[23:], 22, "expected 1 or 2 or 3 or 4, got 9"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(
    tmp_path: Path, change: Callable[[bytes], bytes], offset: int, reason: str
) -> None:
    path = tmp_path / "capture"
    write(path)
    problem = entries_of(change(path.read_bytes()))[0]
    assert isinstance(problem, Problem)
    assert problem.offset == offset
    assert reason in problem.reason


def test_after_a_record_of_an_unknown_kind_it_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "capture"
    expected = write(path)
    data = path.read_bytes()
    found = without_times(entries_of(data[:22] + b"\x09" + data[23:]))
    assert found[1:] == expected[1:]


def test_an_empty_file_is_an_empty_capture(tmp_path: Path) -> None:
    path = tmp_path / "capture"
    CaptureWriter(path).close()
    assert path.read_bytes() == b""
    assert entries_of(b"") == []
    path.chmod(0o644)
    write(path)
    assert path.read_bytes().startswith(MAGIC)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_text("mine")
    with pytest.raises(FileExistsError):
        CaptureWriter(path)
    assert path.read_text() == "mine"


def test_two_do_not_write_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "capture"
    capture = CaptureWriter(path)
    with pytest.raises(BlockingIOError):
        CaptureWriter(path)
    capture.close()
    with path.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_only_regular_files(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "other"
    make(path)
    with pytest.raises(OSError, match=r"other|directory") as caught:
        CaptureWriter(path)
    assert caught.value.errno in (errno.EISDIR, errno.ENXIO)


def test_a_pipe_with_a_reader_is_none(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(OSError, match="regular file"):
        CaptureWriter(path)
    os.close(reader)


def test_a_full_disk_ends_the_capture_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "capture"
    errors: list[OSError] = []
    capture = CaptureWriter(path, errors.append)
    number = capture.start(True, HASH, KEY)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        capture.frame(number, Direction.IN, b"a" * 500)
        assert capture.error is None
        capture.frame(number, Direction.IN, b"b" * 500)
        capture.frame(number, Direction.IN, b"c")
        capture.end(number, None)
        assert capture.start(False, HASH, KEY) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [error.errno for error in errors] == [errno.EFBIG]
    assert capture.error is errors[0]
    capture.close()
    start, frame = entries_of(path.read_bytes())
    assert isinstance(start, StreamStart)
    assert isinstance(frame, Frame)
    assert frame.data == b"a" * 500


def test_it_works_without_anybody_to_tell(tmp_path: Path) -> None:
    path = tmp_path / "capture"
    capture = CaptureWriter(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        capture.start(True, HASH, KEY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert capture.error is not None
    assert path.read_bytes() == b""
