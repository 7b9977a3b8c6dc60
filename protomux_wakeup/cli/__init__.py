"""The `protomux-wakeup` command. Knows only how to start it; needs the extra `cli`.

Arrows run downwards only:

    commands, options       what can be typed; host_commands, backends_commands
    demo, serve, visit      what each command does, in asyncio
    backends                and those for what runs; needs the extra `backends`
    host, overview          and those for hosts; need the extra `host`
    inspect, replay         and those for frames that were written down
    endpoint, counted       streams: connecting, listening, letting in, leaving, counting
    recording, anatomy      files of frames, and how a frame looks; need the extra `dissect`
    witness                 what peers do, as lines
    keys, feed, logs        secrets, from files and the environment; logs, from stdin
    process                 exit codes, signals, whatever ends a run
    report, console         where results go: JSON lines for scripts, lines for people
    values                  how keys, logs and addresses are written
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]

_EXTRA = ("click", "rich", "construct", "msgspec", "aiohttp")


def main(args: Sequence[str] | None = None) -> int:
    """Run the command with `args`, those of the process unless given; return the exit code."""
    try:
        from protomux_wakeup.cli.commands import run_command

        return run_command(sys.argv[1:] if args is None else args)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRA:
            raise
        print(
            f"The protomux-wakeup command needs {missing}, which is not installed: "
            "pip install 'protomux-wakeup[cli]'",
            file=sys.stderr,
        )
        return 1
