"""Whether the network computes what transformers computes, at every depth and through the cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from engine.errors import EngineFailure
from engine.lab.verify.activations import Error, Trace, compare, same_top, trace
from engine.lab.verify.contents import size
from engine.lab.verify.loading import Loaded
from engine.lab.verify.modes import Runner
from engine.lab.verify.peer import TransformersPeer, find_class
from engine.lab.verify.report import OUR_FAULT, Check, Figure, Section, skipped
from engine.lab.verify.texts import PLAIN
from engine.model.checkpoint import free_memory_bytes

_PLAIN_TOKENS_MAX = 512
_LOGITS = "logits"
_STEP_ERROR_FACTOR = 100.0  # times the floor, without a wider reference


def examine_network(loaded: Loaded) -> Section:
    """Compares activations at every depth and the logits of cached steps with transformers."""
    encoded = loaded.tokenizer.encode(PLAIN)
    begin = loaded.config.begin_id
    tokens = (*(() if begin is None else (begin,)), *encoded)[:_PLAIN_TOKENS_MAX]
    ours = trace(loaded.network, tokens)
    stepped = {_LOGITS: Runner(loaded.model).cached_logits(tokens)}
    try:
        names, peer = _peer(loaded)
    except EngineFailure as error:
        # The reference is then our own single pass, which sums in another order.
        wanted = {_LOGITS: ours[_LOGITS]}
        floor = compare(stepped, wanted, wanted, loaded.dtype)[0]
        error_of_steps = replace(floor, limit=_STEP_ERROR_FACTOR * floor.limit)
        missing = skipped("transformers", error.message, error.remedy)
        return Section("network", (missing, _steps(error_of_steps)))
    reference = peer.trace(tokens)
    peer.round_to(loaded.dtype)
    theirs = peer.trace(tokens)
    errors = compare(ours, theirs, reference, loaded.dtype)
    (of_steps,) = compare(stepped, theirs, {_LOGITS: reference[_LOGITS]}, loaded.dtype)
    shown = f"{names[1]}, {len(tokens)} tokens"
    return Section(
        "network",
        (_depth(shown, errors[:-1]), _logits(errors[-1], ours, theirs), _steps(of_steps)),
    )


def _peer(loaded: Loaded) -> tuple[tuple[str, str], TransformersPeer]:
    """The checkpoint in transformers and the names of its classes. Raises EngineFailure."""
    names = find_class(loaded.config.family.model_type)
    needed = loaded.config.parameters() * 4
    free = free_memory_bytes(loaded.device)
    if needed > free:
        raise EngineFailure(
            f"A second copy of the weights, in float32, needs {size(needed)}; {size(free)} are "
            f"free on {loaded.device}.",
            remedy=f"Free {size(needed - free)}, or verify on a larger machine.",
        )
    return names, TransformersPeer.read(loaded.folder, loaded.device, names)


def _depth(shown: str, errors: Sequence[Error]) -> Check:
    """All activations below the logits; names the first one that is wrong."""
    name = "activations"
    wrong = next((error for error in errors if not error.is_ok), None)
    worst = wrong or max(errors, key=lambda error: error.ours / error.limit)
    figures = {"error": worst.ours, "theirs": worst.theirs, "limit": worst.limit, "at": worst.name}
    told = _told(worst)
    if wrong is None:
        found = f"{len(errors)} equal to {shown}; nearest to its limit is {worst.name}: {told}"
        return Check(name, "ok", found, figures=figures)
    return Check(
        name,
        "failed",
        f"{worst.name} is the first to differ from {shown}: {told}.",
        "This checkpoint computes something that this engine does not know; see its config.json.",
        figures,
    )


def _logits(error: Error, ours: Trace, theirs: Trace) -> Check:
    top = same_top(ours[_LOGITS], theirs[_LOGITS])
    found = (
        f"largest difference {error.largest:.2g}, mean {error.mean:.2g}; {_told(error)}; "
        f"same top token {top:.1%}"
    )
    figures: dict[str, Figure] = {
        "difference_max": error.largest,
        "difference_mean": error.mean,
        "error": error.ours,
        "theirs": error.theirs,
        "limit": error.limit,
        "same_top": top,
    }
    state = "ok" if error.is_ok else "failed"
    remedy = "" if error.is_ok else "See the activations above."
    return Check("logits", state, found, remedy, figures)


def _told(error: Error) -> str:
    own = f"transformers' own {error.theirs:.1e}, " if error.theirs else ""
    return f"error {error.ours:.1e}, {own}limit {error.limit:.1e}"


def _steps(error: Error) -> Check:
    """Steps over the paged cache, as in serving."""
    figures = {"difference_max": error.largest, "error": error.ours, "limit": error.limit}
    found = f"logits' largest difference {error.largest:.2g}; {_told(error)}"
    if error.is_ok:
        return Check("cached steps", "ok", found, figures=figures)
    return Check("cached steps", "failed", found, OUR_FAULT, figures)
