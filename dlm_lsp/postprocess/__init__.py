"""Turns the model's raw text into text for an editor. Knows no positions and no requests."""
