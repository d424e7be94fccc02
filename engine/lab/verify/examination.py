"""A whole examination of a checkpoint, section by section.

This module owns the order of the sections, and what is left out because an earlier one failed.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from dataclasses import replace

import torch

from engine.config import EngineSettings
from engine.device import resolve
from engine.errors import EngineError
from engine.lab.verify.contents import (
    examine_adapter,
    examine_config,
    examine_tensors,
    examine_tokenizer,
    size,
)
from engine.lab.verify.infilling_checks import examine_infilling
from engine.lab.verify.loading import Loaded, load
from engine.lab.verify.mode_checks import examine_modes
from engine.lab.verify.network_checks import examine_network
from engine.lab.verify.report import Section, failed, passed, skipped
from engine.lab.verify.texts import PROBES

HOLES_MAX = len(PROBES)


def examine(settings: EngineSettings, holes_max: int = HOLES_MAX) -> Iterator[Section]:
    """The sections, as they are finished; the last one is memory.

    Args:
        holes_max: the most built-in holes to fill; 0 leaves infilling out.

    Raises:
        ConfigError: The requested device or torch is not available.
    """
    settings = resolve(replace(settings, backend="torch"))  # whose network can be examined
    torch.set_num_threads(settings.threads or 1)
    folder = settings.checkpoint_path()
    section, config = examine_config(folder)
    yield section
    if config is None:
        yield _left_out("config.json is wrong")
        return
    tensors, adapter = examine_tensors(folder, config), examine_adapter(folder, config)
    section, tokenizer = examine_tokenizer(folder, config)
    yield from (tensors, adapter, section)
    wrong = [each.title for each in (tensors, adapter, section) if not each.is_ok]
    if wrong or tokenizer is None:
        yield _left_out(f"{' and '.join(wrong)}: see above")
        return
    section, loaded = load(settings, config, tokenizer)
    yield section
    if loaded is None:
        yield _left_out("the weights could not be loaded")
        return
    for title, part in (
        ("network", lambda: examine_network(loaded)),
        ("infilling", lambda: examine_infilling(loaded, holes_max)),
        ("modes", lambda: examine_modes(loaded)),
    ):
        try:
            yield part()
        except EngineError as error:
            yield Section(title, (failed(title, error),))
    yield _memory(loaded)


def _left_out(why: str) -> Section:
    parts = ("network", "infilling", "modes")
    return Section("computing", tuple(skipped(part, why) for part in parts))


def _memory(loaded: Loaded) -> Section:
    config = loaded.config
    per_token = 2 * config.layers * config.kv_heads * config.head_dim * loaded.dtype.itemsize
    checks = [
        passed("K/V cache", f"{size(per_token)} a token", bytes_per_token=per_token),
        passed("most at once", f"{size(_peak())} of memory, this examination's", bytes=_peak()),
    ]
    if loaded.device.type == "cuda":
        used = torch.cuda.max_memory_allocated(loaded.device)
        checks.append(passed("most at once on the GPU", size(used), gpu_bytes=used))
    return Section("memory", tuple(checks))


def _peak() -> int:
    """The peak memory of this process in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
