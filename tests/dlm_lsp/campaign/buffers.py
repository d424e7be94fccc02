"""The documents of a campaign over LSP, as its editor has them, and which may not be sent.

SECRET stands in every text that may not reach an engine, and in no other. A document gets it only
after the server knows why, and loses it before the server is told otherwise.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from tests.dlm_lsp.campaign.texts import LANGUAGES, random_text

SECRET = "hunter2-of-the-campaign"
_TEXTS_MAX = 60
# Written into a folder's settings file, and whether they silence the folder.
SETTINGS = {
    "": False,
    'mode = "ar"\n': False,
    "[context]\nprefixTokens = 64\n": False,
    "\ufeffversion = 1\n": False,
    "[engine]\nurl = 'http://127.0.0.1:9'\n": False,  # A project may not set it.
    '[silence]\nlanguages = ["LANGUAGE"]\n': True,
    '[silence]\nglobs = ["*"]\n': True,
    "[silence\n": True,
    "\ufeff[silence]\nlangauges = 3\n": True,
    "mode = 'ar'\n\x00": True,
}
IGNORED = {"": False, "nothing*\n": False, "file*\n!keep\n": True, "/**\n": True}


@dataclass
class Buffer:
    """One document. Positions count units of the campaign's encoding.

    Attributes:
        number: the server's version of the text, which grows with each edit.
        reasons: why its text may not be sent; empty if it may.
        is_lost: whether the server has been sent an edit that it cannot apply.
    """

    uri: str
    language: str
    folder: Path | None
    text: str
    number: int = 1
    reasons: set[str] = field(default_factory=set)
    is_lost: bool = False
    texts: deque[tuple[int, str]] = field(default_factory=lambda: deque(maxlen=_TEXTS_MAX))

    @property
    def is_quiet(self) -> bool:
        return bool(self.reasons)

    @property
    def line_end(self) -> str:
        return "\r\n" if "\r\n" in self.text else "\n"

    def since(self, number: int) -> list[str]:
        """The texts from a version on."""
        return [text for at, text in self.texts if at >= number]

    def became(self, text: str) -> None:
        """Takes an edit's result."""
        self.text = text
        self.number += 1
        self.texts.append((self.number, text))

    def fresh_text(self, rng: random.Random) -> str:
        """Another text, with the secret where it may not be sent."""
        text = random_text(rng, self.language if self.language in LANGUAGES else "python")
        if not self.is_quiet:
            return text
        at = rng.randrange(len(text) + 1)
        return f"{text[:at]} {SECRET} {text[at:]}"


def make_buffers(folder: Path, rng: random.Random) -> list[Buffer]:
    """A document of each language in a folder of its own, and some that may never be sent."""
    found: list[Buffer] = []
    for language, endings in LANGUAGES.items():
        inner = folder / language
        (inner / ".git").mkdir(parents=True)
        name = endings[0] if endings[0][0] != "." else f"file{endings[0]}"
        found.append(Buffer((inner / name).as_uri(), language, inner, ""))
    found.append(Buffer("untitled:Untitled-1", "python", None, ""))
    (folder / "secrets").mkdir()
    (folder / ".env").write_text(f"KEY={SECRET}\n")
    (folder / "link.txt").symlink_to(folder / ".env")
    (folder / "big").mkdir()
    (folder / "big" / ".dlmignore").write_bytes(b"x\n" * (1 << 20))
    never = {
        (folder / ".env").as_uri(): "shellscript",
        f"git:{(folder / '.env').as_posix()}?ref": "shellscript",
        (folder / "secrets" / "db.yaml").as_uri(): "yaml",
        (folder / "link.txt").as_uri(): "plaintext",
        (folder / "big" / "a.py").as_uri(): "python",
        "file://": "python",
    }
    found += [Buffer(uri, language, None, "", reasons={"name"}) for uri, language in never.items()]
    for buffer in found:
        buffer.text = buffer.fresh_text(rng)
    return found
