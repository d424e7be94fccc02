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
    "train-drafter": "train the adapter that drafts for linear_spec",
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
  dlm-lsp train-drafter nld-8b --data ~/src/app --out drafter
  dlm-lsp complete --mode linear_spec --checkpoint drafter/checkpoint app.py:12:5

The drafter changes only the number of forwards, never the emitted text. Ctrl-C saves what was
learnt; the same command goes on. Nothing leaves the machine.
""",
}


# Options that have to be repeated to resume a run; PLANNED_OF has those of one command.
PLANNED = ("command", "checkpoint", "data", "learning_rate", "batch_tokens", "dtype")
PLANNED_OF = {
    "adapt": ("rank",),
    "convert": ("infilling", "late"),
    "train-drafter": ("rank",),
}


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """The options of one command, as `add_options` declares them.

    Attributes:
        rank: the rank of the LoRA; `convert` has none.
        infilling, late: only `convert` has them.
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
    rank: int = 1
    infilling: float = 0.0
    late: float = 0.0

    @classmethod
    def of(cls, given: argparse.Namespace) -> TrainingOptions:
        """The options that a parser with `add_options` has read, `command` among them."""
        known = {each.name for each in fields(cls)}
        values = {name: value for name, value in vars(given).items() if name in known}
        return cls(**{**values, "data": tuple(given.data)})

    def plan(self) -> dict[str, object]:
        """The options that have to be the same when a run resumes."""
        names = (*PLANNED, *PLANNED_OF[self.command])
        return {name: getattr(self, name) for name in names}


def add_options(parser: argparse.ArgumentParser, command: str) -> None:
    """Declares one command's options."""
    parser.add_argument("checkpoint", type=Path, help="folder of the checkpoint to start from")
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
    budget.add_argument("--tokens", type=int, help="rows to train on, instead of a time")
    if command == "adapt":
        parser.add_argument(
            "--rank",
            type=int,
            default=16,
            help="rank of the LoRA; alpha is twice the rank (default: 16)",
        )
    if command == "train-drafter":
        parser.add_argument("--rank", type=int, default=128, help="rank of the LoRA (default: 128)")
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
        type=int,
        default=4096,
        metavar="N",
        help="tokens per forward (default: 4096)",
    )
    parser.add_argument(
        "--holes",
        type=int,
        default=50,
        metavar="N",
        help="holes of each kind to measure on (default: 50)",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--dtype", choices=("bfloat16", "float32"), help="default: bfloat16 if native"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads")


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
