"""Training: a recipe and faces in, checkpoints out.

`recipe` says what, `faces` and `pairs` make batches, `loop` runs them, `state` makes it resumable.
"""
