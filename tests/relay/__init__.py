"""A UDP relay on loopback that loses, delays, doubles, reorders, corrupts and limits datagrams.

In a test: `async with Relay(Relayed(loss=0.05), seed=1) as relay`. As a process: see `__main__`.
"""

from tests.relay.link import Counters, Link, Relayed
from tests.relay.relay import Address, Lane, Relay, loop

__all__ = ["Address", "Counters", "Lane", "Link", "Relay", "Relayed", "loop"]
