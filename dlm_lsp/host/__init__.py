"""The engine host: one process per user and checkpoint that keeps the engine loaded and serves it."""
