"""How good completions are: what is asked, how an answer is judged, and what the figures mean.

Pure and torch-free: whoever answers, an engine behind a host or a trivial baseline, is outside.
"""
