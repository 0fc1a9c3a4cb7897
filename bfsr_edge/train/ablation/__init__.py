"""Recipes against a baseline, at equal iterations: `run` does it, `rule` halts losers, `table` shows what came out."""
