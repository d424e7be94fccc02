"""The language server, its command line and, in `host`, the engine host.

Only `host` may import torch.
"""
