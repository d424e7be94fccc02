"""How good completions are: what is asked, how an answer is judged, and what the figures mean.

Torch-free, and pure but for `infill_eval`, which asks an engine of its own; otherwise whoever
answers, an engine behind a host or a trivial baseline, is outside.
"""
