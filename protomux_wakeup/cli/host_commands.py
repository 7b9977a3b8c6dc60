"""The commands for hosts, and their help. Knows what can be typed, not how any of it is done."""

from __future__ import annotations

import os
from pathlib import Path

import click

from protomux_wakeup import Writer
from protomux_wakeup.address import Address
from protomux_wakeup.cli.console import clock
from protomux_wakeup.cli.keys import read_capability
from protomux_wakeup.cli.options import (
    EXIT_CODES,
    HostOptions,
    Live,
    Output,
    announce_option,
    capability_option,
    host_options,
    live_options,
    output_options,
    parsed,
    service_options,
)
from protomux_wakeup.cli.process import Exit, run
from protomux_wakeup.cli.report import Reporter
from protomux_wakeup.cli.values import parse_seconds

__all__ = ["host", "watch"]


@click.group()
def host() -> None:
    """Share one worker, with its peers, among many processes.

    The processes of a user that join a host, by its name, have one worker between them. One of
    them leads: the worker is its child, and when it leaves or dies, another one leads. The worker
    keeps what peers announce until it has been told to every watcher.
    """


@host.command(epilog=EXIT_CODES)
@service_options
@capability_option
@announce_option
@host_options
@output_options
def start(
    *,
    state: Path | None,
    listen: tuple[Address, ...],
    connect: tuple[Address, ...],
    capability_file: Path | None,
    writers: tuple[Writer, ...],
    host: HostOptions,
    output: Output,
) -> None:
    """Keep a host up, until Ctrl-C or host stop.

    Joins the host, and starts its worker if nobody has. What is listened at and connected to is so
    while this command runs; what is announced stays.
    """
    from protomux_wakeup.cli import host as service

    if capability_file is not None and not writers:
        raise click.UsageError("--capability-file is for --announce KEY:LENGTH.")

    def action(report: Reporter) -> Exit:
        capability = read_capability(capability_file, os.environ, report) if writers else None
        body = service.start(
            report,
            name=host.name,
            directory=host.directory,
            state=state,
            listen=listen,
            connect=connect,
            capability=capability,
            writers=writers,
        )
        return run(body, report)

    output.perform(action, clock)


@host.command(epilog=EXIT_CODES)
@live_options
@host_options
@output_options
def status(*, live: Live, host: HostOptions, output: Output) -> None:
    """Show who has joined a host, and what its worker does.

    On a terminal it is shown again every second, until Ctrl-C or the end of the host. Nothing is
    started, and the host does not count who looks at it. The exit code is 5 if it is not running.
    """
    from protomux_wakeup.cli import host as service

    live.check(output)

    def action(report: Reporter) -> Exit:
        body = service.status(
            report, name=host.name, directory=host.directory, is_live=live.is_live(report)
        )
        return run(body, report)

    output.perform(action)


@host.command(epilog=EXIT_CODES)
@click.option(
    "--timeout",
    default="10",
    show_default=True,
    metavar="SECONDS",
    callback=parsed(parse_seconds),
    help="Give up after so long.",
)
@host_options
@output_options
def stop(*, timeout: float, host: HostOptions, output: Output) -> None:
    """End all host start of a host.

    It waits until they have left. Applications that have joined go on, and so does the host while
    there is one; they are listed. The exit code is 0 then, and also if the host was not running.
    """
    from protomux_wakeup.cli import host as service

    def action(report: Reporter) -> Exit:
        body = service.stop(report, name=host.name, directory=host.directory, within=timeout)
        return run(body, report)

    output.perform(action)


def _watcher(text: str) -> str:
    if not text:
        raise ValueError("expected a name, got ''")
    return text


@click.command(epilog=EXIT_CODES)
@click.option(
    "--as",
    "watcher",
    metavar="NAME",
    callback=parsed(_watcher),
    help="Remember under this name what was printed: the next watch of that name goes on there. "
    "Without it nothing is remembered, and all that is known is printed. One at a time: a later "
    "watch of that name takes over, and this one ends with 1.",
)
@click.option(
    "--count", type=click.IntRange(1), metavar="NUMBER", help="Leave after so many hints."
)
@service_options
@capability_option
@host_options
@output_options
def watch(
    *,
    watcher: str | None,
    count: int | None,
    state: Path | None,
    listen: tuple[Address, ...],
    connect: tuple[Address, ...],
    capability_file: Path | None,
    host: HostOptions,
    output: Output,
) -> None:
    """Join a host, and print which logs of a topic have grown.

    Each hint is a log and its length, printed once. Joins the host, as host start does, so the
    worker is there while any command or application has joined.
    """
    from protomux_wakeup.cli import host as service

    def action(report: Reporter) -> Exit:
        body = service.watch(
            report,
            name=host.name,
            directory=host.directory,
            state=state,
            listen=listen,
            connect=connect,
            capability=read_capability(capability_file, os.environ, report),
            watcher=watcher,
            count=count,
        )
        return run(body, report)

    output.perform(action, clock)
