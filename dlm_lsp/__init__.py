"""The language server, its command line and, in `host`, the engine host.

Importing this package, or anything in it but `host`, imports no torch.
"""
