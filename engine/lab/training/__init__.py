"""Training: how checkpoints and adapters are made."""
