"""UDX beside udx-native: goodput, fairness, loopback, and the floor under it. See `command`."""

from bench.udx.command import add_parser

__all__ = ["add_parser"]
