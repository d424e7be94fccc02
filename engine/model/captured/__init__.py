"""Captured steps: one function over fixed buffers for each bucket of rows, made of the kernels.

On a card it is captured once as a CUDA graph and replayed; on a processor it is called. What it
gives is what `engine.model.runner` gives, which stays the specification. Importing a file of this
folder imports Triton.
"""
