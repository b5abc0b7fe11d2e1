"""Attacks on everything that takes what a user, a disk or another process gives.

The catalogue is data: what is done, and what may come of it. `python -m attack` tries
all and counts; `test_attack.py` tries a part of each kind.
"""
