"""The model store: which models can be had, how they come here, and where they lie.

Imports neither torch nor the engine, and of the rest of `dlm_lsp` nothing. What is read at every
start (`catalogue`, `folder`, `choice`) is light; what downloads (`pull`, `hub`, `wheels`) is used
by the command `dlm-lsp model` alone.
"""
