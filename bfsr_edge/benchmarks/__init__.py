"""Benchmarks: what engines of ours and of others score and cost, measured on the same pixels in one run."""
