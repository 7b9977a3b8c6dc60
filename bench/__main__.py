"""The `python -m bench` command: one subcommand for each bench."""

from __future__ import annotations

import argparse

from bench import attacks, cipher, compare, growth, soak, start, udx
from bench import open as open_topics

BENCHES = (compare, open_topics, growth, cipher, soak, start, attacks, udx)
"""Modules with `add_parser(subparsers)`, which sets the default `run` of its parser."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    subparsers = parser.add_subparsers(required=True, dest="bench", metavar="BENCH")
    for bench in BENCHES:
        bench.add_parser(subparsers)
    arguments = parser.parse_args()
    arguments.run(arguments)


main()
