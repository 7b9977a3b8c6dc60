"""Attacks on a peer, each made by a raw peer that writes its own bytes.

`catalogue` lists them. The tests run each at a small size against the Python victim;
`python -m bench attacks` runs each at full size, also against the npm originals.
"""
