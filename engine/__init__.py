"""The diffusion-language-model engine: model, cache, decoders, training.

Knows nothing of files, cursors, LSP or HTTP. What decides imports no torch, `engine.engine`
included; what computes is imported where it is loaded.
"""
