"""The texts that training, evaluation and benchmarks use: their sources, and holes cut in them."""
