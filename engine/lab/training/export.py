"""Writes the finished model: a checkpoint folder in NLD's layout with a model card.

Every figure of the card comes from the run's own files: the manifest, the log and the measured
quality.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.lab.data.corpus import HELD, PACKAGE_BYTES_MAX, TRAIN
from engine.lab.data.languages import shares_of
from engine.lab.data.sampler import HOLES
from engine.lab.evaluation.infill_eval import InfillFigures, figures_table
from engine.lab.tables import to_table
from engine.lab.training.loss.objective import Batch, evaluate
from engine.lab.training.recipe import Recipe
from engine.model.checkpoint import WEIGHTS, Weights, load_network, save_checkpoint
from engine.model.config import read_config
from engine.model.network import Network
from engine.model.safetensors_file import weight_files
from engine.model.tokenizer import Tokenizer
from engine.prompt import FAR_TOKENS_MAX, NEAR_TOKENS_MAX, PREFIX_TOKENS_MAX

_AVERAGED_ROWS = 20
_NAMED = 12  # packages of a licence in the card
_LIMITS = """## What it is not good at

It is a model for trying the project on any laptop, not an assistant. It has seen little text, in
the shares above and with English comments, and writes noise where text is rare there. It finishes
names, calls, signatures and idioms that the surrounding text suggests. It does not reason, does not
know APIs reliably and keeps no plan over several lines: read what it writes before you run it. Its
training middles had at most four lines (six where a block ends), and its contexts were no longer
than stated above. Its completions tend to be too short, with one line where several belong, and it
can repeat fragments of its training files."""

_AS_STORED: dict[Weights, str] = {
    "bf16": "Weights are bf16.",
    "int8": """Matrices are stored as int8 with one scale per output channel (compressed-tensors,
int-quantized), vectors as bf16; they are dequantized when they are read and computed in the
engine's dtype.""",
}


@dataclass(frozen=True, slots=True)
class Stored:
    """Held-out losses of weights that were stored and read back, and the bytes of their files."""

    ar: float
    diffusion: float
    bytes: int


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """What a run did, for config.json and the card.

    Attributes:
        base: a description of the model that the run continued from; None for fresh weights.
        tokens: trained rows, of which `joint_tokens` in stage 2 (noisy rows included).
        ar, diffusion: training losses in nats, averaged over the end of the log; diffusion is None
            before stage 2.
        held_out_ar, held_out_diffusion: the last held-out losses of middles.
        weights: how the weights are stored.
        stored: the losses of each way to store them; None if they were not measured.
    """

    preset: str
    base: str | None
    steps: int
    tokens: int
    joint_tokens: int
    minutes: float
    ar: float
    diffusion: float | None
    held_out_ar: float
    held_out_diffusion: float
    weights: Weights = "bf16"
    stored: Mapping[str, Stored] | None = None


def read_record(folder: Path, preset: str, base: Path | None = None) -> TrainingRecord:
    """Summarizes a run's `log.jsonl`, which must hold training and held-out rows.

    Raises:
        EngineError: `base`, the checkpoint that the run continued from, cannot be read.
    """
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]
    training = [row for row in rows if "ar" in row]
    held_out = [row for row in rows if "held_out_ar" in row][-1]
    last = training[-_AVERAGED_ROWS:]
    diffusion = [row["diffusion"] for row in last if row.get("diffusion") is not None]
    return TrainingRecord(
        preset=preset,
        base=None if base is None else describe(base),
        steps=held_out["step"],
        tokens=held_out["tokens"],
        joint_tokens=held_out["joint_tokens"],
        minutes=round(held_out["seconds"] / 60, 1),
        ar=round(sum(row["ar"] for row in last) / len(last), 3),
        diffusion=round(sum(diffusion) / len(diffusion), 3) if diffusion else None,
        held_out_ar=round(held_out["held_out_ar"], 3),
        held_out_diffusion=round(held_out["held_out_diffusion"], 3),
    )


def describe(checkpoint: Path) -> str:
    """What a checkpoint of ours says about its training; for any other checkpoint, its name.

    Raises:
        EngineError: Its config.json cannot be read.
    """
    read_config(checkpoint)
    stated = json.loads((checkpoint / "config.json").read_text("utf-8")).get("training", {})
    if "tokens" not in stated:
        return checkpoint.resolve().name
    before = f" (from {stated['base']})" if stated.get("base") else ""
    return f"a {stated['preset']} of {stated['tokens'] / 1e6:.1f} M rows{before}"


def export_checkpoint(
    folder: Path,
    network: Network,
    tokenizer: Tokenizer,
    record: TrainingRecord,
    shard_bytes: int | None = None,
) -> None:
    """Writes config, weights and tokenizer into the folder, in shards as `save_checkpoint` does.

    Raises:
        EngineError: The weights hold NaN, which cannot be stored as int8.
    """
    save_checkpoint(
        folder,
        network,
        metadata={"training": asdict(record)},
        shard_bytes=shard_bytes,
        weights=record.weights,
    )
    tokenizer.save(folder)


def measure_storage(network: Network, held_out: Sequence[Batch]) -> dict[str, Stored]:
    """Stores the weights in every way and measures what is read back, on the network's device.

    Raises:
        EngineError: as `export_checkpoint`.
    """
    parameter = next(network.parameters())
    measured: dict[str, Stored] = {}
    for weights in WEIGHTS:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            save_checkpoint(folder, network, weights=weights)
            read = load_network(
                folder, network.config, device=parameter.device, dtype=parameter.dtype
            )
            size = sum(file.stat().st_size for file in weight_files(folder))
        losses = evaluate(read, held_out)
        measured[weights] = Stored(round(losses["ar"], 4), round(losses["diffusion"], 4), size)
    return measured


def write_card(
    folder: Path,
    manifest: dict[str, Any],
    recipe: Recipe,
    record: TrainingRecord,
    figures: Mapping[str, Sequence[InfillFigures]],
) -> None:
    """Writes `README.md`, the model card, and `DATA.md`, all packages by licence.

    Args:
        figures: by language.
    """
    sections = [
        _head(folder, record),
        _data(manifest),
        _training(recipe, record),
        _quality(figures),
        _LIMITS,
    ]
    (folder / "README.md").write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    (folder / "DATA.md").write_text(_packages(manifest) + "\n", encoding="utf-8")


def _head(folder: Path, record: TrainingRecord) -> str:
    config = read_config(folder)
    return f"""# {record.preset}: the bundled model

A small decoder in the layout of Nemotron-Labs-Diffusion that fills holes in source files, most of
them Python, token by token (`ar`) or by block diffusion (`block`), made with
`python -m engine.lab.training --preset {record.preset}`. Apache-2.0, as the project.

{config.parameters() / 1e6:.1f} M parameters: {config.layers} layers, hidden {config.hidden},
{config.heads} query and {config.kv_heads} key heads of {config.head_dim}, SwiGLU
{config.intermediate}, untied head, byte-level BPE vocabulary of {config.vocabulary}, blocks of
{config.block_length}. {_AS_STORED[record.weights]}

Prompt: `<s> [FAR] far suffix [PREFIX] prefix [NEAR] near suffix [MIDDLE]`, then the middle, then
`[EOM]`. Pieces are tokenised one by one. Trained with up to {PREFIX_TOKENS_MAX} tokens of prefix,
{FAR_TOKENS_MAX} of far suffix and {NEAR_TOKENS_MAX} of near suffix; nothing longer."""


def _data(manifest: dict[str, Any]) -> str:
    train, held = _used(manifest, TRAIN), _used(manifest, HELD)
    rows = []
    for licence, group in _by_licence(train).items():
        names = ", ".join(package["name"] for package in group[:_NAMED])
        files = sum(package["files"] for package in group)
        rows.append((licence, len(group), files, f"{_bytes(group) / 1e6:.1f}", names))
    licences = "\n".join(to_table(("licence", "packages", "files", "MB", "the largest"), rows))
    held_names = ", ".join(f"{p['name']} ({p['licence']})" for p in held)
    refused = sum(bool(package["skipped"]) for package in manifest["packages"])
    dropped = ", ".join(f"{reason} {count:,}" for reason, count in manifest["dropped"].items())
    return f"""## Data

Source files of {len(train)} installed packages, {_bytes(train) / 1e6:.1f} MB, only under permissive
licences as the packages' own metadata state them, at most {PACKAGE_BYTES_MAX / 1e6:.1f} MB of a
package in each language. Within a language a package counts with the 0.6th power of its size.
[DATA.md](DATA.md) names all packages.

{_languages(train)}

{licences}

Whole packages held out: {held_names}; {_bytes(held) / 1e6:.1f} MB.
Training files that copy them are dropped. {refused} packages were refused for their licence.
Files left out: {dropped}."""


def _packages(manifest: dict[str, Any]) -> str:
    """All packages by licence, and the refused ones."""
    parts = ["# What the model was trained on", ""]
    for licence, group in _by_licence(_used(manifest, TRAIN)).items():
        parts += [f"## {licence}", "", ", ".join(package["name"] for package in group), ""]
    refused = sorted(p["name"] for p in manifest["packages"] if p["skipped"])
    return "\n".join([*parts, "## Refused for their licence", "", ", ".join(refused) or "none"])


def _by_licence(packages: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Packages by licence, the licence with the most bytes first."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for package in packages:
        groups.setdefault(package["licence"], []).append(package)
    return dict(sorted(groups.items(), key=lambda item: -_bytes(item[1])))


def _languages(packages: Sequence[dict[str, Any]]) -> str:
    sizes: dict[str, int] = {}
    for package in packages:
        for language, size in package["languages"].items():
            sizes[language] = sizes.get(language, 0) + size
    shares = shares_of(list(sizes))
    rows = [
        (language, f"{sizes[language] / 1e6:.2f}", f"{shares[language]:.1%}")
        for language in sorted(sizes, key=lambda name: -shares[name])
    ]
    return "\n".join(to_table(("language", "MB", "share of the examples"), rows))


def _training(recipe: Recipe, record: TrainingRecord) -> str:
    diffusion = "not begun" if record.diffusion is None else f"{record.diffusion:.3f}"
    base = "" if record.base is None else f"Continued from the weights of {record.base}. "
    return f"""## Training

{base}{record.tokens / 1e6:.1f} M rows in {record.steps:,} steps and {record.minutes:.0f} minutes:
stage 1 predicts the next token, stage 2 ({record.joint_tokens / 1e6:.1f} M rows, noisy ones too)
also masked blocks, with weight {recipe.diffusion_weight}, and has more holes in one context.
Muon and AdamW at {recipe.learning_rate}.

| loss, nats per token | AR | diffusion |
|---|---|---|
| training (middles weigh 1, context {HOLES.context_weight}) | {record.ar:.3f} | {diffusion} |
| held-out packages, only middles | {record.held_out_ar:.3f} | {record.held_out_diffusion:.3f} |

Training losses are means over the last {_AVERAGED_ROWS} log rows. The diffusion loss is the
1/p-weighted mean over noise levels; about a third of the blocks are fully masked.
{_storage(record)}""".rstrip()


def _storage(record: TrainingRecord) -> str:
    """What storing the weights costs, if it was measured."""
    if record.stored is None:
        return ""
    rows = "\n".join(
        f"| {weights} | {each.ar:.4f} | {each.diffusion:.4f} | {each.bytes / 1e6:.1f} |"
        for weights, each in record.stored.items()
    )
    return f"""
Held-out losses of weights that were stored and read back, and the size of their files:

| stored as | AR | diffusion | MB |
|---|---|---|---|
{rows}"""


def _quality(figures: Mapping[str, Sequence[InfillFigures]]) -> str:
    tables = "\n\n".join(f"{name}:\n\n{figures_table(each)}" for name, each in figures.items())
    return f"""## Held-out infilling

Greedy decoding by the engine of holes that are spread evenly over the held-out packages, with a
fixed seed, blocks of 32 tokens and confidence threshold 0.9. `exact` counts texts that are equal to
the last character. A whole line starts after its indentation, a line tail after a random word or
sign, mid word inside a word; all three end with the line. Multi line has two to four lines.

{tables}

Made with `python -m engine.lab.evaluation.infill_eval`."""


def _used(manifest: dict[str, Any], split: str) -> list[dict[str, Any]]:
    return [p for p in manifest["packages"] if p["split"] == split and p["files"]]


def _bytes(packages: Sequence[dict[str, Any]]) -> int:
    return sum(package["bytes"] for package in packages)
