"""The language server's interface to the editor: bytes, messages, methods and commands.

The only place that imports pygls and lsprotocol.
"""
