"""ONNX Runtime's sessions, with options for short steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime

from engine.errors import CheckpointError, MemoryExhausted

_ERRORS_ONLY = 3  # a level of ONNX Runtime's own log
_WIDE_ROWS = 64  # allocating its memory takes less than a hundredth of such a step's time


def open_session(file: Path, threads: int) -> onnxruntime.InferenceSession:
    """Loads a graph and lays out its weights for this processor.

    Raises:
        CheckpointError: the file is damaged or was built for another ONNX Runtime.
        MemoryExhausted: the weights do not fit into memory.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _ERRORS_ONLY
    # Idle threads sleep, which leaves the CPU to other work such as the editor's.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0" if threads > 1 else "1")
    # Work is distributed in small blocks, so that a thread on a busy core delays less of it.
    options.add_session_config_entry("session.dynamic_block_base", "4")
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the library's exceptions have no useful common class
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
    """Whether an error of ONNX Runtime or numpy means that memory is exhausted. ONNX Runtime only
    says so in the message: "Failed to allocate memory", "bad allocation" or "std::bad_alloc"."""
    text = str(error).lower()
    is_said = "failed to allocate" in text or "bad alloc" in text or "bad_alloc" in text
    return isinstance(error, MemoryError) or is_said


class TidySession:
    """A session that frees the additional memory of a wide step at its end. Otherwise the memory of
    the largest step would stay allocated. The memory of narrow steps is kept."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self._tidily = onnxruntime.RunOptions()
        self._tidily.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self._was_wide = False

    def run(self, output_names: Sequence[str], input_feed: dict[str, Any], /) -> Sequence[Any]:
        """As `onnxruntime.InferenceSession.run`; "x" has one row for each row of the step."""
        is_wide = len(input_feed["x"]) >= _WIDE_ROWS
        # The outputs of a wide step were still in use at its end; the next step frees their memory.
        options = self._tidily if is_wide or self._was_wide else None
        self._was_wide = is_wide
        return self._session.run(output_names, input_feed, options)


def program() -> str:
    """The library and its version, which identify measurements."""
    return f"onnxruntime {onnxruntime.__version__}"
