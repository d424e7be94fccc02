"""How long a suggestion takes while somebody types, beside llama.cpp's `/infill`."""
