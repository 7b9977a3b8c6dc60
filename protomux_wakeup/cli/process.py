"""A run of the command as a process: exit codes, signals, and whatever else ends it.

Knows no protocol. A body is a coroutine that returns an exit code; when the process is told to
stop it is cancelled, and leaves its peers in order on its way out.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from enum import IntEnum
from typing import Any, Final, TypeAlias

from protomux import ProtomuxError
from protomux_wakeup.cli.report import Reporter
from protomux_wakeup.endpoint import reason

__all__ = ["Body", "Exit", "Failure", "attempt", "let_go_of_stdout", "run", "supervise"]


class Exit(IntEnum):
    """Exit codes; those from 128 on are what a shell says of a process that a signal ended."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    UNPROVEN = 3
    UNANSWERED = 4
    NOT_RUNNING = 5
    INTERRUPTED = 128 + signal.SIGINT
    OUTPUT_CLOSED = 128 + signal.SIGPIPE
    TERMINATED = 128 + signal.SIGTERM


Body: TypeAlias = Coroutine[Any, Any, Exit]

_STOPS: Final = {signal.SIGINT: Exit.INTERRUPTED, signal.SIGTERM: Exit.TERMINATED}


class Failure(Exception):
    """Ends a run with a message for the user and an exit code."""

    def __init__(self, message: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.code = code


def attempt(action: Callable[[], Exit], report: Reporter) -> Exit:
    """Return the exit code of `action`, or of what it failed with, which is reported.

    Whatever the code, one that tells of a lost stdout is in front of it.
    """
    try:
        code = action()
    except Failure as failure:
        code = failure.code
        report.fail(str(failure), {"exit_code": code})
    except (OSError, ProtomuxError) as error:
        code = Exit.FAILED
        report.fail(reason(error), {"exit_code": code})
    if report.lost is None:
        return code
    let_go_of_stdout()
    if isinstance(report.lost, BrokenPipeError):
        return Exit.OUTPUT_CLOSED  # as `head` ends what it has read enough of: without a word
    report.fail(f"cannot write to stdout: {reason(report.lost)}", {"exit_code": Exit.FAILED})
    return Exit.FAILED


def run(body: Body, report: Reporter) -> Exit:
    """Run `body` in an event loop of its own; what it raises is for `attempt`."""
    return asyncio.run(supervise(body, report))


async def supervise(body: Body, report: Reporter) -> Exit:
    """Await `body`; cancel it at SIGINT, at SIGTERM, and when stdout is gone.

    A second signal cuts the orderly leaving short.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(body)
    stopped: list[Exit] = []

    def stop(code: Exit) -> None:
        stopped.append(code)
        task.cancel()

    def stop_by_signal(number: signal.Signals) -> None:
        if not stopped:
            report.say("stopped", f"by {number.name}", {"signal": number.name})
        stop(_STOPS[number])

    report.on_lost = lambda: stop(Exit.OUTPUT_CLOSED)
    for number in _STOPS:
        loop.add_signal_handler(number, stop_by_signal, number)
    try:
        code = await task
    except (asyncio.CancelledError, Failure, OSError, ProtomuxError):
        if not stopped:
            raise
    finally:
        report.on_lost = None
        for number in _STOPS:
            loop.remove_signal_handler(number)
    return stopped[0] if stopped else code


def let_go_of_stdout() -> None:
    """Give stdout somewhere to go, or Python complains about it when it exits."""
    with suppress(OSError):  # where stdout is no file, nothing is flushed at the exit
        stdout = sys.stdout.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stdout)
        os.close(nowhere)
