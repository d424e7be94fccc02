"""The network, its checkpoint format, its tokenizer, and the runner that computes one step."""
