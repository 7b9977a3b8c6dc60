from __future__ import annotations

import asyncio
import os
import random
import select
from collections.abc import Iterator

import pytest

from protomux_wakeup.host.backends.backend import Backend
from protomux_wakeup.host.backends.engine import News, Running
from protomux_wakeup.host.backends.feed import MOST_LOGS, AckLines, Feed
from protomux_wakeup.host.backends.process import ProcessEngine
from protomux_wakeup.host.backends.types import TerminationReason
from tests.protomux_wakeup.host.backends.stage import (
    Heard,
    Stage,
    log_of,
    news_of,
    python,
    shell,
)

ONE, TWO, THREE = (news_of(log, 10) for log in range(3))


def line(word: str, news: News) -> str:
    return f"{word} {news.topic.hex()} {news.key.hex()} {news.length}"


def longer(news: News, length: int) -> News:
    return news._replace(length=length)


async def all_is_there(running: Running) -> None:
    """Wait until the monitor answers what was asked behind all else."""
    assert isinstance(running, Backend)
    assert running._connection is not None
    await running._connection.rpc.request("attach", {"term": 1})


@pytest.fixture
async def engine(stage: Stage) -> ProcessEngine:
    return await stage.engine()


async def test_what_it_hears(stage: Stage, engine: ProcessEngine) -> None:
    launch, heard, running = await stage.start(shell("cat"), news=[ONE, TWO])
    running.deliver([THREE, ONE, longer(ONE, 11), longer(ONE, 9)])
    running.finish()
    running.deliver([longer(TWO, 99)])
    end = await heard.until_terminated()
    lines = (await engine.log(launch.backend_id)).decode().splitlines()
    assert lines[:2] == [line("hint", ONE), line("hint", TWO)]
    assert sorted(lines[2:]) == sorted([line("hint", THREE), line("hint", longer(ONE, 11))])
    assert end.exit_error is False
    assert [heard.length_of(each) for each in (ONE, TWO, THREE)] == [11, 10, 10]


async def test_who_never_reads_has_done_what_it_was_started_with(
    stage: Stage, engine: ProcessEngine
) -> None:
    script = "while [ ! -e $MARK ]; do sleep 0.01; done"
    mark = stage.directory.parent / "mark"
    _, heard, running = await stage.start(shell(script), news=[ONE, TWO], env={"MARK": str(mark)})
    running.deliver([THREE, longer(ONE, 11)])
    await all_is_there(running)
    mark.touch()
    await heard.until_terminated()
    assert [heard.length_of(each) for each in (ONE, TWO, THREE)] == [10, 10, None]


async def test_what_was_not_read_is_not_done(stage: Stage, engine: ProcessEngine) -> None:
    script = "read a; echo $a; read b; echo $b; while [ ! -e $MARK ]; do sleep 0.01; done"
    mark = stage.directory.parent / "mark"
    launch, heard, running = await stage.start(shell(script), env={"MARK": str(mark)})
    running.deliver([ONE, TWO])
    await log_of(stage, launch, line("hint", TWO))
    running.deliver([THREE, longer(TWO, 11)])
    await all_is_there(running)
    mark.touch()
    await heard.until_terminated()
    assert [heard.length_of(each) for each in (ONE, TWO, THREE)] == [10, 10, None]


async def test_a_failure_has_done_nothing(stage: Stage, engine: ProcessEngine) -> None:
    _, heard, running = await stage.start(shell("read a; exit 1"), news=[ONE])
    running.deliver([TWO])
    await heard.until_terminated()
    assert not heard.acknowledged_news


async def test_nor_has_who_was_asked_to_end(stage: Stage, engine: ProcessEngine) -> None:
    script = "trap 'exit 0' TERM; echo up; while :; do sleep 0.01; done"
    launch, heard, running = await stage.start(shell(script), news=[ONE])
    await log_of(stage, launch, "up")
    running.terminate(TerminationReason.SWEPT, hard=False)
    end = await heard.until_terminated()
    assert end.exit_error is False
    assert not heard.acknowledged_news


async def test_acknowledging_by_lines(stage: Stage, engine: ProcessEngine) -> None:
    script = f"""
        head -n 2 >/dev/null
        echo '{line("ack", longer(ONE, 9))}' >&3
        echo '{line("ack", ONE)}' >&3
        echo '{line("ack", longer(ONE, 5))}' >&3
        read go
        exit 1
    """
    _, heard, running = await stage.start(shell(script), news=[ONE, TWO])
    await heard.until(lambda: heard.length_of(ONE) == 10)
    assert heard.acks <= 2  # those of before the answer come in one
    running.finish()
    await heard.until_terminated()
    assert heard.length_of(TWO) is None


async def test_what_it_acknowledges_before_it_ends(stage: Stage, engine: ProcessEngine) -> None:
    _, heard, _ = await stage.start(shell(f"echo '{line('ack', ONE)}' >&3; exit 1"), news=[ONE])
    await heard.until_terminated()
    assert heard.length_of(ONE) == 10


async def test_garbage_is_no_acknowledgement(stage: Stage, engine: ProcessEngine) -> None:
    """Nor is what it has not heard of, and the log says so once."""
    script = f"""
        head -c 3000000 /dev/urandom >&3
        echo >&3
        echo '{line("ack", longer(ONE, 11))}' >&3
        echo '{line("ack", TWO)}' >&3
        echo 'ack x y z' >&3
        echo '{line("ack", ONE)}' >&3
        printf '%s' '{line("ack", TWO)}' >&3
        exit 1
    """
    launch, heard, _ = await stage.start(shell(script), news=[ONE])
    await heard.until_terminated()
    assert heard.acknowledged_news == {(ONE.topic, ONE.key): 10}
    assert (await engine.log(launch.backend_id)).count(b"got others") == 1


async def test_who_reads_slowly_hears_the_newest(stage: Stage, engine: ProcessEngine) -> None:
    """News of a log that did not fit in the pipe are merged."""
    script = """
import os, sys, time
while not os.path.exists(os.environ["MARK"]):
    time.sleep(0.01)
lines = sys.stdin.read().splitlines()
print(len(lines), lines[-1].split()[3])
"""
    mark = stage.directory.parent / "mark"
    launch, heard, running = await stage.start(python(script), env={"MARK": str(mark)})
    for length in range(10_000):
        running.deliver([longer(ONE, length), longer(TWO, length)])
    running.finish()
    await all_is_there(running)
    mark.touch()
    await heard.until_terminated()
    count, last = (await engine.log(launch.backend_id)).split()
    assert int(count) < 2_000
    assert int(last) == 9_999
    assert heard.length_of(ONE) == heard.length_of(TWO) == 9_999


async def test_acknowledged_is_told_again_to_the_next_manager(
    stage: Stage, engine: ProcessEngine
) -> None:
    script = f"echo '{line('ack', ONE)}' >&3; read hint; read go; exit 1"
    launch, heard, _ = await stage.start(shell(script), news=[ONE])
    await heard.until(lambda: heard.acks)
    again = Heard()
    running = await engine.adopt(launch, again, heard.states[-1].status)
    assert running is not None
    assert again.length_of(ONE) == 10
    running.finish()
    await again.until_terminated()


async def test_many_news_at_the_start(stage: Stage, engine: ProcessEngine) -> None:
    news = [News(bytes(32), number.to_bytes(32, "big"), 1) for number in range(2_560)]
    _, heard, _ = await stage.start(shell("true"), news=news)
    await heard.until_terminated()
    assert len(heard.acknowledged_news) == 2560


@pytest.fixture
def feed() -> Iterator[Feed]:
    feed = Feed()
    yield feed
    feed.close()


async def test_logs_are_bounded(feed: Feed) -> None:
    news = [News(bytes(32), number.to_bytes(32, "big"), 1) for number in range(MOST_LOGS)]
    assert feed.deliver(news)
    assert not feed.deliver([News(bytes(32), MOST_LOGS.to_bytes(32, "big"), 1)])
    assert feed.deliver([longer(news[0], 2)])
    feed.began()
    assert len(feed.all_taken()) == MOST_LOGS


async def test_lines_are_whole_whatever_is_read(feed: Feed) -> None:
    """And those that are read are known, by the byte."""
    randomly = random.Random(1)
    feed.began()
    all_news = [News(bytes(32), number.to_bytes(32, "big"), number) for number in range(2_000)]
    feed.deliver(all_news)
    feed.finish()
    data = b""
    os.set_blocking(feed.stdin, False)
    while True:
        await asyncio.sleep(0)
        try:
            some = os.read(feed.stdin, randomly.choice((1, 100, 5_000, 70_000)))
        except BlockingIOError:  # the next lines are still to be written
            continue
        data += some
        assert len(feed.all_taken()) == data.count(b"\n")
        if not some:
            break
    assert data.decode().splitlines() == [line("hint", each) for each in all_news]
    assert not select.select([], [], [], 0)[1]


async def test_what_is_noted_about_lines_goes_when_they_are_read(feed: Feed) -> None:
    feed.began()
    for number in range(100):
        feed.deliver([longer(ONE, number)])
        os.read(feed.stdin, 65_536)
    assert len(feed._lines) <= 1


def test_acknowledgements_in_pieces() -> None:
    bad: list[int] = []
    acks = AckLines(lambda: bad.append(1))
    text = f"{line('ack', ONE)}\r\n{line('ack', TWO).upper()}\n{'x' * 1000}\n{line('ack', TWO)}\n"
    found = [each for piece in text for each in acks.read(piece.encode())]
    assert found == [ONE, TWO]
    assert len(bad) == 2
    assert acks.read(b"x" * 100_000) == []
    assert len(acks._begun) == 0
    assert acks.read(f"\n{line('ack', THREE)}\n".encode()) == [THREE]
