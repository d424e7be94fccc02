"""ONNX Runtime's sessions, with the options that a step under a keystroke wants."""

from __future__ import annotations

from pathlib import Path

import onnxruntime

from engine.errors import CheckpointError, MemoryExhausted

_ERRORS_ONLY = 3  # of ONNX Runtime's own log


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


def program() -> str:
    """What computes, for whoever keeps measurements."""
    return f"onnxruntime {onnxruntime.__version__}"
