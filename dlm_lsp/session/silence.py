"""Decides whether suggestions are silenced at a place, and gives the reason as one sentence.

Owns the tests for binary and generated text. Knows no request; `gate.py` knows the rest.
"""

from __future__ import annotations

import re

from dlm_lsp.postprocess.pairs import text_around
from dlm_lsp.session.document import Document
from dlm_lsp.session.uris import paths_in
from dlm_lsp.settings.schema import Settings
from engine.secrets import is_secret, matches

SECRET_LANGUAGES = ("dotenv",)

LINE_CHARS_MAX = 5_000  # Longer lines are generated; nobody types there.
_SAMPLE_CHARS = 4_096  # Checked for binary content on each side of the cursor.
_UNTYPED_SHARE_MAX = 0.1
_UNTYPED_MIN = 8
_UNTYPED = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffd]")


def why_silent(document: Document, offset: int, settings: Settings, automatic: bool) -> str | None:
    """Returns the reason for silence at an offset as one sentence, or None if there is none.

    `automatic` means that typing caused the request and the user did not ask for it.
    """
    silence, language = settings.silence, document.language_id.lower()
    if automatic and not silence.automatic:
        return "Automatic suggestions are off (silence.automatic)."
    if language in (name.lower() for name in silence.languages):
        return f"The language {document.language_id} is silenced (silence.languages)."
    paths = paths_in(document.uri)
    for glob in silence.globs:
        if any(matches(path, glob) for path in paths):
            return f"The file matches {glob} (silence.globs)."
    if silence.secret_files and (language in SECRET_LANGUAGES or any(map(is_secret, paths))):
        return "The file looks as if it held secrets (silence.secretFiles)."
    if automatic and not document.text.strip():
        return "The document has no text yet that a suggestion could follow from."
    if len(document.text) > silence.file_chars_max:
        return f"The file has more than {silence.file_chars_max} characters (silence.fileCharsMax)."
    if _is_binary(document.text, offset):
        return "The file does not look like text."
    line = document.line_of(offset)
    if automatic and document.line_end(line) - document.line_start(line) > LINE_CHARS_MAX:
        return f"The line has more than {LINE_CHARS_MAX} characters."
    if automatic and (silence.comments or silence.strings):
        kind = text_around(document.language_id, document.text[:offset], document.text[offset:])
        if (kind == "comment" and silence.comments) or (kind == "string" and silence.strings):
            return f"The cursor is in a {kind} (silence.{kind}s)."
    return None


def _is_binary(text: str, offset: int) -> bool:
    """Returns whether the text has a NUL, or many control characters around the offset."""
    if "\0" in text:
        return True
    sample = text[max(offset - _SAMPLE_CHARS, 0) : offset + _SAMPLE_CHARS]
    return len(_UNTYPED.findall(sample)) > max(_UNTYPED_MIN, _UNTYPED_SHARE_MAX * len(sample))
