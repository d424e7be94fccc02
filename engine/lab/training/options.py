"""The command line options of `adapt`, `convert` and `train-drafter`, and their help.

Torch-free, so that the command line can show and check them at once.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from pathlib import Path

COMMANDS = ("adapt", "convert", "train-drafter")
SUMMARIES = {
    "adapt": "teach a checkpoint to fill holes, on your own files",
    "convert": "make a diffusion model of an autoregressive checkpoint",
    "train-drafter": "train the adapter that drafts for speculative modes",
}
EXAMPLES = {
    "adapt": """\
examples:
  dlm-lsp adapt nld-8b --data ~/src/app --out adapted
  dlm-lsp adapt nld-8b --data app --data lib --out adapted --minutes 240 --rank 32
  dlm-lsp complete --checkpoint adapted/checkpoint app.py:12:5

Trains on the files that git does not ignore, leaves out those that look like secrets, and holds
out one file in ten to measure on. Ctrl-C saves what was learnt; the same command goes on. Nothing
leaves the machine.
""",
    "convert": """\
examples:
  dlm-lsp convert qwen3-0.6b --data ~/src/app --out diffusion --minutes 600
  dlm-lsp convert qwen3-0.6b --data corpus --out diffusion --late 0.1 --infilling 0

Trains all weights. A good diffusion model takes some ten billion tokens; a repository is a start.
Ctrl-C saves what was learnt; the same command goes on. Nothing leaves the machine.
""",
    "train-drafter": """\
examples:
  dlm-lsp train-drafter qwen2.5-coder-0.5b --data ~/src/app --out drafter --minutes 600
  dlm-lsp train-drafter qwen2.5-coder-0.5b --data ~/src/app --out more --start-from current
  dlm-lsp complete --mode pruned_spec --checkpoint qwen2.5-coder-0.5b app.py:12:5

  dlm-lsp train-drafter nld-8b --data ~/src/app --out drafter
  dlm-lsp complete --mode linear_spec --checkpoint drafter/checkpoint app.py:12:5

An autoregressive model gets a mask adapter, which the engine finds by itself from then on; a model
that fills masks gets the adapter that drafts for linear_spec, beside a copy of it. Either changes
only the number of forwards, never the emitted text. Ctrl-C saves what was learnt; the same command
goes on. Nothing leaves the machine.
""",
}


# Options that have to be repeated to resume a run; PLANNED_OF has those of one command.
PLANNED = ("command", "checkpoint", "data", "learning_rate", "batch_tokens", "dtype")
PLANNED_OF = {
    "adapt": ("rank",),
    "convert": ("infilling", "late"),
    "train-drafter": (
        *("rank", "start_from", "markov_rank", "draft_vocabulary"),
        *("middles", "middle_tokens"),
    ),
}
# Options that only a mask adapter has, and so only an autoregressive checkpoint.
OF_MASK_ADAPTERS = (
    *("start_from", "markov_rank", "draft_vocabulary"),
    *("middles", "middle_tokens", "measure_minutes"),
)
CURRENT = "current"  # for --start-from: the adapter that the engine uses now
RANK, MARKOV_RANK, DRAFT_VOCABULARY = 32, 64, 24_576  # of a fresh mask adapter
MIDDLES, MIDDLE_TOKENS, MEASURE_MINUTES = 4096, 128, 30.0
BATCH_TOKENS = 4096
# Mask rows of a step: a processor, which has time for some hundred rows a second, takes many small
# steps; the bundled adapter was trained with as many on a card.
ROWS_ON_CPU, ROWS_ON_CUDA = 1024, 16_384
_OF_MASKS = {
    "train-drafter": f"; mask rows per step of a mask adapter (default: {ROWS_ON_CPU}, on a card "
    f"{ROWS_ON_CUDA})"
}


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """The options of one command, as `add_options` declares them.

    Attributes:
        checkpoint: a folder or a GGUF file.
        batch_tokens: 0 where it is not given, which only `train-drafter` allows.
        rank: the rank of the LoRA; 0 where it is not given, and `convert` has none.
        infilling, late: only `convert` has them.
        start_from … measure_minutes: only mask adapters have them; None where not given.
        name: the checkpoint's name for people; None for that of its file or folder.
        adapters: the folder in which the engine looks for adapters; None if nobody said which.
        graphs: the folder in which the engine keeps graphs, likewise.
    """

    command: str
    checkpoint: Path
    data: tuple[Path, ...]
    out: Path
    minutes: float | None
    tokens: int | None
    learning_rate: float | None
    batch_tokens: int
    holes: int
    device: str
    dtype: str | None
    threads: int | None
    rank: int = 0
    infilling: float = 0.0
    late: float = 0.0
    start_from: str | None = None
    markov_rank: int | None = None
    draft_vocabulary: int | None = None
    middles: int | None = None
    middle_tokens: int | None = None
    measure_minutes: float | None = None
    name: str | None = None
    adapters: Path | None = None
    graphs: Path | None = None

    @classmethod
    def of(cls, given: argparse.Namespace) -> TrainingOptions:
        """The options that a parser with `add_options` has read, `command` among them."""
        known = {each.name for each in fields(cls)}
        values = {name: value for name, value in vars(given).items() if name in known}
        at = given.at if given.at is not None else given.checkpoint
        return cls(**{**values, "data": tuple(given.data), "checkpoint": Path(at)})

    def plan(self) -> dict[str, object]:
        """The options that have to be the same when a run resumes."""
        names = (*PLANNED, *PLANNED_OF[self.command])
        return {name: getattr(self, name) for name in names}


def add_options(parser: argparse.ArgumentParser, command: str) -> None:
    """Declares one command's options."""
    _add_checkpoint(parser, command)
    parser.add_argument(
        "--data",
        type=Path,
        action="append",
        required=True,
        metavar="DIR",
        help="a repository, or a corpus folder of the recipe; repeatable",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for all results"
    )
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--minutes", type=_positive, help="training time (default: 60)")
    budget.add_argument("--tokens", type=_count, help="rows to train on, instead of a time")
    if command == "adapt":
        parser.add_argument(
            "--rank",
            type=_count,
            default=16,
            help="rank of the LoRA; alpha is twice the rank (default: 16)",
        )
    if command == "train-drafter":
        _add_drafter_options(parser)
    if command == "convert":
        parser.add_argument(
            "--infilling",
            type=_share,
            default=0.5,
            metavar="SHARE",
            help="share of the rows that are holes; 0 trains on plain text only (default: 0.5)",
        )
        parser.add_argument(
            "--late",
            type=float,
            default=0.0,
            metavar="BETA",
            help="mask later tokens of a block more often, such as 0.1 (default: 0, all alike)",
        )
    parser.add_argument(
        "--learning-rate", type=_positive, metavar="X", help="peak rate (default: by size)"
    )
    parser.add_argument(
        "--batch-tokens",
        type=_count,
        default=0 if command == "train-drafter" else BATCH_TOKENS,
        metavar="N",
        help=f"tokens per forward (default: {BATCH_TOKENS})" + _OF_MASKS.get(command, ""),
    )
    parser.add_argument(
        "--holes",
        type=int,
        default=50,
        metavar="N",
        help="holes of each kind to measure on, or held-out prompts of a mask adapter "
        "(default: 50)",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--dtype", choices=("bfloat16", "float32"), help="default: bfloat16 if native"
    )
    parser.add_argument(
        "--threads",
        type=_count,
        metavar="N",
        help="CPU threads" + (" (default: 1)" if command == "train-drafter" else ""),
    )


def _add_checkpoint(parser: argparse.ArgumentParser, command: str) -> None:
    what = "a pulled model's name, a checkpoint folder"
    if command == "train-drafter":
        what += " or a GGUF file"
    parser.add_argument("checkpoint", metavar="MODEL", help=what)
    # What `dlm-lsp` has found out about the model's name, which the training program cannot.
    parser.add_argument("--at", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--name", help=argparse.SUPPRESS)
    parser.add_argument("--adapters", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--graphs", type=Path, help=argparse.SUPPRESS)


def _add_drafter_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rank",
        type=_count,
        default=0,
        metavar="N",
        help=f"rank of the LoRA (default: {RANK}, or that of --start-from; 128 for a model that "
        "fills masks)",
    )
    group = parser.add_argument_group("mask adapters, of autoregressive models")
    group.add_argument(
        "--start-from",
        metavar="DIR",
        help="go on from an adapter of the same model, whose draft vocabulary is kept: its folder, "
        f'or "{CURRENT}" for the one that the engine uses now',
    )
    group.add_argument(
        "--markov-rank",
        type=_from_zero,
        metavar="N",
        help=f"rank of the bias by the token before, 0 for none (default: {MARKOV_RANK}, or that of"
        " --start-from)",
    )
    group.add_argument(
        "--draft-vocabulary",
        type=_count,
        metavar="N",
        help=f"tokens that may be drafted, the most frequent ones (default: {DRAFT_VOCABULARY})",
    )
    group.add_argument(
        "--middles",
        type=_count,
        metavar="N",
        help=f"middles that the model writes to be trained on (default: {MIDDLES})",
    )
    group.add_argument(
        "--middle-tokens",
        type=_count,
        metavar="N",
        help=f"most tokens of each (default: {MIDDLE_TOKENS})",
    )
    group.add_argument(
        "--measure-minutes",
        type=_minutes,
        metavar="M",
        help="time between two measurements through the engine; 0 for none "
        f"(default: {MEASURE_MINUTES:.0f})",
    )


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def _from_zero(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must be 0 or more")
    return value


def _minutes(text: str) -> float:
    value = float(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError("must be 0 or more")
    return value


def _positive(text: str) -> float:
    value = float(text)
    if value <= 0:
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError("must be from 0 to 1")
    return value
