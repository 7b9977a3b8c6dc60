"""What a backend of the tests runs: writes down what it hears, and acknowledges it.

`python journal.py FILE [WORK]`: lines are `start PID TOKEN`, `hint KEY LENGTH`, `end PID`, and
`! PID` of one that finds another at work. WORK is how long each hint takes, in seconds. It is a
script of its own, without any of the library, as any command is.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time


def main(path: str, work: float = 0.0) -> int:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(*words: object) -> None:
        os.write(file, (" ".join(map(str, words)) + "\n").encode())

    lock = os.open(path + ".lock", os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        write("!", os.getpid())
        return 1
    acknowledged = int(os.environ["PROTOMUX_ACK_FD"])
    write("start", os.getpid(), os.environ["SESSION_BACKEND_FENCING_TOKEN"])
    for line in sys.stdin:
        _, topic, key, length = line.split()
        time.sleep(work)
        write("hint", key, length)
        os.write(acknowledged, f"ack {topic} {key} {length}\n".encode())
    write("end", os.getpid())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], *map(float, sys.argv[2:])))
