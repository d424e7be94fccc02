"""The losses of one flat batch, and their gradients."""
