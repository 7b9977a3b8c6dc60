"""UDX: streams of bytes over UDP, as the originals have them. Known so far: the two sides, in time.

    stream                                  what each side of a stream does
    congestion  recovery  mtu  pacer        how much, when, and how large
    ranges  windowed  packet                numbers, and the bytes on the wire

None of them knows a socket or a clock: packets and times are handed in.
"""
