from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protomux_wakeup import Writer
from protomux_wakeup.cli.feed import MAX_LINE, BadLine, Lines, parse_line, read_writers

from .recorder import LIMIT

KEY = "ab" * 32
LINE = json.dumps({"key": KEY, "length": 7})
WRITER = Writer(bytes.fromhex(KEY), 7)


@given(st.lists(st.binary(max_size=40)), st.integers(1, 9))
def test_lines_are_whole_however_their_bytes_come(parts: list[bytes], size: int) -> None:
    data = b"\n".join(parts)
    lines = Lines()
    found: list[bytes | None] = []
    for start in range(0, len(data), size):
        found += lines.feed(data[start : start + size])
    found += lines.end()
    expected = data.split(b"\n")
    assert found == (expected if expected[-1] else expected[:-1])


@pytest.mark.parametrize("chunk", [1_000, 1_000_000])
@pytest.mark.parametrize("end", [b"\nnext\n", b"\nnext"])
def test_an_overlong_line_is_skipped_and_not_kept(chunk: int, end: bytes) -> None:
    data = b"x" * MAX_LINE + b"\n" + b"y" * (10 * MAX_LINE) + end
    lines = Lines()
    found: list[bytes | None] = []
    for start in range(0, len(data), chunk):
        found += lines.feed(data[start : start + chunk])
        assert len(lines._rest) <= MAX_LINE
    found += lines.end()
    assert found == [b"x" * MAX_LINE, None, b"next"]


def test_an_overlong_line_may_be_the_last() -> None:
    lines = Lines()
    assert list(lines.feed(b"x" * (MAX_LINE + 1))) == []
    assert list(lines.end()) == [None]
    assert list(lines.end()) == []


def test_a_line_names_a_log() -> None:
    assert parse_line(LINE.encode()) == WRITER
    assert parse_line(json.dumps({"length": 7, "more": [], "key": KEY}).encode()) == WRITER


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("nonsense", """expected {"key": HEX, "length": NUMBER}, got 'nonsense'"""),
        ("[" * 10_000, 'expected {"key": HEX, "length": NUMBER}, got '),
        ('{"key": 1', 'expected {"key": HEX, "length": NUMBER}, got '),
        ("17", 'expected an object with "key" and "length", got '),
        ('{"key": "ab"}', 'expected an object with "key" and "length", got '),
        ('{"length": 1}', 'expected an object with "key" and "length", got '),
        ('{"key": 1, "length": 1}', """expected "key" to be 64 hex digits, got '1'"""),
        ('{"key": "ab", "length": 1}', """"key": expected 64 hex digits, got 'ab'"""),
        (f'{{"key": "{KEY}", "length": "1"}}', 'expected "length" to be a number from 0 to 90'),
        (f'{{"key": "{KEY}", "length": 1.0}}', 'expected "length" to be a number from 0 to 90'),
        (f'{{"key": "{KEY}", "length": true}}', 'expected "length" to be a number from 0 to 90'),
        (f'{{"key": "{KEY}", "length": -1}}', 'expected "length" to be a number from 0 to 90'),
        (
            f'{{"key": "{KEY}", "length": 9007199254740992}}',
            """expected "length" to be a number from 0 to 9007199254740991, got '9007199""",
        ),
        (f'{{"key": "{KEY}", "length": {"9" * 5000}}}', "expected "),
    ],
)
def test_no_other_line_does(line: str, problem: str) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        parse_line(line.encode())
    assert str(caught.value).startswith(problem)


def test_bytes_that_are_no_text_are_no_line_either() -> None:
    with pytest.raises(ValueError, match=r"^expected "):
        parse_line(b"\xff\xfe\x00")


async def everything(descriptor: int) -> list[Writer | BadLine]:
    async with asyncio.timeout(LIMIT):
        return [entry async for entries in read_writers(descriptor) for entry in entries]


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)


TEXT = f"{LINE}\n\n  \nbad\n{LINE}".encode()
ENTRIES = [
    WRITER,
    BadLine(4, """expected {"key": HEX, "length": NUMBER}, got 'bad'"""),
    WRITER,
]


async def test_a_pipe_is_read_to_its_end(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.write(writer, TEXT)
    os.close(writer)
    assert await everything(reader) == ENTRIES
    assert os.get_blocking(reader)


async def test_a_file_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "logs"
    path.write_bytes(TEXT)
    with path.open("rb") as file:
        assert await everything(file.fileno()) == ENTRIES


async def test_a_device_is_read_to_its_end() -> None:
    with open(os.devnull, "rb") as file:  # noqa: ASYNC230 - never blocks
        assert await everything(file.fileno()) == []


async def test_a_terminal_is_read_to_its_end() -> None:
    controller, terminal = os.openpty()
    os.write(controller, f"{LINE}\n\x04".encode())
    assert await everything(terminal) == [WRITER]
    os.close(terminal)
    os.close(controller)


async def test_a_socket_is_read_to_its_end() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(TEXT)
        theirs.shutdown(socket.SHUT_WR)
        assert await everything(ours.fileno()) == ENTRIES


async def test_lines_come_when_they_are_written(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    found = read_writers(reader)
    for _ in range(3):
        os.write(writer, f"{LINE}\n".encode())
        assert await asyncio.wait_for(anext(found), LIMIT) == [WRITER]
    os.close(writer)
    assert await asyncio.wait_for(anext(found), LIMIT) == []
    with pytest.raises(StopAsyncIteration):
        await anext(found)


async def test_an_overlong_line_is_an_entry(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.write(writer, b"x" * (MAX_LINE + 1) + b"\n")
    os.close(writer)
    problem = f"expected a line of at most {MAX_LINE} bytes, got more"
    assert await everything(reader) == [BadLine(1, problem)]
    assert str(BadLine(1, problem)) == f"stdin, line 1: {problem}"


async def test_waiting_can_be_cancelled(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    task = asyncio.create_task(everything(reader))
    await asyncio.sleep(0)  # it waits now
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not asyncio.get_running_loop().remove_reader(reader)
    os.close(writer)


async def test_a_closed_descriptor_is_an_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    os.close(writer)
    with pytest.raises(OSError, match="Bad file descriptor"):
        await everything(reader)
