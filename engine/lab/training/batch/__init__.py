"""A training batch: flat rows of examples, their noise, and the attention between rows."""
