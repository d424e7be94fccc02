"""The engine host: one process per user and checkpoint, with the engine loaded, serving all."""
