"""Measurements that are committed: quality on held-out code, later decoding and kernels."""
