"""The options of `adapt`, `convert` and `train-drafter`: what may be said, and its help.

Torch-free, so that the command line can show and check them at once. Knows nothing of how the
commands are carried out.
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

Learns on the files that git would not ignore, leaves out those that look like secrets, and holds
one file in ten back to measure on. Ctrl-C keeps what was learnt; the same command goes on.
Nothing leaves the machine.
""",
    "convert": """\
examples:
  dlm-lsp convert qwen3-0.6b --data ~/src/app --out diffusion --minutes 600
  dlm-lsp convert qwen3-0.6b --data corpus --out diffusion --late 0.1 --infilling 0

Trains all weights: some ten billion tokens make a good diffusion model, a repository makes a start.
Ctrl-C keeps what was learnt; the same command goes on. Nothing leaves the machine.
""",
    "train-drafter": """\
examples:
  dlm-lsp train-drafter nld-8b --data ~/src/app --out drafter
  dlm-lsp complete --mode linear_spec --checkpoint drafter/checkpoint app.py:12:5

What is emitted stays what ar emits; only the number of forwards falls. Ctrl-C keeps what was
learnt; the same command goes on. Nothing leaves the machine.
""",
}


# Options that a run must repeat to go on; the last ones belong to one command each.
PLANNED = ("command", "checkpoint", "data", "learning_rate", "batch_tokens", "dtype")
PLANNED_OF = {
    "adapt": ("rank",),
    "convert": ("infilling", "late"),
    "train-drafter": ("rank",),
}


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """What one command was asked for; the fields are the options of `add_options`.

    Attributes:
        rank: of the LoRA; convert has none.
        infilling, late: of convert alone.
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
        """What a parser with `add_options` has read; its `command` names the command."""
        known = {each.name for each in fields(cls)}
        values = {name: value for name, value in vars(given).items() if name in known}
        return cls(**{**values, "data": tuple(given.data)})

    def plan(self) -> dict[str, object]:
        """What a run that goes on has to have in common with its beginning."""
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
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for all results")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--minutes", type=_positive, help="training time (60)")
    budget.add_argument("--tokens", type=int, help="rows to train on, instead of a time")
    if command == "adapt":
        parser.add_argument("--rank", type=int, default=16, help="of the LoRA (16); alpha is twice")
    if command == "train-drafter":
        parser.add_argument("--rank", type=int, default=128, help="of the LoRA (128)")
    if command == "convert":
        parser.add_argument(
            "--infilling",
            type=_share,
            default=0.5,
            metavar="SHARE",
            help="of the rows: holes in our layout; 0 makes a model of plain text (0.5)",
        )
        parser.add_argument(
            "--late",
            type=float,
            default=0.0,
            metavar="BETA",
            help="mask later tokens of a block more often, such as 0.1 (0: all alike)",
        )
    parser.add_argument("--learning-rate", type=_positive, metavar="X", help="peak (by size)")
    parser.add_argument(
        "--batch-tokens", type=int, default=4096, metavar="N", help="per forward (4096)"
    )
    parser.add_argument(
        "--holes", type=int, default=50, metavar="N", help="of each kind, to measure on (50)"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), help="(bfloat16 where native)")
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
