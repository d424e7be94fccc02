"""The engine for diffusion language models: model, cache, decoders; `lab` makes and judges models.

Knows nothing of cursors, LSP or HTTP. Code that decides imports no torch, `engine.engine` included;
code that computes is imported when it is loaded.
"""
