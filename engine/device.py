"""Finds out what this machine can compute with, and resolves "auto" in the engine's settings.

`doctor` and the host must not wait a second for an import. Torch is therefore imported only if both
torch and an NVIDIA driver are installed, to find out whether they work together.
"""

from __future__ import annotations

import importlib.util
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from engine.config import EngineSettings
from engine.errors import ConfigError

_INTEGER_FLAGS = ("avx2", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # x86: AVX-512 or AMX; Arm: bf16
# Signs of an NVIDIA driver: the first card, the control device (in a container that has another
# card than the first), the driver's files, and the device of the Windows Subsystem for Linux.
_DRIVER_SIGNS = ("/dev/nvidia0", "/dev/nvidiactl", "/proc/driver/nvidia", "/dev/dxg")
_KERNELS_MIN = (8, 0)  # the compute capability that the kernels are compiled for
_INSTALL_TORCH = "pip install 'dlm-lsp[gpu]'"


@dataclass(frozen=True, slots=True)
class Decision:
    """The resolved settings and the reasons for them.

    Attributes:
        why: reasons for people, by field ("device", "backend", "dtype", "steps"), for fields that
            were left open. On "onnx" the dtype has none, since it depends on the checkpoint's size,
            nor have the steps, which are the graph's.
    """

    settings: EngineSettings
    why: Mapping[str, str]


def resolve(settings: EngineSettings) -> EngineSettings:
    """A copy without "auto", except for the dtype on "onnx": the checkpoint's size decides that.

    Raises:
        ConfigError: the requested device or backend is missing, or they do not fit together.
    """
    return decide(settings).settings


def decide(settings: EngineSettings) -> Decision:
    """As `resolve`, with the reasons."""
    why: dict[str, str] = {}
    device, backend = settings.device, settings.backend
    if backend == "onnx" and device == "auto":  # this backend computes on the CPU only
        device, why["device"] = "cpu", "ONNX Runtime computes on the CPU here"
    else:
        device, why["device"] = _device(device)
    if backend == "auto":
        if device == "cuda":
            backend, why["backend"] = "torch", "a card computes with torch"
        elif settings.dtype == "bfloat16":
            backend, why["backend"] = "torch", "only torch computes in bfloat16"
        else:
            backend, why["backend"] = "onnx", f"the CPU computes with ONNX Runtime {_onnxruntime()}"
    threads = settings.threads or default_threads()
    if backend == "onnx":
        dtype = _onnx_dtype(settings, device)
    else:
        dtype = _torch_dtype(settings, device)
        has = device == "cuda" or cpu_has_bfloat16()
        why["dtype"] = f"the device has {'' if has else 'no '}bf16 arithmetic"
    steps, reason = _steps(settings.steps, backend, device)
    if reason:
        why["steps"] = reason
    resolved = replace(
        settings, backend=backend, device=device, dtype=dtype, threads=threads, steps=steps
    )
    return Decision(resolved, why)


def _onnx_dtype(settings: EngineSettings, device: str) -> str:
    if device != "cpu":
        raise ConfigError(
            f'engine.backend is "onnx", which computes on the CPU, and engine.device "{device}".',
            remedy='Set engine.device = "cpu", or engine.backend = "auto".',
            param="engine.backend",
        )
    if settings.dtype == "bfloat16":
        raise ConfigError(
            'engine.dtype is "bfloat16", which the backend "onnx" does not compute with.',
            remedy='Set engine.dtype = "auto", or engine.backend = "torch".',
            param="engine.dtype",
        )
    return settings.dtype


def _torch_dtype(settings: EngineSettings, device: str) -> str:
    if settings.dtype == "int8":
        raise ConfigError(
            'engine.dtype is "int8", which the backend "torch" does not compute with.',
            remedy='Set engine.dtype = "auto"; int8 checkpoints can still be read.',
            param="engine.dtype",
        )
    if not _has_torch():
        cause = "engine.dtype" if settings.backend == "auto" else "engine.backend"
        raise ConfigError(
            f"torch, which {cause} asks for, is not installed.",
            remedy=f'Install it: {_INSTALL_TORCH}; or set {cause} = "auto".',
            param=cause,
        )
    if settings.dtype != "auto":
        return settings.dtype
    return "bfloat16" if device == "cuda" or cpu_has_bfloat16() else "float32"


def _steps(asked: str, backend: str, device: str) -> tuple[str, str]:
    """ "clear" or "captured", and the reason. Raises ConfigError if "captured" is asked for where
    it cannot be had."""
    if asked == "clear" or (asked == "auto" and backend == "onnx"):
        return "clear", ""
    if asked == "auto" and device == "cpu":
        return "clear", "captured steps are for cards"
    lacking = None
    if backend == "onnx":
        lacking = 'the backend "onnx" computes by a graph of its own', 'engine.backend = "torch"'
    elif importlib.util.find_spec("triton") is None:
        lacking = "captured steps are made of Triton kernels, and Triton is not installed", None
    elif device == "cuda" and not _card_has_kernels():
        lacking = "the kernels are for cards of compute capability 8.0 and newer", None
    if lacking is None:
        return "captured", "the card replays captured steps"
    why, remedy = lacking
    if asked == "auto":
        return "clear", why
    other = f" or {remedy}" if remedy else ""
    raise ConfigError(
        f'engine.steps is "captured", but {why}.',
        remedy=f'Set engine.steps = "auto"{other}.',
        param="engine.steps",
    )


def _card_has_kernels() -> bool:
    """Whether the kernels are compiled for the card. Torch has been asked for it before."""
    import torch

    try:
        return torch.cuda.get_device_capability() >= _KERNELS_MIN
    except (AssertionError, RuntimeError):  # a torch without CUDA
        return False


def _onnxruntime() -> str:
    try:
        return metadata.version("onnxruntime")
    except metadata.PackageNotFoundError:  # a build under another name, such as a vendor's
        return ""


def _device(asked: str) -> tuple[str, str]:
    """ "cpu" or "cuda", and the reason. Raises ConfigError if CUDA is asked for and unavailable."""
    if asked == "cpu":
        return asked, ""
    if asked == "cuda" and not _has_torch():
        raise ConfigError(
            'engine.device is "cuda", and torch is not installed.',
            remedy=f'Install it: {_INSTALL_TORCH}; or set engine.device = "auto".',
            param="engine.device",
        )
    if asked == "auto" and not _has_driver():
        return "cpu", "this machine has no NVIDIA driver"
    if not _has_torch():
        return "cpu", f"there is an NVIDIA driver, but no torch for it: {_INSTALL_TORCH}"
    # If CUDA is asked for by name, torch is asked even without any sign of a driver.
    has_cuda = _torch_finds_cuda()
    if asked == "cuda" and not has_cuda:
        raise ConfigError(
            'engine.device is "cuda", but torch finds no usable CUDA device.',
            remedy='Install a CUDA build of torch and its driver, or set engine.device = "auto".',
            param="engine.device",
        )
    return (
        ("cuda", "torch finds a CUDA device") if has_cuda else ("cpu", "torch finds no CUDA device")
    )


def _has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def needs_torch(command: str) -> None:
    """Raises ConfigError with a remedy if torch, which the command needs, is not installed."""
    if not _has_torch():
        raise ConfigError(
            f"{command} computes with torch, which is not installed.",
            remedy="Install it: pip install 'dlm-lsp[train]'.",
        )


def _has_driver() -> bool:
    """Whether there is any sign of an NVIDIA driver. Looks up a few files only."""
    windows = Path(os.environ.get("SYSTEMROOT", r"C:\Windows")) / "System32" / "nvcuda.dll"
    return any(Path(sign).exists() for sign in (*_DRIVER_SIGNS, windows))


def _torch_finds_cuda() -> bool:
    try:
        import torch  # takes a second, so only if there may be a card
    except (ImportError, OSError) as error:
        raise torch_unusable(error) from None
    return torch.cuda.is_available()


def torch_unusable(error: Exception) -> ConfigError:
    """The error for a torch that is installed but cannot be imported, such as another system's."""
    return ConfigError(
        f"torch cannot be imported: {error}.",
        remedy="Install dlm-lsp again with pip.",
        param="engine.backend",
    )


def cpu_has_bfloat16() -> bool:
    """Whether the CPU has bf16 arithmetic; without it, bf16 is slower than fp32."""
    return not _BFLOAT16_FLAGS.isdisjoint(_cpu_fields("flags", "Features"))


def cpu_name() -> str:
    """The processor's model, and its instructions for integer products.

    Both identify measurements: hypervisors give one model name to processors of many kinds.
    """
    model = " ".join(_cpu_fields("model name")) or platform.processor() or platform.machine()
    flags = _cpu_fields("flags", "Features")
    known = [flag for flag in _INTEGER_FLAGS if flag in flags]
    return f"{model} ({' '.join(known) or 'no integer dot products known'})"


def _cpu_fields(*names: str) -> list[str]:
    """The words of the first of these lines in /proc/cpuinfo; empty on systems other than Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in names:
            return value.split()
    return []


def default_threads() -> int:
    """One thread on up to four CPUs, else half of the CPUs.

    With any other busy process, torch with two threads slows down 5 to 50 times, because threads
    wait at barriers for one that is preempted; one thread slows down by a third at most.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return 1 if not count or count <= 4 else count // 2


def available_memory_bytes() -> int:
    """The memory that the system can provide without swapping; unlimited if it does not say."""
    try:
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 2**63 - 1
