"""`dlm-lsp eval`: asks the engine host as an editor does; `engine.lab.evaluation` judges."""
