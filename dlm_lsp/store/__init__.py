"""The model store: which models are available, how they are downloaded and where they are kept.

Imports neither torch nor the engine nor other parts of `dlm_lsp`. The modules that every start
imports (`catalogue`, `folder`, `choice`) are fast; only the command `dlm-lsp model` uses the
modules that download (`pull`, `hub`, `wheels`).
"""
