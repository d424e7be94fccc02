"""ONNX Runtime's sessions, with the options that a step under a keystroke wants."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime

from engine.errors import CheckpointError, MemoryExhausted

_ERRORS_ONLY = 3  # of ONNX Runtime's own log
_WIDE_ROWS = 64  # memory is taken anew in less than a hundredth of such a step's time


def open_session(file: Path, threads: int) -> onnxruntime.InferenceSession:
    """A graph, loaded; its weights are laid out for this processor.

    Raises:
        CheckpointError: the file is damaged, or was built for another ONNX Runtime.
        MemoryExhausted: its weights do not fit.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _ERRORS_ONLY
    # Idle threads sleep: the machine's other work, the editor's included, is served meanwhile.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0" if threads > 1 else "1")
    # Work is handed out in small blocks, so that a thread whose core is busy holds up less of it.
    options.add_session_config_entry("session.dynamic_block_base", "4")
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the library has one exception class for each kind of failure
        if is_out_of_memory(error):
            raise MemoryExhausted(
                f"The weights in {file} do not fit into memory.",
                remedy="Use a smaller checkpoint, or close other programs.",
                param="engine.checkpoint",
            ) from None
        raise CheckpointError(
            f"{file} cannot be loaded by ONNX Runtime {onnxruntime.__version__}: {error}.",
            remedy=f"Delete {file.parent}; it is built again.",
            param="engine.checkpoint",
        ) from None


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of ONNX Runtime, which raises one class for everything, or of numpy says so:
    "Failed to allocate memory for requested buffer of size", "bad allocation", "std::bad_alloc"."""
    text = str(error).lower()
    is_said = "failed to allocate" in text or "bad alloc" in text or "bad_alloc" in text
    return isinstance(error, MemoryError) or is_said


class TidySession:
    """A session that gives back, at the end of a wide step, what memory that step took beyond the
    usual: without it the largest step ever computed stays resident. One-row steps find theirs."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self._tidily = onnxruntime.RunOptions()
        self._tidily.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self._was_wide = False

    def run(self, output_names: Sequence[str], input_feed: dict[str, Any], /) -> Sequence[Any]:
        """As `onnxruntime.InferenceSession.run`; "x" has a row for each of the step's."""
        is_wide = len(input_feed["x"]) >= _WIDE_ROWS
        # What a wide step gave out was still in use at its end: the next one gives that back.
        options = self._tidily if is_wide or self._was_wide else None
        self._was_wide = is_wide
        return self._session.run(output_names, input_feed, options)


def program() -> str:
    """What computes, for whoever keeps measurements."""
    return f"onnxruntime {onnxruntime.__version__}"
