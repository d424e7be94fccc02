"""The errors that the engine raises, each with what is wrong and the remedy.

Whatever a user, a file or a client can cause is one of these; programming errors are assertions.
"""

from __future__ import annotations


class EngineError(Exception):
    """The root of the engine's errors.

    Attributes:
        message: what is wrong, with the name of the field or file.
        remedy: what the user can do about it; may be empty.
        param: the name of the field, tensor or file at fault, for programs; may be None.
    """

    code = "engine_error"

    def __init__(self, message: str, *, remedy: str = "", param: str | None = None) -> None:
        super().__init__(f"{message} {remedy}".strip())
        self.message = message
        self.remedy = remedy
        self.param = param


class ConfigError(EngineError):
    """A setting has a wrong type or value, or does not fit another setting."""

    code = "config_error"


class CheckpointError(EngineError):
    """A checkpoint is missing, malformed, truncated or of an unknown kind."""

    code = "checkpoint_error"


class RequestError(EngineError):
    """A request is malformed or does not fit the loaded model."""

    code = "request_error"


class MemoryExhausted(EngineError):
    """The model, the cache or a step does not fit into memory."""

    code = "out_of_memory"


class ModelTooLarge(MemoryExhausted):
    """The model does not fit into the free memory; nothing of it was loaded.

    Attributes:
        needed_bytes: an estimate of the memory that the model needs.
        free_bytes: the memory that is free according to the system.
    """

    def __init__(self, name: str, needed_bytes: int, free_bytes: int) -> None:
        super().__init__(
            f"{name} needs about {needed_bytes / 1e9:.1f} GB of memory, and "
            f"{free_bytes / 1e9:.1f} GB are free.",
            remedy="Use a smaller checkpoint, or close other programs.",
            param="engine.checkpoint",
        )
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes


class EngineFailure(EngineError):
    """The engine itself failed while decoding. The request is lost, but the engine goes on."""

    code = "engine_failure"
