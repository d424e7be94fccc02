"""The client's side of the engine host: its messages, where it is found, and how it is started."""
