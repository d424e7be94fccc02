"""The licence that an installed package states, and whether it permits training.

Only packaging metadata are read: `License-Expression`, `License` and classifiers of Python
packages, `license` and the older `licenses` of npm packages. An unknown licence counts as not
permissive.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import Distribution

STDLIB_LICENCE = "PSF-2.0"

PERMISSIVE = frozenset(
    {
        "0BSD",
        "Apache-2.0",
        "Apache-2.0 WITH LLVM-exception",
        "BSD",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "BSL-1.0",
        "CC0-1.0",
        "HPND",
        "ISC",
        "MIT",
        "MIT-0",
        "PSF-2.0",
        "Python-2.0",
        "Unlicense",
        "Zlib",
    }
)

# From the free text of the older `License` field and of classifiers, in lower case, to identifiers.
_SPELLINGS = (
    (r"(the )?(mit|expat)( license)?( \(mit\))?", "MIT"),
    (
        r"(the )?apache([ -]software)?( license)?[ ,-]*(version |v)?(2(\.0)?)?( license)?",
        "Apache-2.0",
    ),
    (r"apache-2", "Apache-2.0"),
    (r"(the )?(modified |new |simplified )?bsd([ -]license)?( license)?", "BSD"),
    (r"(the )?(bsd[ -]3[ -]clause|3-clause bsd)( license)?", "BSD-3-Clause"),
    (r"(the )?(bsd[ -]2[ -]clause|2-clause bsd)( license)?", "BSD-2-Clause"),
    (r"(psf|psfl|psf license|python software foundation license|psf-2\.0)", "PSF-2.0"),
    (r"isc( license)?( \(iscl\))?", "ISC"),
    (r"(the )?unlicense( \(unlicense\))?", "Unlicense"),
)


def stated_licence(distribution: Distribution) -> str | None:
    """The licence as one expression, or None if the metadata states none in a known form.

    Several licence classifiers are joined with AND, the stricter reading.
    """
    metadata = distribution.metadata
    fields = ("License-Expression", "License")
    expression = next((metadata[name] for name in fields if name in metadata), "").strip()
    if expression and "\n" not in expression and len(expression) <= 100:
        normal = normalised(expression)
        if is_permissive(normal) or "License-Expression" in metadata:
            return normal
    classifiers = [
        value.rsplit(" :: ", 1)[-1]
        for value in metadata.get_all("Classifier") or []
        if value.startswith("License :: ") and value != "License :: OSI Approved"
    ]
    if classifiers:
        return " AND ".join(sorted({normalised(value) for value in classifiers}))
    return normalised(expression) if expression and "\n" not in expression else None


def stated_npm_licence(package: Mapping[str, object]) -> str | None:
    """The licence that a package.json states, or None if it states none in a known form.

    Several entries of the older `licenses` are joined with AND, the stricter reading.
    """
    stated = package.get("license") or package.get("licenses")
    entries = stated if isinstance(stated, list) else [stated]
    names = [entry.get("type") if isinstance(entry, dict) else entry for entry in entries]
    texts = [name for name in names if isinstance(name, str)]
    if not texts or len(texts) != len(names):
        return None
    return " AND ".join(sorted({normalised(text) for text in texts}))


def normalised(expression: str) -> str:
    """Common spellings as SPDX identifiers; operators and unknown names are kept."""
    parts = re.split(r"(\s+(?:AND|OR)\s+|\s*/\s*|[()])", expression.strip())
    return "".join(_identifier(part) for part in parts).strip()


def is_permissive(expression: str | None) -> bool:
    """Whether all AND terms of one OR branch are permissive, however the expression is read."""
    if not expression:
        return False
    flat = expression.replace("(", " ").replace(")", " ")
    if "(" in expression and " OR " in flat and " AND " in flat:
        return all(term in PERMISSIVE for term in _terms(flat))
    return any(all(term in PERMISSIVE for term in _terms(branch)) for branch in flat.split(" OR "))


def _terms(expression: str) -> list[str]:
    terms = re.split(r"\s+(?:AND|OR)\s+|/", expression)
    return [term.strip() for term in terms]


def _identifier(part: str) -> str:
    for pattern, identifier in _SPELLINGS:
        if re.fullmatch(pattern, part.strip().lower()):
            return identifier
    return part
