"""Blind face super-resolution for small machines: arrays in, arrays out.

>>> from bfsr_edge import load, restore
>>> engine = load("edge")
>>> result = restore(photograph, engine, scale=4)

Nothing heavy is imported until ``load`` or ``restore`` runs.
"""

from __future__ import annotations

__version__ = "0.1.0"
