"""A command for `protomux-wakeup on`: it takes note of what has grown, and acknowledges that.

    protomux-wakeup on team.capability --connect HOST:PORT -- python examples/on_news.py FILE

It needs nothing of this library; any program that reads lines will do.
"""

from __future__ import annotations

import os
import sys


def main(path: str) -> None:
    with open(path, "a") as file, open(int(os.environ["PROTOMUX_ACK_FD"]), "w") as done:
        for line in sys.stdin:  # until there was no news for some time
            _, topic, key, length = line.split()
            print(f"log {key[:8]} has {length} blocks", file=file, flush=True)
            print("ack", topic, key, length, file=done, flush=True)  # or it would come again


if __name__ == "__main__":
    main(sys.argv[1])
