"""The options of `dlm-lsp eval`, on the command line and as an object.

Every command imports this module, so it imports nothing slow.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from engine.api import ASKED_MODES, AskedMode
from engine.errors import ConfigError
from engine.lab.evaluation.lines import INFILLINGS, Infilling

HOLES, REPLAY = "holes", "replay"
THRESHOLD_MAX, TOKENS_MAX = 2, 4096  # As in `client/messages.py`.

Execute = Literal["isolated", "unprotected", "never"]
EXECUTE: tuple[Execute, ...] = get_args(Execute)


_WITH_BLOCKS = ("block", "linear_spec", "quadratic_spec")


@dataclass(frozen=True, slots=True)
class ModeOption:
    """A mode to be evaluated, with its own block length or the run's."""

    mode: AskedMode
    length: int | None = None


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """The options of an evaluation.

    Attributes:
        suites: "holes", "replay" or files; each may have its own limit after a colon.
        infillings: the kinds of tasks made of HumanEval's problems; single lines if empty.
        limit: the largest number of holes of each kind, of a suite's tasks and of typed files; None
            means 200, all and 10.
        languages: the languages of the held-out files; all if empty.
        kinds: the kinds of held-out holes (`engine.lab.data.holes.KINDS`); all if empty.
        keys_max: the largest number of keys typed in one file.
        corpus: the corpus with the held-out files; None makes one of installed files.
        out: the folder of a run that can be resumed; None keeps nothing.
        is_raw: whether to judge all that the model writes; see `answers.Asking`.
        is_automatic: whether to stop as a completion that typing asked for.
        is_verbatim: whether to ask with unchanged prefix and suffix; see `answers.Asking`.
        is_one_line: whether completions of whole lines end at their first line break.
        confidences: values of `silence.confidence` in the replay; the default if empty.
        logs_shown: whether the suggestions that the replay was shown are kept in `out`.
    """

    suites: tuple[str, ...] = (HOLES,)
    infillings: tuple[Infilling, ...] = ()
    languages: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    modes: tuple[ModeOption, ...] = (ModeOption("ar"), ModeOption("block"))
    thresholds: tuple[float, ...] = ()
    limit: int | None = None
    tokens_max: int = 256
    keys_max: int = 200
    seed: int = 7
    corpus: Path | None = None
    out: Path | None = None
    is_raw: bool = False
    is_automatic: bool = False
    is_verbatim: bool = False
    is_one_line: bool = False
    execute: Execute = "isolated"
    confidences: tuple[float, ...] = ()
    logs_shown: bool = False

    def __post_init__(self) -> None:
        """Raises ConfigError, which names the option."""
        for value in self.thresholds:
            if not 0 <= value <= THRESHOLD_MAX:
                raise ConfigError(
                    f"--thresholds has {value:g}.",
                    remedy=f"Use 0 to {THRESHOLD_MAX}.",
                    param="thresholds",
                )
        if self.thresholds and all(asked.mode != "block" for asked in self.modes):
            raise ConfigError(
                "--thresholds are of the mode block.",
                remedy="Add it to --modes.",
                param="thresholds",
            )
        for value in self.confidences:
            if not 0 <= value <= 1:
                raise ConfigError(
                    f"--confidence has {value:g}.", remedy="Use 0 to 1.", param="confidence"
                )
        if self.logs_shown and self.out is None:
            raise ConfigError(
                "--log-shown has no folder to write to.", remedy="Add --out.", param="log-shown"
            )
        if self.is_raw and self.is_automatic:
            raise ConfigError(
                "--raw and --automatic exclude each other: raw text is not cut.",
                remedy="Leave one of them out.",
                param="raw",
            )
        if not 1 <= self.tokens_max <= TOKENS_MAX:
            raise ConfigError(
                f"--max-tokens is {self.tokens_max}.",
                remedy=f"Use 1 to {TOKENS_MAX}.",
                param="max-tokens",
            )


def add_eval_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of an evaluation; the caller adds those of the engine."""
    default = EvalOptions()
    parser.add_argument(
        "--suite",
        action="append",
        metavar="NAME[:N]",
        help="holes (the default), replay, or a .jsonl, .jsonl.gz or .parquet file, and its own "
        "--limit; repeatable",
    )
    parser.add_argument(
        "--modes",
        nargs="+",
        type=_mode,
        default=default.modes,
        metavar="MODE[:N]",
        help=f"modes to compare, of {' '.join(ASKED_MODES)}; with tokens per block, as in "
        f"quadratic_spec:4 ({' '.join(asked.mode for asked in default.modes)})",
    )
    parser.add_argument(
        "--thresholds", nargs="+", type=float, default=(), metavar="P", help="thresholds of block"
    )
    parser.add_argument(
        "--limit",
        type=_positive,
        metavar="N",
        help="most holes of each kind (200), tasks of a file (all), files replayed (10); a "
        "sample spread evenly",
    )
    # The name is not "max_tokens", which would also limit the suggestions of the replay.
    for option, name, meaning in (
        ("--max-tokens", "tokens_max", "most tokens of a task"),
        ("--keystrokes", "keys_max", "replay: most keys in one file"),
        ("--seed", "seed", "of holes, samples and typing"),
    ):
        value = getattr(default, name)
        about = f"{meaning} ({value})"
        parser.add_argument(
            option, type=_positive, dest=name, default=value, metavar="N", help=about
        )
    parser.add_argument(
        "--corpus", type=Path, metavar="DIR", help="corpus of a training run (installed files)"
    )
    parser.add_argument(
        "--language",
        action="append",
        default=[],
        metavar="NAME",
        help="held-out files of this language, such as python; repeatable (all)",
    )
    parser.add_argument(
        "--kinds",
        nargs="+",
        default=(),
        metavar="KIND",
        help="held-out holes of these kinds, such as whole_line and line_tail (all)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep results there, resume")
    _add_judging_options(parser)


def _add_judging_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--infilling",
        nargs="+",
        choices=INFILLINGS,
        default=(),
        metavar="LINES",
        help="kinds of holes in HumanEval's problems: single-line (the default), multi-line, body "
        "(a whole function after its docstring)",
    )
    parser.add_argument(
        "--raw",
        action="store_true",
        help="judge all that the model writes up to its own end or the limit; otherwise what an "
        "editor would insert, with the engine stopped where that ends",
    )
    parser.add_argument(
        "--automatic",
        action="store_true",
        help="stop as when typing asks, after a paragraph; otherwise as when a user asks",
    )
    parser.add_argument(
        "--one-line",
        action="store_true",
        help="end completions of whole lines at their first line break",
    )
    parser.add_argument(
        "--verbatim",
        action="store_true",
        help="ask with a file's prompt and suffix as they are, as published figures do; "
        "otherwise the line break that ends a hole stands after the cursor, as in an editor",
    )
    parser.add_argument(
        "--execute",
        choices=EXECUTE,
        default=EvalOptions().execute,
        help="how programs are run (isolated); unprotected only in a machine that may be lost",
    )
    parser.add_argument(
        "--confidence",
        nargs="+",
        type=float,
        default=(),
        metavar="P",
        help="replay: values of the setting silence.confidence; 0 shows everything (auto)",
    )
    parser.add_argument(
        "--log-shown",
        action="store_true",
        help="replay: keep each shown suggestion, with its tokens' probabilities, in --out",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument(
        "--block-length", type=int, metavar="N", help="tokens per block in all modes"
    )
    parser.add_argument(
        "--revisions", type=int, metavar="N", help="block: decided tokens that may be decided anew"
    )


def to_eval_options(options: argparse.Namespace) -> EvalOptions:
    """Returns the options of a command line. Raises ConfigError, which names the option."""
    return EvalOptions(
        suites=tuple(options.suite or EvalOptions().suites),
        infillings=tuple(dict.fromkeys(options.infilling)),
        languages=tuple(dict.fromkeys(options.language)),
        kinds=tuple(dict.fromkeys(options.kinds)),
        modes=tuple(options.modes),
        thresholds=tuple(options.thresholds),
        limit=options.limit,
        tokens_max=options.tokens_max,
        keys_max=options.keys_max,
        seed=options.seed,
        corpus=options.corpus,
        out=options.out,
        is_raw=options.raw,
        is_automatic=options.automatic,
        is_verbatim=options.verbatim,
        is_one_line=options.one_line,
        execute=options.execute,
        confidences=tuple(options.confidence),
        logs_shown=options.log_shown,
    )


def _mode(text: str) -> ModeOption:
    name, colon, length = text.partition(":")
    if name not in ASKED_MODES:
        raise argparse.ArgumentTypeError(f"is {text!r}; use one of {', '.join(ASKED_MODES)}")
    if colon and name not in _WITH_BLOCKS:
        raise argparse.ArgumentTypeError(f"is {text!r}; {name} has no blocks")
    return ModeOption(name, _positive(length) if colon else None)


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"is {text!r}; use 1 or a larger number")
    return int(text)
