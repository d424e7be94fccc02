"""The diffusion-language-model engine: model, cache, decoders; `lab` makes and judges models.

Knows nothing of files, cursors, LSP or HTTP. What decides imports no torch, `engine.engine`
included; what computes is imported where it is loaded.
"""
