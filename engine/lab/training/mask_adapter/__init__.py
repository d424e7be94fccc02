"""Turns an autoregressive code model into one that also drafts in parallel, by an adapter.

The adapter runs on mask rows alone, so that every other row computes what the checkpoint computes,
to the bit (gated LoRA, arXiv 2507.11851). `prompts` cuts holes out of source files, `teacher`
writes the middles that the model itself would write, `groups` hangs mask rows on them, `adapter` is
what is trained, `loss` says how, `session` runs it and `export` writes the result.
"""
