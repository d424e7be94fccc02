"""The text that models are trained and judged on: where it comes from, and how holes are cut in it.

The common ground of training, evaluation and benchmarks, none of which it imports.
"""
