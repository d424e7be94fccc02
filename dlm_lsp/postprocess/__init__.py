"""From the model's raw text to what an editor may show. Knows no positions and no requests."""
