"""The UDP datagrams of captured packets. Knows which files there are, and nothing of their formats.

```python
with open(path, "rb") as file:
    for entry in read_datagrams(file):
        match entry:
            case Datagram():
                print(dissect(udx.packet, entry.data))
```
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Final

from protomux.dissect.network import Captured, Datagram, Other, find_datagram
from protomux.dissect.pcap import PCAP_MAGICS, read_pcap
from protomux.dissect.pcapng import PCAPNG_MAGIC, read_pcapng
from protomux.dissect.tree import Problem

__all__ = ["MAGICS", "read_datagrams"]

MAGICS: Final = (*PCAP_MAGICS, PCAPNG_MAGIC)
"""What files of captured packets begin with; all have the same size."""


def read_datagrams(file: IO[bytes]) -> Iterator[Datagram | Other | Problem]:
    """Yield what each packet of a pcap or pcapng file is, and what is wrong, where it is.

    An empty file holds nothing. Packets are read as they are asked for. Raises OSError where the
    file cannot be read.
    """
    for packet in _read_packets(file):
        yield find_datagram(packet) if isinstance(packet, Captured) else packet


def _read_packets(file: IO[bytes]) -> Iterator[Captured | Problem]:
    magic = file.read(len(PCAPNG_MAGIC))
    if magic == PCAPNG_MAGIC:
        yield from read_pcapng(file, magic)
    elif magic in PCAP_MAGICS:
        yield from read_pcap(file, magic)
    elif magic:
        yield Problem(0, f"expected a pcap or pcapng file, which does not begin with {magic.hex()}")
