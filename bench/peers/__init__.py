"""The programs that the bench compares: `python -m bench.peers OPTIONS`, and the same in Node.

Each does one side of one work with another process: `node bench/peers/peer.mjs OPTIONS` or a second
one of these. Every module here has its twin of the same name in Node, which does the same.
"""
