"""The commands and their help. Knows what can be typed, not how any of it is done."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import click
from click.core import ParameterSource

from protomux import KeyPair
from protomux.crypto import discovery_key
from protomux_wakeup import Writer
from protomux_wakeup.address import Address, TcpAddress, UnixAddress, parse_address
from protomux_wakeup.cli import demo as demonstration
from protomux_wakeup.cli import serve as service
from protomux_wakeup.cli import visit
from protomux_wakeup.cli.backends_commands import backends, logs, on, terminate
from protomux_wakeup.cli.console import TextReporter, clock, elapsed
from protomux_wakeup.cli.host_commands import host, watch
from protomux_wakeup.cli.keys import find_capability, write_secret
from protomux_wakeup.cli.options import (
    EXIT_CODES,
    Keys,
    Output,
    capability_option,
    frame_file_options,
    key_options,
    output_options,
    parsed,
    recording_options,
    visit_options,
    writer_options,
)
from protomux_wakeup.cli.process import Exit, let_go_of_stdout, run
from protomux_wakeup.cli.report import JsonReporter, Reporter
from protomux_wakeup.cli.values import parse_key
from protomux_wakeup.endpoint import reason

__all__ = ["command_line", "run_command"]

PROGRAM: Final = "protomux-wakeup"

STDIN: Final = 0
"""Its file descriptor."""


def run_command(arguments: Sequence[str]) -> int:
    """Run the command line and return the exit code."""
    try:
        code: int = command_line.main(list(arguments), prog_name=PROGRAM, standalone_mode=False)
    except click.ClickException as error:
        if "--json" in arguments:  # whatever else could not be understood
            JsonReporter().fail(error.format_message(), {"exit_code": error.exit_code})
        else:
            error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return Exit.INTERRUPTED
    except OSError as error:  # where help was written; a command reports its own
        let_go_of_stdout()
        TextReporter().fail(f"cannot write to stdout: {reason(error)}")
        return Exit.FAILED
    return code


def _show_version(context: click.Context, _parameter: click.Parameter, is_wanted: bool) -> None:
    if is_wanted:
        try:
            number = version(PROGRAM)
        except PackageNotFoundError:
            number = "(not installed)"
        click.echo(f"{PROGRAM} {number}")
        context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXIT_CODES)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
def command_line() -> None:
    """Tell peers which logs have grown, and hear it from them.

    Speaks the wakeup protocol, as JavaScript's protomux-wakeup does, over encrypted streams.
    Peers of a topic share a secret, its capability; keygen makes one.
    """


for _command in (host, watch, on, backends, logs, terminate):
    command_line.add_command(_command)


@command_line.command()
@output_options
def demo(output: Output) -> None:
    """Show two peers who meet, ask, tell and part.

    Both live in this process, and talk over an encrypted TCP connection on loopback. Every line
    is something that happened, with the time since the start.
    """
    output.perform(lambda report: run(demonstration.demo(report), report), elapsed())


@command_line.command()
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the secret to FILE, for its owner only to read, instead of showing it.",
)
@click.option("--force", is_flag=True, help="Replace FILE if there is one.")
@click.option("--capability", "is_capability", is_flag=True, help="Make a capability instead.")
@output_options
def keygen(out: Path | None, force: bool, is_capability: bool, output: Output) -> None:
    """Make a key pair, or a capability.

    A key pair is kept as its seed, for --key-file; peers know it by its public key. A capability
    is the secret of a topic, for --capability-file; the discovery key names it without telling
    it.
    """
    if force and out is None:
        raise click.UsageError("--force is for --out FILE.")

    def action(report: Reporter) -> Exit:
        secret = secrets.token_bytes(32)
        if is_capability:
            made = {"capability": secret.hex(), "discovery_key": discovery_key(secret).hex()}
        else:
            public_key = KeyPair.generate(secret).public_key
            made = {"seed": secret.hex(), "public_key": public_key.hex()}
        if out is not None:
            write_secret(out, secret, replace=force)
            made = {"file": str(out)} | dict(list(made.items())[1:])
        lines = [f"{name.replace('_', ' '):<13}  {value}" for name, value in made.items()]
        report.say("keygen", "\n".join(lines), made, label="")
        return Exit.DONE

    output.perform(action)


@command_line.command(epilog=EXIT_CODES)
@click.argument("address", metavar="[ADDRESS]", required=False, callback=parsed(parse_address))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    show_default=True,
    help="Port to listen on; 0 is any free one.",
)
@click.option("--unix", "path", metavar="PATH", help="Listen on a Unix socket instead.")
@writer_options
@key_options
@click.option(
    "--record",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Record the frames of all streams, deciphered, to a new FILE for inspect and replay. It "
    "tells topics, announced keys and lengths to whoever can read it; the capability and secret "
    "keys are not in it.",
)
@output_options
@click.pass_context
def serve(
    context: click.Context,
    *,
    address: Address | None,
    host: str,
    port: int,
    path: str | None,
    writers: tuple[Writer, ...],
    has_feed: bool,
    keys: Keys,
    record: Path | None,
    output: Output,
) -> None:
    """Listen; tell peers which logs have grown, and show what they say.

    A peer is told all that is known when it comes and when it asks, and what is new when stdin
    says it. After the end of stdin it goes on.

    ADDRESS may be HOST:PORT or unix:PATH, in place of the options; or
    udp://SERVER:PORT/ID/VISITOR:PORT/ID, to serve over UDX the one visitor who is known: both sides
    are given the same text, and each ID, a number, is one of the stream that nobody else knows.
    """
    sources = [context.get_parameter_source(name) for name in ("host", "port")]
    if path is not None and ParameterSource.COMMANDLINE in sources:
        raise click.UsageError("--unix is instead of --host and --port.")
    if address is not None and (path is not None or ParameterSource.COMMANDLINE in sources):
        raise click.UsageError("ADDRESS is instead of --host, --port and --unix.")
    if address is None:
        address = TcpAddress(host, port) if path is None else UnixAddress(path)

    def action(report: Reporter) -> Exit:
        serve = partial(
            service.serve,
            report,
            address=address,
            capability=keys.capability(report),
            key_pair=keys.key_pair(report),
            writers=writers,
            allowed=keys.allowed,
            feed=STDIN if has_feed else None,
        )
        if record is None:
            return run(serve(), report)
        from protomux_wakeup.cli.recording import recorder

        with recorder(record, report) as carrier:
            return run(serve(carrier=carrier), report)

    output.perform(action, clock)


@command_line.command(epilog=EXIT_CODES)
@click.argument("address", metavar="HOST:PORT", callback=parsed(parse_address))
@click.option(
    "--hash",
    metavar="HEX",
    callback=parsed(parse_key),
    help="32 bytes that tell the peer what is known here, where its application reads them.",
)
@visit_options
@key_options
@output_options
def lookup(
    *,
    address: Address,
    hash: bytes | None,
    remote_key: bytes | None,
    timeout: float,
    keys: Keys,
    output: Output,
) -> None:
    """Ask a peer which logs have grown.

    The answer is the first announce of the peer after the question. HOST:PORT may also be
    unix:PATH, or udp://SERVER:PORT/ID/VISITOR:PORT/ID as for serve.
    """

    def action(report: Reporter) -> Exit:
        errand = _errand(address, remote_key, timeout, keys, report)
        return run(visit.lookup(report, errand, hash), report)

    output.perform(action, elapsed())


@command_line.command(epilog=EXIT_CODES)
@click.argument("address", metavar="HOST:PORT", callback=parsed(parse_address))
@writer_options
@visit_options
@key_options
@output_options
def announce(
    *,
    address: Address,
    writers: tuple[Writer, ...],
    has_feed: bool,
    remote_key: bytes | None,
    timeout: float,
    keys: Keys,
    output: Output,
) -> None:
    """Tell a peer which logs have grown.

    It is done when the peer has proved the capability and taken all that was sent. HOST:PORT
    may also be unix:PATH, or udp://SERVER:PORT/ID/VISITOR:PORT/ID as for serve.
    """
    if not writers and not has_feed:
        raise click.UsageError("Nothing to announce: give --announce KEY:LENGTH or --stdin.")

    def action(report: Reporter) -> Exit:
        errand = _errand(address, remote_key, timeout, keys, report)
        feed = STDIN if has_feed else None
        return run(visit.announce(report, errand, writers, feed), report)

    output.perform(action, elapsed())


@command_line.command(epilog=EXIT_CODES)
@recording_options
@output_options
def inspect(*, file: str, form: str | None, output: Output) -> None:
    """Take frames or UDX packets apart, and show where one is wrong.

    FILE is a capture of serve --record; or text with a frame in hex digits on each line, behind
    > where it went out, < or nothing where it came in, with blank lines and # comments; or frames
    as they are, each behind its length in 24 bits, little endian. With - it is read from stdin.

    Or it holds the packets of UDX: a capture of a network, as Wireshark and tcpdump write it (pcap
    or pcapng), or a packet in hex digits on each line, which then begins with ff01. Other packets
    in a capture are counted and skipped.

    Each part of a frame is shown with its first byte and the one after its last, its name and
    its value; so are those of a packet, if it is wrong or in hex digits. The exit code is 1 if a
    frame, a packet or the file is wrong.
    """
    from protomux_wakeup.cli import inspect as inspection
    from protomux_wakeup.cli.recording import Form, open_recording

    def action(report: Reporter) -> Exit:
        with open_recording(file, None if form is None else Form(form)) as recording:
            return inspection.inspect(report, recording)

    output.perform(action)


@command_line.command(epilog=EXIT_CODES)
@frame_file_options
@click.option(
    "--stream",
    type=click.IntRange(1),
    metavar="NUMBER",
    help="Replay only this stream of a capture; inspect shows their numbers.",
)
@capability_option
@output_options
def replay(
    *,
    file: str,
    form: str | None,
    stream: int | None,
    capability_file: Path | None,
    output: Output,
) -> None:
    """Let what came in happen again, to a fresh mux.

    Only the frames that came in are fed to it; what it does and sends is shown. FILE is as for
    inspect, but of frames. Streams of a capture get the recorded role and handshake hash, so with
    the capability the peer's proofs are right again. Without one all topics are unknown.

    The exit code is 1 if what came in ends a stream in an error.
    """
    from protomux_wakeup.cli import replay as player
    from protomux_wakeup.cli.recording import STDIN as PIPED
    from protomux_wakeup.cli.recording import Form, open_recording

    def action(report: Reporter) -> Exit:
        capability = find_capability(capability_file, os.environ, report)
        with open_recording(file, None if form is None else Form(form)) as recording:
            # The event loop must not wait for a pipe.
            entries = list(recording.frames()) if file == PIPED else recording.frames()
            body = player.replay(report, recording.form, entries, capability, stream)
            return run(body, report)

    output.perform(action)


def _errand(
    address: Address, remote_key: bytes | None, timeout: float, keys: Keys, report: Reporter
) -> visit.Errand:
    return visit.Errand(
        address=address,
        capability=keys.capability(report),
        key_pair=keys.key_pair(report),
        remote_key=remote_key,
        allowed=keys.allowed,
        timeout=timeout,
    )
