"""`dlm-lsp eval`: asks the engine host as an editor does, and has `engine.lab.evaluation` judge."""
