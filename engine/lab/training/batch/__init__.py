"""A training batch: flat rows of examples, the noise over them, and how rows attend to each other.

Knows no loss and no optimizer.
"""
