"""The commands for backends, and their help. Knows what can be typed, not how any of it is done."""

from __future__ import annotations

import os
import re
from pathlib import Path

import click

from protomux_wakeup.address import Address
from protomux_wakeup.cli.console import clock
from protomux_wakeup.cli.keys import read_capability
from protomux_wakeup.cli.options import (
    EXIT_CODES,
    HostOptions,
    Live,
    Output,
    host_options,
    live_options,
    output_options,
    parsed,
    service_options,
)
from protomux_wakeup.cli.process import Exit, run
from protomux_wakeup.cli.report import Reporter
from protomux_wakeup.cli.values import parse_key

__all__ = ["backends", "logs", "on", "terminate"]

_LONGEST = 2**31 - 1
"""Seconds that a backend may be idle; see `types.Seconds`."""

_LISTENER = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[^:\[\]]+)):(?P<port>[0-9]{1,5})")


def _listener(text: str) -> tuple[str, int]:
    found = _LISTENER.fullmatch(text)
    if found is None or int(found["port"]) > 65_535:
        raise ValueError(f"expected HOST:PORT, got {text!r}")
    return found["six"] or found["host"], int(found["port"])


def _read(text: str, report: Reporter) -> bytes:
    """Return the capability that is meant by the argument `text`."""
    try:
        capability = parse_key(text)
    except ValueError:
        return read_capability(None if text == "-" else Path(text), os.environ, report)
    if os.path.lexists(text):
        return read_capability(Path(text), os.environ, report)
    report.warn("others can read a capability on a command line: better name a file with it")
    return capability


@click.command(epilog=EXIT_CODES)
@click.argument("capability", metavar="CAPABILITY")
@click.argument(
    "command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="[--] COMMAND..."
)
@click.option(
    "--idle",
    type=click.IntRange(1, _LONGEST),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="With no news for so long the command's stdin ends; when it still runs 10 s later, it is "
    "asked to end: at once if it has acknowledged all, else when it has acknowledged nothing for "
    "so long again.",
)
@click.option(
    "--ready",
    "readiness",
    type=click.Choice(["started", "port", "notify"]),
    default="started",
    show_default=True,
    help="When it counts as ready: it runs; it listens at $PORT; it has sent READY=1 to "
    "$NOTIFY_SOCKET.",
)
@click.option(
    "--control",
    default="127.0.0.1:0",
    show_default=True,
    metavar="HOST:PORT",
    callback=parsed(_listener),
    help="Where the HTTP API and the page are; port 0 is any free one. All on of a host share "
    "them, and the first one says where.",
)
@click.option(
    "--proxy",
    default="127.0.0.1:0",
    show_default=True,
    metavar="HOST:PORT",
    callback=parsed(_listener),
    help="Where commands that listen are reached; port 0 is any free one. Shared like --control.",
)
@service_options
@host_options
@output_options
def on(
    *,
    capability: str,
    command: tuple[str, ...],
    idle: int,
    readiness: str,
    control: tuple[str, int],
    proxy: tuple[str, int],
    state: Path | None,
    listen: tuple[Address, ...],
    connect: tuple[Address, ...],
    host: HostOptions,
    output: Output,
) -> None:
    """Run COMMAND when logs of a topic have grown, until Ctrl-C.

    CAPABILITY is the file with the secret of the topic, as keygen writes it; or "-" for the
    environment variable PROTOMUX_WAKEUP_CAPABILITY; or the 64 hex digits themselves, which others
    can read then. Put -- before a command that has options.

    Nothing runs until a peer has news. Then COMMAND does, once, and reads a line for each log that
    has grown: hint TOPIC KEY LENGTH. The exit code 0 acknowledges all that it was given; anything
    else has it run again, after a while, with the same. It runs in the directory and with the
    environment of this command. A topic has one command: another one for it is refused.
    """
    from protomux_wakeup.cli import backends as bodies
    from protomux_wakeup.host.backends.engine import Readiness

    def action(report: Reporter) -> Exit:
        body = bodies.on(
            report,
            name=host.name,
            directory=host.directory,
            state=state,
            listen=listen,
            connect=connect,
            capability=_read(capability, report),
            command=command,
            idle=idle,
            readiness=Readiness(readiness),
            control=control,
            proxy=proxy,
        )
        return run(body, report)

    output.perform(action, clock)


@click.command(epilog=EXIT_CODES)
@click.option("--all", "has_ended", is_flag=True, help="Also those that have ended.")
@live_options
@host_options
@output_options
def backends(*, has_ended: bool, live: Live, host: HostOptions, output: Output) -> None:
    """Show what runs, and in which state it is.

    On a terminal it is shown again every second, until Ctrl-C. The exit code is 5 if no
    protomux-wakeup on is there.
    """
    from protomux_wakeup.cli import backends as bodies

    live.check(output)

    def action(report: Reporter) -> Exit:
        body = bodies.backends(
            report,
            name=host.name,
            directory=host.directory,
            is_live=live.is_live(report),
            has_ended=has_ended,
        )
        return run(body, report)

    output.perform(action)


@click.command(epilog=EXIT_CODES)
@click.argument("backend")
@host_options
@output_options
def logs(*, backend: str, host: HostOptions, output: Output) -> None:
    """Print what BACKEND has written to its stdout and stderr.

    BACKEND is its id, or as much of it as is its alone. Of much, the end is kept.
    """
    from protomux_wakeup.cli import backends as bodies

    output.perform(
        lambda report: run(
            bodies.logs(report, name=host.name, directory=host.directory, backend=backend), report
        )
    )


@click.command(epilog=EXIT_CODES)
@click.argument("backend")
@click.option("--hard", "is_hard", is_flag=True, help="By SIGKILL, without asking it first.")
@host_options
@output_options
def terminate(*, backend: str, is_hard: bool, host: HostOptions, output: Output) -> None:
    """End BACKEND, and wait until it has ended.

    BACKEND is its id, or as much of it as is its alone.
    """
    from protomux_wakeup.cli import backends as bodies

    output.perform(
        lambda report: run(
            bodies.terminate(
                report,
                name=host.name,
                directory=host.directory,
                backend=backend,
                is_hard=is_hard,
            ),
            report,
        )
    )
