"""One editor's session: its documents, its requests and the answers to them."""
