"""The user's settings: what they may be, where they are read from, and which one wins."""
