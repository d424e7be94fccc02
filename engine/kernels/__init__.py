"""The engine's Triton kernels: one operation per file, each beside the torch code that defines it.

A file holds the reference in torch, the kernel, its launcher, the function that chooses between
them, the cases of tests and benchmarks, and the variants that are compiled ahead of time. Kernels
know tensors alone: neither steps nor caches nor networks. Importing a file imports Triton, unless
the file says otherwise, so that only code which has a CUDA device in its hands does so.
"""
