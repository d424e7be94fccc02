"""How good completions are: the tasks, how an answer is judged, and what the figures mean.

Torch-free. Only `infill_eval` asks an engine; otherwise the caller brings the answers.
"""
