"""One editor's session: its documents, its requests, and what each of them is answered with."""
