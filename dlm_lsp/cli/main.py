"""The command line of `dlm-lsp`: its options, their help and the exit codes.

The exit code is 0 for success, 1 if the engine or the server failed, 2 if the command line or an
input is wrong. The module named after a command does the command's work.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from dlm_lsp.cli.model_options import EXAMPLES as MODEL_EXAMPLES
from dlm_lsp.cli.model_options import add_options as add_model_options
from dlm_lsp.client.options import TOKEN_VARIABLE
from dlm_lsp.evaluation.options import add_eval_options, to_eval_options
from dlm_lsp.store.errors import StoreError
from dlm_lsp.version import VERSION
from engine.api import ASKED_MODES, Sampling
from engine.config import BACKENDS, DEVICES, DTYPES, STEPS, EngineSettings
from engine.errors import ConfigError, RequestError
from engine.lab.training.options import COMMANDS, EXAMPLES, SUMMARIES, add_options

# The commands' modules are imported late, so that a command waits only for the imports that it
# uses (pygls 0.25 s, aiohttp 0.15 s).

STOP_TEXTS_MAX, STOP_CHARS_MAX = 16, 200  # As in `messages.GenerateBody`.

_TOP_EXAMPLES = """\
examples:
  dlm-lsp --stdio                       the language server, as editors start it
  dlm-lsp demo                          watch holes in a real file being filled
  dlm-lsp complete app.py:12:5          fill a hole in a file of yours
  dlm-lsp model pull                    a real model, the best that this machine runs well
  dlm-lsp doctor                        what is installed, and why there is no suggestion
  dlm-lsp verify /models/my-checkpoint  is a checkpoint whole, and does it compute what it should
  dlm-lsp serve --host 0.0.0.0 --port 8123 --token-file secret
                                        an engine for other machines
"""
_COMPLETE_EXAMPLES = """\
examples:
  dlm-lsp complete app.py:12:5                      line 12, before its 5th character
  dlm-lsp complete --mode ar --max-tokens 32 app.py:12:5
  dlm-lsp complete --json app.py:12:5 lib.py:40:1   one JSON object per line
  dlm-lsp complete app.py:12:5 > filled.txt         only the text, if the output is no terminal

Lines and columns count from 1, columns in characters. The file is read, never written.
"""
_DOCTOR_EXAMPLES = """\
examples:
  dlm-lsp doctor                  is everything as it should be?
  dlm-lsp doctor app.py:12:5      why is there no suggestion at this place?
  dlm-lsp doctor --json           the same for programs
"""
_STATS_EXAMPLES = """\
examples:
  dlm-lsp stats --days 7          what became of the suggestions of a week
  dlm-lsp stats --delete          forget all of it

The language server records figures alone, on this machine (statistics.enabled, statistics.tune).
"""
_VERIFY_EXAMPLES = """\
examples:
  dlm-lsp verify                          the configured checkpoint, or the bundled one
  dlm-lsp verify /models/my-checkpoint    is it whole, and does it compute what it should?
  dlm-lsp verify --holes 0 --dtype float32 /models/my-checkpoint
  dlm-lsp verify --json                   the same for programs

Ends with 0 if all that ran passed, with 1 if not. The checkpoint is read, never written.
"""
_EVAL_EXAMPLES = """\
examples:
  dlm-lsp eval                                      held-out holes, ar beside block
  dlm-lsp eval --limit 10 --suite holes --suite replay
  dlm-lsp eval --modes ar block --thresholds 0.5 0.7 0.9 --out results
                                                    goes on where it ended, and draws a plot
  dlm-lsp eval --language python --modes ar block:16 quadratic_spec:4
  dlm-lsp eval --suite HumanEval.jsonl.gz:60 --infilling single-line multi-line --json

Files are HumanEval's own or in the formats of HumanEval-Infilling or SantaCoder-FIM. Nothing is
downloaded. Settings files are not read. Completions with tests are run, isolated from this machine.
"""
_SERVE_EXAMPLES = f"""\
examples:
  dlm-lsp serve                                     for this user, on a private unix socket
  dlm-lsp serve --port 8123                         for programs on this machine
  {TOKEN_VARIABLE}=... dlm-lsp serve --host 0.0.0.0 --port 8123
                                                    for other machines, with a token

Editors start a host when none runs; `serve` is for a separate machine.
"""
_DEMO_EXAMPLES = """\
examples:
  dlm-lsp demo
  dlm-lsp demo --mode ar          one token after another, for comparison
"""


class _Help(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of examples and leaves more room for options."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit code."""
    parser = build_parser()
    options = parser.parse_args(argv)
    options.arguments = sys.argv[1:] if argv is None else list(argv)
    if options.run is None:
        parser.error("say what to do: --stdio, --tcp HOST:PORT or a command; see --help")
    try:
        return options.run(options)
    except (ConfigError, RequestError, StoreError) as error:
        print(f"dlm-lsp: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of the output has gone; without this Python reports that again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="dlm-lsp",
        description="Code completion by a diffusion language model, for any editor that speaks "
        "LSP. Without a command: the language server.",
        epilog=_TOP_EXAMPLES,
        formatter_class=_Help,
        allow_abbrev=False,
    )
    parser.set_defaults(run=None)
    parser.add_argument("--version", action="version", version=f"dlm-lsp {VERSION}")
    _add_server_options(parser)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_complete(commands)
    _add_model(commands)
    _add_doctor(commands)
    _add_stats(commands)
    _add_verify(commands)
    _add_eval(commands)
    _add_serve(commands)
    _add_demo(commands)
    for name in COMMANDS:
        _add_training(commands, name)
    return parser


def _add_server_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("language server")
    channel = group.add_mutually_exclusive_group()
    channel.add_argument("--stdio", action=_Serve, nargs=0, help="speak LSP on stdin and stdout")
    channel.add_argument(
        "--tcp", action=_Serve, metavar="HOST:PORT", help="speak LSP to the first client"
    )
    group.add_argument("--log-file", type=Path, metavar="FILE", help="log file (stderr)")
    group.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="warning",
        help="lowest level to log (warning); info logs requests, debug source text",
    )
    group.add_argument(
        "--clientProcessId",
        type=int,
        dest="client_process_id",
        metavar="PID",
        help="the editor's process: the server ends with it",
    )


class _Serve(argparse.Action):
    """The action of --stdio and --tcp, which select the language server."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, values or True)
        namespace.run = _run_server


def _add_complete(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _command(commands, "complete", "fill a hole in a file", _COMPLETE_EXAMPLES)
    parser.add_argument("places", nargs="+", metavar="FILE:LINE:COL", help="where to fill in")
    _add_mode(parser)
    parser.add_argument("--max-tokens", type=int, metavar="N", help="most tokens to generate")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 (greedy) to 2")
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P", help="above 0, up to 1")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="for temperature > 0")
    parser.add_argument(
        "--threshold", type=float, metavar="P", help="block: confidence that decides a token"
    )
    parser.add_argument(
        "--revisions", type=int, metavar="N", help="block: decided tokens that may be decided anew"
    )
    parser.add_argument("--block-length", type=int, metavar="N", help="block: tokens per block")
    parser.add_argument(
        "--stop",
        action="append",
        type=_stop_text,
        default=[],
        metavar="TEXT",
        help="end before this text; up to 16 times",
    )
    parser.add_argument(
        "--exact", action="store_true", help="the same tokens as --mode ar, at lower speed"
    )
    parser.add_argument(
        "--related",
        action="append",
        default=[],
        metavar="FILE",
        help="show the model what may help of this file, too; may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per place")
    _add_engine_options(parser)
    parser.set_defaults(run=_run_complete)


def _add_model(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _command(commands, "model", "list, pull and remove real models", MODEL_EXAMPLES)
    add_model_options(parser)
    parser.set_defaults(run=_run_model)


def _add_doctor(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _command(
        commands, "doctor", "what is installed, and why is there no suggestion", _DOCTOR_EXAMPLES
    )
    parser.add_argument("place", nargs="?", metavar="FILE:LINE:COL", help="a place to explain")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    _add_engine_options(parser)
    parser.set_defaults(run=_run_doctor)


def _add_stats(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _command(commands, "stats", "what became of the suggestions here", _STATS_EXAMPLES)
    parser.add_argument("--days", type=_count, metavar="N", help="of the last N days (all)")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--delete", action="store_true", help="remove the file instead")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.set_defaults(run=_run_stats)


def _add_verify(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _command(
        commands, "verify", "examine a checkpoint, from its files to its fillings", _VERIFY_EXAMPLES
    )
    parser.add_argument(
        "checkpoint",
        nargs="?",
        metavar="MODEL",
        help="a pulled model's name, a folder or GGUF file",
    )
    parser.add_argument(
        "--holes", type=_count, metavar="N", help="most built-in holes to fill (all)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    _add_computing_options(parser.add_argument_group("engine"))
    parser.set_defaults(run=_run_verify)


def _add_eval(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _command(
        commands, "eval", "how good completions are, modes side by side", _EVAL_EXAMPLES
    )
    add_eval_options(parser)
    _add_engine_options(parser)
    parser.set_defaults(run=_run_eval)


def _add_serve(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _command(commands, "serve", "run an engine host by hand", _SERVE_EXAMPLES)
    parser.add_argument("--port", type=int, help="TCP port instead of a unix socket; 0: a free one")
    parser.add_argument("--host", help="address to listen on (127.0.0.1)")
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="file with the bearer token"
    )
    parser.add_argument(
        "--idle-seconds",
        type=float,
        default=0.0,
        metavar="S",
        help="end after this time without a request; 0 (the default): never",
    )
    parser.add_argument("--log-file", type=Path, metavar="FILE", help="log file (stderr)")
    group = _add_model_options(parser)
    group.add_argument(
        "--cache-tokens",
        type=int,
        default=EngineSettings().cache_tokens,
        metavar="N",
        help="tokens that the K/V cache holds (%(default)s)",
    )
    parser.set_defaults(run=_run_serve)


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _command(commands, "demo", "watch holes in a real file being filled", _DEMO_EXAMPLES)
    _add_mode(parser)
    _add_engine_options(parser)
    parser.add_argument(
        "--pull", action="store_true", help="download a real model first if there is none"
    )
    parser.set_defaults(run=_run_demo)


def _add_training(commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str) -> None:
    parser = _command(commands, name, SUMMARIES[name], EXAMPLES[name])
    add_options(parser, name)
    parser.set_defaults(run=_run_training)


def _stop_text(text: str) -> str:
    if not 1 <= len(text) <= STOP_CHARS_MAX:
        raise argparse.ArgumentTypeError(f"has {len(text)} characters; use 1 to {STOP_CHARS_MAX}")
    return text


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"is {text!r}; use 0 or a larger number")
    return int(text)


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    summary: str,
    examples: str,
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=examples,
        formatter_class=_Help,
        allow_abbrev=False,
    )


def _add_mode(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--mode",
        choices=ASKED_MODES,
        help="how to decode: one token at a time, in refined blocks, by drafting and verifying, "
        "or what suits this machine",
    )


def _add_model_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    group = parser.add_argument_group("engine")
    group.add_argument(
        "--checkpoint",
        metavar="MODEL",
        help="a pulled model's name, a checkpoint folder or a GGUF file (the best pulled model)",
    )
    _add_computing_options(group)
    group.add_argument("--backend", choices=BACKENDS, help="what computes (auto)")
    group.add_argument("--steps", choices=STEPS, help="how torch computes a step (auto)")
    return group


def _add_computing_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--device", choices=DEVICES, help="where to compute (auto)")
    group.add_argument("--dtype", choices=DTYPES, help="number format (auto)")
    group.add_argument("--threads", type=int, metavar="N", help="CPU threads")


def _add_engine_options(parser: argparse.ArgumentParser) -> None:
    group = _add_model_options(parser)
    group.add_argument("--url", help="engine host started by hand, such as http://gpu-box:8123")
    group.add_argument("--token", help=f"the host's bearer token ({TOKEN_VARIABLE} is safer)")


def _run_serve(options: argparse.Namespace) -> int:
    from dlm_lsp.cli.serve import run

    return run(options)


def _run_model(options: argparse.Namespace) -> int:
    from dlm_lsp.cli.model import run

    return run(options)


def _run_server(options: argparse.Namespace) -> int:
    from dlm_lsp.lsp.transport import run

    return run(options)


def _run_complete(options: argparse.Namespace) -> int:
    from dlm_lsp.cli.complete import run

    if len(options.stop) > STOP_TEXTS_MAX:
        raise ConfigError(f"--stop is given {len(options.stop)} times; {STOP_TEXTS_MAX} are read.")
    sampling = Sampling(options.temperature, options.top_p, options.seed)
    return run(
        options.places,
        _client_settings(options),
        sampling,
        tuple(options.stop),
        options.json,
        options.exact,
        options.related,
    )


def _run_doctor(options: argparse.Namespace) -> int:
    from dlm_lsp.cli.doctor import run

    return run(options.place, _client_settings(options), options.json)


def _run_stats(options: argparse.Namespace) -> int:
    try:
        from dlm_lsp.cli.stats import run
    except ImportError as error:  # Some builds of Python have no sqlite3.
        raise ConfigError(f"There are no statistics: {error}.", param="python") from None

    return run(options.days, options.json, options.delete, options.yes)


def _run_verify(options: argparse.Namespace) -> int:
    from dlm_lsp.cli.verify import run

    return run(_client_settings(options), options.holes, options.json)


def _run_eval(options: argparse.Namespace) -> int:
    from dlm_lsp.cli.eval import run

    return run(to_eval_options(options), _client_settings(options), options.json)


def _run_demo(options: argparse.Namespace) -> int:
    from dlm_lsp.cli.demo import run

    return run(_client_settings(options), pulls=options.pull)


def _run_training(options: argparse.Namespace) -> int:
    from dlm_lsp.cli.train import run

    return run(options.arguments, options.checkpoint)


def _client_settings(options: argparse.Namespace) -> dict[str, object]:
    """Returns the given options in the shape of an editor's settings."""
    from dlm_lsp.store.choice import as_given

    given = vars(options)
    checkpoint = given.get("checkpoint")
    token = given.get("token") or os.environ.get(TOKEN_VARIABLE)
    tokens = given.get("max_tokens")
    settings: dict[str, object] = {
        "mode": given.get("mode"),
        "engine": _present(
            checkpoint=checkpoint and as_given(checkpoint),
            device=given.get("device"),
            dtype=given.get("dtype"),
            backend=given.get("backend"),
            steps=given.get("steps"),
            threads=given.get("threads"),
            url=given.get("url"),
            token=token if given.get("url") else None,
        ),
        "limits": _present(tokensMax=tokens, tokensMaxInvoked=tokens),
        "block": _present(
            length=given.get("block_length"),
            threshold=given.get("threshold"),
            revisions=given.get("revisions"),
        ),
    }
    return _present(**settings)


def _present(**values: object) -> dict[str, object]:
    return {name: value for name, value in values.items() if value not in (None, {})}
