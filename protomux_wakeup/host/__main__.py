"""The processes of a host: `python -m protomux_wakeup.host worker|coordinator|monitor`.

They are started by its clients, and monitors by who runs backends.
"""

from __future__ import annotations

import sys
from typing import Final

import msgspec

USAGE: Final = 2
"""The exit code where it is started by anybody else."""


def main(*words: str) -> int:
    """Be the process of the role that the first of `words` names; return the exit code."""
    role, *arguments = words or ("",)
    if role == "coordinator":
        from protomux_wakeup.host.coordinator import run_coordinator

        directory, spindown = arguments
        run_coordinator(directory, float(spindown))
        return 0
    if role == "monitor":
        from protomux_wakeup.host.backends.monitor import run_monitor

        control, cgroup = arguments
        return run_monitor(int(control), cgroup)
    if role != "worker":
        print("the processes of a host start each other: see protomux-wakeup host", file=sys.stderr)
        return USAGE
    from protomux_wakeup.host.worker_process import Launch, run_worker

    return run_worker(msgspec.json.decode(arguments[0], type=Launch))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
