"""The engine host: one process per user and checkpoint that serves all of the user's editors."""
