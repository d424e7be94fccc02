"""What a card can do at most, and what it does: the roofline, kernels, whole steps, peers.

`roofline` is arithmetic and needs no card; `__main__` is the command that measures on one.
"""
