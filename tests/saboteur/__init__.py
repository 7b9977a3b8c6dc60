"""Spoils one announce, so that a test sees whether the bench notices.

With this folder on PYTHONPATH it spoils ours (sitecustomize.py), with NODE_OPTIONS=--import the
originals (saboteur.mjs). SABOTAGE=KIND:NUMBER says which announce and how: `lose` it, `repeat` it,
or change a `length` or a `key` in it.
"""
