"""What makes and judges models: data, training, evaluation, verification and benchmarks.

Nothing that serves a request imports this package.
"""
