"""Options that several commands have, and how their values are read. Knows click."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Any, Final, TypeAlias

import click

from protomux import KeyPair
from protomux_wakeup.address import parse_address
from protomux_wakeup.cli.console import Stamp, TextReporter
from protomux_wakeup.cli.keys import (
    CAPABILITY_VARIABLE,
    KEY_VARIABLE,
    read_capability,
    read_key_pair,
)
from protomux_wakeup.cli.process import Exit, attempt
from protomux_wakeup.cli.report import JsonReporter, Reporter, library_log
from protomux_wakeup.cli.values import parse_key, parse_seconds, parse_writer

__all__ = [
    "EXIT_CODES",
    "HostOptions",
    "Keys",
    "Live",
    "Output",
    "announce_option",
    "capability_option",
    "frame_file_options",
    "host_options",
    "key_options",
    "live_options",
    "output_options",
    "parsed",
    "recording_options",
    "service_options",
    "visit_options",
    "writer_options",
]

EXIT_CODES: Final = """\b
Exit codes:
    0  done
    1  a connection failed or was lost, a frame is wrong, or something else
    2  the command line, a key or the input cannot be used
    3  no peer proved the capability within --timeout
    4  no announce answered the lookup within --timeout
    5  the host that is asked is not running, or nothing is run for it
  130  stopped by Ctrl-C (SIGINT)
  141  nobody reads stdout any more (SIGPIPE)
  143  stopped by SIGTERM
"""

Decorator: TypeAlias = Callable[[Any], Any]


def parsed(parse: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Return a callback that reads the value, or each of several, with a parser of `values`."""

    def callback(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        try:
            if isinstance(value, tuple):
                return tuple(map(parse, value))
            return None if value is None else parse(value)
        except ValueError as error:
            raise click.BadParameter(str(error), context, parameter) from None

    return callback


def _together(*options: Decorator) -> Decorator:
    """Return `options` as one decorator; help shows them in this order."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _gathered(name: str, kind: Callable[..., object], /, **options: Decorator) -> Decorator:
    """Return `options` as one decorator; the command gets one argument `name` of this `kind`.

    The names of the options are the fields of the kind.
    """

    def decorate(command: Callable[..., object]) -> Any:
        @wraps(command)
        def with_gathered(**values: Any) -> object:
            fields = {field: values.pop(field) for field in options}
            return command(**values, **{name: kind(**fields)})

        return _together(*options.values())(with_gathered)

    return decorate


@dataclass(frozen=True, slots=True)
class Output:
    """How results are shown."""

    is_json: bool
    is_verbose: bool

    def perform(self, action: Callable[[Reporter], Exit], stamp: Stamp | None = None) -> None:
        """Do the `action` of a command, and leave with its exit code."""
        report = JsonReporter() if self.is_json else TextReporter(stamp)
        with library_log(report, is_verbose=self.is_verbose):
            code = attempt(lambda: action(report), report)
        click.get_current_context().exit(code)


@dataclass(frozen=True, slots=True)
class Keys:
    """Who we are, what we share, and with whom."""

    capability_file: Path | None
    key_file: Path | None
    allowed: tuple[bytes, ...]

    def capability(self, report: Reporter) -> bytes:
        """Read the capability."""
        return read_capability(self.capability_file, os.environ, report)

    def key_pair(self, report: Reporter) -> KeyPair:
        """Read our key pair, or make one."""
        return read_key_pair(self.key_file, os.environ, report)


@dataclass(frozen=True, slots=True)
class HostOptions:
    """Which host."""

    name: str
    directory: Path | None


@dataclass(frozen=True, slots=True)
class Live:
    """Whether something is shown once, or again and again."""

    once: bool
    follow: bool

    def check(self, output: Output) -> None:
        """Raise UsageError for an option that is of no use with the form of the output."""
        if self.follow and not output.is_json:
            raise click.UsageError("--follow is for --json.")
        if self.once and output.is_json:
            raise click.UsageError("--once is not for --json, which prints once without --follow.")

    def is_live(self, report: Reporter) -> bool:
        """Tell whether it is shown again and again."""
        return self.follow or (report.can_redraw and not self.once)


_FILE: Final = click.Path(dir_okay=False, path_type=Path)

output_options: Final = _gathered(
    "output",
    Output,
    is_json=click.option("--json", "is_json", is_flag=True, help="Print one JSON object a line."),
    is_verbose=click.option("-v", "--verbose", "is_verbose", is_flag=True, help="Log to stderr."),
)

capability_option: Final = click.option(
    "--capability-file",
    type=_FILE,
    metavar="FILE",
    help="File with the capability, the secret of the topic: 64 hex digits. Without it, the "
    f"environment variable {CAPABILITY_VARIABLE} is read.",
)

key_options: Final = _gathered(
    "keys",
    Keys,
    capability_file=capability_option,
    key_file=click.option(
        "--key-file",
        type=_FILE,
        metavar="FILE",
        help="File with the seed of our key pair: 64 hex digits, as keygen writes it. Without "
        f"it, the environment variable {KEY_VARIABLE} is read; without that, the key pair is "
        "random.",
    ),
    allowed=click.option(
        "--firewall",
        "allowed",
        multiple=True,
        metavar="KEY",
        callback=parsed(parse_key),
        help="Let in only the peer with this public key, or with one of several such options.",
    ),
)

live_options: Final = _gathered(
    "live",
    Live,
    once=click.option(
        "--once", is_flag=True, help="On a terminal: show it once, not again and again."
    ),
    follow=click.option(
        "--follow", is_flag=True, help="With --json: print it again when it has changed."
    ),
)

_DIRECTORY: Final = click.Path(file_okay=False, path_type=Path)

host_options: Final = _gathered(
    "host",
    HostOptions,
    name=click.option(
        "--name", default="default", show_default=True, metavar="NAME", help="Name of the host."
    ),
    directory=click.option(
        "--directory",
        type=_DIRECTORY,
        metavar="DIR",
        help="Directory in which its processes find each other. Without it, it is XDG_RUNTIME_DIR, "
        "or the temporary directory where that is not set.",
    ),
)

service_options: Final = _together(
    click.option(
        "--state",
        type=_DIRECTORY,
        metavar="DIR",
        help="Directory of the file with what the host knows; the same for all of its processes. "
        "Without it, it is one in XDG_STATE_HOME, or in ~/.local/state.",
    ),
    click.option(
        "--listen",
        multiple=True,
        metavar="ADDRESS",
        callback=parsed(partial(parse_address, least_port=0)),
        help="Let peers in at HOST:PORT, unix:PATH or udp://SERVER:PORT/ID/VISITOR:PORT/ID; port 0 "
        "is any free one. May be repeated.",
    ),
    click.option(
        "--connect",
        multiple=True,
        metavar="ADDRESS",
        callback=parsed(parse_address),
        help="Keep a stream to the peer at HOST:PORT, unix:PATH or "
        "udp://SERVER:PORT/ID/VISITOR:PORT/ID; one that is away is tried again. May be repeated.",
    ),
)

_FRAMES: Final = ("hex", "raw", "capture")
_PACKETS: Final = ("udx", "pcap")


def _recording_options(what: str, forms: Sequence[str]) -> Decorator:
    return _together(
        click.argument("file", metavar="FILE|-"),
        click.option(
            "--format",
            "form",
            type=click.Choice(forms),
            help=f"How {what} stand in FILE, where it cannot be told by its first bytes.",
        ),
    )


frame_file_options: Final = _recording_options("frames", _FRAMES)
recording_options: Final = _recording_options("frames or packets", (*_FRAMES, *_PACKETS))

announce_option: Final = click.option(
    "--announce",
    "writers",
    multiple=True,
    metavar="KEY:LENGTH",
    callback=parsed(parse_writer),
    help="A log and its length; may be repeated.",
)

writer_options: Final = _together(
    announce_option,
    click.option(
        "--stdin",
        "has_feed",
        is_flag=True,
        help='Read logs from stdin, one a line: {"key": HEX, "length": NUMBER}.',
    ),
)

visit_options: Final = _together(
    click.option(
        "--remote-key",
        metavar="KEY",
        callback=parsed(parse_key),
        help="The public key that the peer must have.",
    ),
    click.option(
        "--timeout",
        default="10",
        show_default=True,
        metavar="SECONDS",
        callback=parsed(parse_seconds),
        help="Give up after so long.",
    ),
)
