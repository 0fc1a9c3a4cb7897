"""Training pairs in batched torch, on the training device: what `pairs`, `augment` and `degrade` do with OpenCV.

Given the same draws and the same noise, both pipelines give the same pictures up to rounding.
"""
