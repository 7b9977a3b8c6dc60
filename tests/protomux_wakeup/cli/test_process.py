from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
from collections.abc import Coroutine
from typing import Any

import pytest

from protomux import StreamClosed
from protomux_wakeup.cli.process import Exit, Failure, attempt, run, supervise
from protomux_wakeup.endpoint import reason

from .recorder import LIMIT, Recorder


@pytest.fixture
def report() -> Recorder:
    return Recorder()


def fails(error: Exception) -> Exit:
    raise error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed"), "Connection refused"),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (OSError("Multiple exceptions: ..."), "Multiple exceptions: ..."),
        (TimeoutError(), "TimeoutError"),
        (StreamClosed("the peer is gone"), "the peer is gone"),
        (StreamClosed(), "StreamClosed"),
    ],
)
def test_reasons(error: Exception, words: str) -> None:
    assert reason(error) == words


def test_an_action_says_its_exit_code(report: Recorder) -> None:
    assert attempt(lambda: Exit.UNPROVEN, report) == 3
    assert report.complaints == []


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (Failure("no peer", Exit.UNPROVEN), 3, "no peer"),
        (Failure("broken"), 1, "broken"),
        (OSError(errno.EACCES, "denied"), 1, "Permission denied"),
        (StreamClosed("the peer is gone"), 1, "the peer is gone"),
    ],
)
def test_a_failure_is_reported(report: Recorder, error: Exception, code: int, message: str) -> None:
    assert attempt(lambda: fails(error), report) == code
    assert [tuple(complaint) for complaint in report.complaints] == [
        ("error", message, {"exit_code": code})
    ]


def test_a_bug_is_not_hidden(report: Recorder) -> None:
    with pytest.raises(ZeroDivisionError):
        attempt(lambda: fails(ZeroDivisionError()), report)


def test_a_reader_of_stdout_who_has_left_is_no_error(report: Recorder) -> None:
    report.lost = BrokenPipeError(errno.EPIPE, "gone")
    assert attempt(lambda: Exit.DONE, report) == 141
    assert report.complaints == []


def test_a_full_disk_is_one(report: Recorder) -> None:
    report.lost = OSError(errno.ENOSPC, "full")
    assert attempt(lambda: Exit.DONE, report) == 1
    assert report.messages == ["cannot write to stdout: No space left on device"]


async def until_cancelled() -> Exit:
    async with asyncio.timeout(LIMIT):
        await asyncio.Event().wait()
    return Exit.DONE


async def signalled(number: signal.Signals, rest: Coroutine[Any, Any, Exit]) -> Exit:
    os.kill(os.getpid(), number)
    return await rest


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_body(report: Recorder, number: signal.Signals, code: int) -> None:
    before = signal.getsignal(number)
    assert run(signalled(number, until_cancelled()), report) == code
    assert [(line.event, line.fields) for line in report.lines] == [
        ("stopped", {"signal": number.name})
    ]
    assert signal.getsignal(number) == before
    assert report.on_lost is None


async def test_the_body_may_take_leave(report: Recorder) -> None:
    async def polite() -> Exit:
        try:
            return await until_cancelled()
        finally:
            await asyncio.sleep(0)
            report.say("left", "")

    assert await supervise(signalled(signal.SIGINT, polite()), report) == 130
    assert report.events == ["stopped", "left"]


async def test_a_second_signal_cuts_that_short(report: Recorder) -> None:
    async def slow() -> Exit:
        try:
            return await until_cancelled()
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            await until_cancelled()

    assert await supervise(signalled(signal.SIGINT, slow()), report) == 130
    assert report.events == ["stopped"]


async def test_what_fails_after_a_signal_is_not_reported(report: Recorder) -> None:
    async def clumsy() -> Exit:
        try:
            return await until_cancelled()
        except asyncio.CancelledError:
            raise Failure("lost on the way out") from None

    assert await supervise(signalled(signal.SIGINT, clumsy()), report) == 130


async def test_a_signal_at_the_end_counts(report: Recorder) -> None:
    async def done() -> Exit:
        try:
            return await until_cancelled()
        except asyncio.CancelledError:
            return Exit.DONE

    assert await supervise(signalled(signal.SIGINT, done()), report) == 130


async def test_the_loss_of_stdout_stops_the_body(report: Recorder) -> None:
    async def loses() -> Exit:
        assert report.on_lost is not None
        report.on_lost()
        return await until_cancelled()

    assert await supervise(loses(), report) == 141


async def test_failures_and_results_come_through(report: Recorder) -> None:
    async def fails() -> Exit:
        raise Failure("broken")

    async def succeeds() -> Exit:
        return Exit.DONE

    with pytest.raises(Failure, match="broken"):
        await supervise(fails(), report)
    assert await supervise(succeeds(), report) == Exit.DONE


async def test_cancelling_from_outside_is_no_signal(report: Recorder) -> None:
    task = asyncio.create_task(supervise(until_cancelled(), report))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert report.lines == []
