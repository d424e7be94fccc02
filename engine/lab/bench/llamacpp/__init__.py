"""This engine beside llama.cpp on the same file."""
