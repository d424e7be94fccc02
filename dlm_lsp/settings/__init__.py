"""The user's settings: their schema, their sources and the order of precedence."""
