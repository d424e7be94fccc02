"""The language server's side towards the editor: bytes, messages, methods and commands.

The only place that imports pygls and lsprotocol.
"""
