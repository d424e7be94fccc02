"""The diffusion-language-model engine: model, cache, decoders, training.

Knows nothing of files, cursors, LSP or HTTP. Torch-free names live in `api`, `config`, `errors`,
`prompt` and `step`; importing this package imports no torch.
"""
