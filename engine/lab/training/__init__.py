"""The recipe that makes the bundled models: corpus, tokenizer, two training stages, export.

`python -m engine.lab.training --preset nano --out runs/nano` runs all of it.
"""
