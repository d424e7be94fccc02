"""The string and comment forms of programming languages, as a table for the scanner.

A language that is not listed is scanned by `UNKNOWN`, whose quotes open a string only where the
same line closes it. Knows no documents; `scanner.py` reads text by these forms.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StringForm:
    """One way to write a string.

    Attributes:
        opener: a regular expression for the text that opens it; it begins with a sign, and what
            must precede it is a look-behind.
        closer: the text that closes it; "{}" stands for the first group of `opener`.
        escapes: whether a backslash takes the next character into the string.
        is_line_bound: whether it ends with its line at the latest.
        code: the text that opens code inside the string ("${"); empty if there is none.
        literal: a doubled `code` that is not code ("{{"); empty if there is none.
    """

    opener: str
    closer: str
    escapes: bool = True
    is_line_bound: bool = True
    code: str = ""
    literal: str = ""


@dataclass(frozen=True, slots=True)
class Language:
    """The forms of one language.

    Attributes:
        strings: the forms of its strings; the first that matches counts.
        line_comments: regular expressions for what opens a comment to the end of the line.
        block_comments: the openers and closers of other comments.
        skipped: regular expressions for texts without meaning here, such as `'a'` and `/[(]/`.
        unfinished: a regular expression for the beginning of such a text at the end of a draft.
        indent: the indentation that the language prescribes; empty if it prescribes none.
        has_recipes: whether it has recipes, whose lines must begin with a tab.
        nests_comments: whether a block comment may hold another one.
        heredoc: a regular expression for what announces a text that begins on the next line; its
            last group is the word that ends the text.
    """

    strings: tuple[StringForm, ...] = ()
    line_comments: tuple[str, ...] = ()
    block_comments: tuple[tuple[str, str], ...] = ()
    skipped: tuple[str, ...] = ()
    unfinished: str = ""
    indent: str = ""
    has_recipes: bool = False
    nests_comments: bool = False
    heredoc: str = ""


_DOUBLE, _SINGLE = StringForm('"', '"'), StringForm("'", "'")
_RAW_SINGLE = StringForm("'", "'", escapes=False)
_BACKTICK = StringForm("`", "`", is_line_bound=False, code="${")
_LONG_DOUBLE = StringForm('"', '"', is_line_bound=False)
_LONG_SINGLE = StringForm("'", "'", is_line_bound=False)
_RAW_BACKTICK = StringForm("`", "`", escapes=False, is_line_bound=False)
_TRIPLE = StringForm('"""', '"""', is_line_bound=False)
_C_COMMENTS = (("/*", "*/"),)
# A character in quotes. A quote that opens none is a lifetime, a label or an apostrophe.
_CHARACTER = r"'(?:\\[^\n]{1,9}?|[^'\\\n])'"
_CHARACTER_BEGUN = r"'(?:\\[^'\n]{0,10}|[^'\\\n])?\Z"
# A regular expression stands where an operand is expected.
_OPERAND = r"(?:(?<=[\(,=:\[!&|?{};])|(?<=[\(,=:\[!&|?{};] )|(?<=\breturn ))"
_REGEX = _OPERAND + r"/(?![/*])(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n\[])+/"
_REGEX_BEGUN = _OPERAND + r"/(?![/*])[^\n]*\Z"


def _python() -> Language:
    marks = r"(?:(?<=\b[fFtT])|(?<=\b[rR][fFtT])|(?<=\b[fFtT][rR]))"
    quotes = ('"""', "'''", '"', "'")
    return Language(
        strings=(
            *(
                StringForm(marks + q, q, is_line_bound=len(q) == 1, code="{", literal="{{")
                for q in quotes
            ),
            *(StringForm(q, q, is_line_bound=len(q) == 1) for q in quotes),
        ),
        line_comments=("#",),
    )


def _c_like(*strings: StringForm, begun: str = "", nests: bool = False) -> Language:
    """The forms of C with these strings besides; `begun` is the beginning of an opener of them."""
    return Language(
        strings=(*strings, _DOUBLE),
        line_comments=("//",),
        block_comments=_C_COMMENTS,
        skipped=(_CHARACTER,),
        unfinished=f"{_CHARACTER_BEGUN}|{begun}" if begun else _CHARACTER_BEGUN,
        nests_comments=nests,
    )


def _hashed(*strings: StringForm) -> Language:
    return Language(strings=strings, line_comments=(r"(?<!\S)#",))


_JAVASCRIPT = Language(
    strings=(_BACKTICK, _DOUBLE, _SINGLE),
    line_comments=("//",),
    block_comments=_C_COMMENTS,
    skipped=(_REGEX,),
    unfinished=_REGEX_BEGUN,
)
_RUST = _c_like(
    StringForm(r'(?:(?<=\br)|(?<=\bbr))(#*)"', '"{}', escapes=False, is_line_bound=False),
    _LONG_DOUBLE,
    begun=r"(?:(?<=\br)|(?<=\bbr))#+\Z",
    nests=True,
)
_CPP = _c_like(
    StringForm(r'(?<=R)"([^"\(\)\\\s]{0,16})\(', '){}"', escapes=False, is_line_bound=False)
)
_GO = Language(
    strings=(_RAW_BACKTICK, _DOUBLE),
    line_comments=("//",),
    block_comments=_C_COMMENTS,
    skipped=(_CHARACTER,),
    unfinished=_CHARACTER_BEGUN,
    indent="\t",
)
_CSHARP = _c_like(
    StringForm(r'\$+"""', '"""', escapes=False, is_line_bound=False, code="{"),
    StringForm('"""', '"""', escapes=False, is_line_bound=False),
    StringForm(r'(?:\$@|@\$)"', '"', escapes=False, is_line_bound=False, code="{", literal="{{"),
    StringForm('@"', '"', escapes=False, is_line_bound=False),
    StringForm(r'\$"', '"', code="{", literal="{{"),
    begun=r"[$@]+\Z",
)
_SHELL = Language(
    strings=(
        StringForm('"', '"', is_line_bound=False, code="$("),
        StringForm("'", "'", escapes=False, is_line_bound=False),
    ),
    line_comments=(r"(?<![^\s;\(&|])#",),
    skipped=(r"\\.",),
    heredoc=r"(?<![<\w])<<-?[ ]?[\"']?([A-Z_]{2,32})\b",
)
# %w[a b], %(a), %q{a}: where an operand may stand. The bracket's other half ends it.
_PERCENT = r"(?:(?<=[\s\(,=\[{{|])|\A)%[wWiIqQrsx]?\{}"
_RUBY = Language(
    strings=(
        *(
            StringForm(_PERCENT.format(pair[0]), pair[1], is_line_bound=False, code="#{")
            for pair in ("()", "[]", "{}", "<>", "||")
        ),
        StringForm('"', '"', is_line_bound=False, code="#{"),
        StringForm("`", "`", code="#{"),
        _LONG_SINGLE,
    ),
    line_comments=("#",),
    skipped=(_REGEX,),
    unfinished=rf"{_REGEX_BEGUN}|%[wWiIqQrsx]?\Z",
    heredoc=r"<<[-~]?[\"'`]?([A-Z_]{2,32})\b",
)
_PHP = Language(
    strings=(StringForm('"', '"', is_line_bound=False, code="{$"), _LONG_SINGLE),
    line_comments=("//", "#"),
    block_comments=_C_COMMENTS,
    heredoc=r"<<<[ ]?[\"']?([A-Za-z_]{2,32})\b",
)
_LUA = Language(
    strings=(
        StringForm(r"\[(=*)\[", "]{}]", escapes=False, is_line_bound=False),
        _DOUBLE,
        _SINGLE,
    ),
    line_comments=(r"--(?!\[=*\[)",),
    block_comments=(("--[[", "]]"),),
    unfinished=r"(?:--?|(?:--)?\[=*)\Z",
)
_SQL = Language(
    strings=(
        StringForm("'", "'", escapes=False, is_line_bound=False),
        _DOUBLE,
        StringForm(r"\$([A-Za-z_]{0,32})\$", "${}$", escapes=False, is_line_bound=False),
    ),
    line_comments=("--",),
    block_comments=_C_COMMENTS,
    unfinished=r"\$[A-Za-z_]{0,32}\Z",
)
_MARKUP = Language(strings=(), block_comments=(("<!--", "-->"),))
_PROSE = Language()

# Languages with a preprocessor, whose lines have no indentation of their own.
WITH_DIRECTIVES = frozenset(
    {"c", "cpp", "objective-c", "objective-cpp", "cuda", "cuda-cpp", "arduino", "csharp", "glsl"}
)

# Without knowledge a quote opens a string only where its line closes it; `scanner.py` sees to that.
UNKNOWN = Language(
    strings=(
        StringForm('"""', '"""', is_line_bound=False),
        StringForm("'''", "'''", is_line_bound=False),
        _DOUBLE,
        _SINGLE,
        StringForm("`", "`"),
    )
)

_LANGUAGES: dict[Language, tuple[str, ...]] = {
    _python(): ("python", "starlark", "bazel"),
    _JAVASCRIPT: (
        *("javascript", "javascriptreact", "typescript", "typescriptreact", "jsx", "tsx"),
        *("vue", "svelte", "astro"),
    ),
    _RUST: ("rust",),
    _c_like(): ("c", "objective-c", "zig", "proto", "proto3", "glsl"),
    _CPP: ("cpp", "cuda", "cuda-cpp", "objective-cpp", "arduino"),
    _c_like(_TRIPLE): ("java",),
    _CSHARP: ("csharp", "cs"),
    _GO: ("go",),
    _c_like(
        StringForm('"""', '"""', escapes=False, is_line_bound=False, code="${"),
        StringForm('"', '"', code="${"),
        nests=True,
    ): ("kotlin", "scala"),
    _c_like(
        StringForm('"""', '"""', is_line_bound=False, code="${"),
        StringForm('"', '"', code="${"),
    ): ("groovy",),
    Language(
        strings=(
            StringForm('(#{1,3})"', '"{}', escapes=False),
            StringForm('"""', '"""', is_line_bound=False, code="\\("),
            StringForm('"', '"', code="\\("),
        ),
        line_comments=("//",),
        block_comments=_C_COMMENTS,
        unfinished=r"#+\Z",
        nests_comments=True,
    ): ("swift",),
    Language(
        strings=(
            *(StringForm(rf"(?<=\br){q}", q, escapes=False) for q in ('"', "'")),
            *(StringForm(q, q, is_line_bound=False, code="${") for q in ('"""', "'''")),
            *(StringForm(q, q, code="${") for q in ('"', "'")),
        ),
        line_comments=("//",),
        block_comments=_C_COMMENTS,
    ): ("dart",),
    _SHELL: ("shellscript", "sh", "bash", "zsh", "ksh"),
    _RUBY: ("ruby", "crystal"),
    Language(
        strings=(
            StringForm('"""', '"""', is_line_bound=False, code="#{"),
            StringForm('"', '"', is_line_bound=False, code="#{"),
            _LONG_SINGLE,
        ),
        line_comments=("#",),
    ): ("elixir",),
    _PHP: ("php",),
    _LUA: ("lua",),
    _SQL: ("sql", "mysql", "plsql", "pgsql"),
    Language(
        strings=(_LONG_DOUBLE,),
        line_comments=(";",),
        skipped=(r"\\.",),
        block_comments=(("#|", "|#"),),
    ): ("lisp", "commonlisp", "elisp", "emacs-lisp", "scheme", "racket", "clojure", "fennel"),
    Language(
        strings=(_DOUBLE,),
        line_comments=("--",),
        block_comments=(("{-", "-}"),),
        skipped=(_CHARACTER,),
        unfinished=_CHARACTER_BEGUN,
    ): ("haskell", "elm", "purescript"),
    Language(
        strings=(_LONG_DOUBLE,),
        block_comments=(("(*", "*)"),),
        skipped=(_CHARACTER,),
        unfinished=_CHARACTER_BEGUN,
    ): ("ocaml", "fsharp", "sml"),
    _hashed(_DOUBLE, _SINGLE): ("r", "julia", "perl", "yaml", "dockerfile", "powershell", "nix"),
    Language(
        strings=(
            _TRIPLE,
            StringForm("'''", "'''", escapes=False, is_line_bound=False),
            _DOUBLE,
            _RAW_SINGLE,
        ),
        line_comments=("#",),
    ): ("toml",),
    Language(line_comments=(r"(?<!\\)#",), has_recipes=True): ("makefile", "make"),
    Language(strings=(_DOUBLE,), line_comments=("//",), block_comments=_C_COMMENTS): (
        *("json", "jsonc", "json5"),
    ),
    Language(strings=(_DOUBLE, _SINGLE), line_comments=("//",), block_comments=_C_COMMENTS): (
        *("css", "scss", "less"),
    ),
    _MARKUP: ("html", "xml", "xhtml", "svg", "xsl", "handlebars"),
    _PROSE: (
        "plaintext",
        "text",
        "markdown",
        "latex",
        "tex",
        "rst",
        "restructuredtext",
        "asciidoc",
    ),
}
_BY_NAME = {name: language for language, names in _LANGUAGES.items() for name in names}


def language_named(language_id: str) -> Language:
    """Returns the forms of the language with this LSP identifier, or `UNKNOWN`."""
    return _BY_NAME.get(language_id.lower(), UNKNOWN)


def is_prose(language: Language) -> bool:
    """Returns whether a language is text for people, with or without marks."""
    return language in (_PROSE, _MARKUP)


def named_languages() -> frozenset[str]:
    """Returns the identifiers of all languages in the table."""
    return frozenset(_BY_NAME)
