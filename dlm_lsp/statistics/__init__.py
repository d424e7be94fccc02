"""Local statistics: what became of suggestions, in figures, in one file of this user's machine."""
