"""The resolution of "auto", and the errors that name what is unavailable."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine import device
from engine.config import BACKENDS, DEVICES, DTYPES, STEPS, EngineSettings
from engine.device import decide, resolve
from engine.errors import ConfigError


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine with signs of an NVIDIA driver, whatever this one is."""
    monkeypatch.setattr(device, "_DRIVER_SIGNS", (str(tmp_path),))


@pytest.fixture
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_has_driver", lambda: False)


def test_nothing_is_left_to_resolve_a_second_time(no_driver: None) -> None:
    once = resolve(EngineSettings())
    assert once == resolve(once)
    assert (once.device, once.backend) == ("cpu", "onnx")
    assert once.dtype == "auto", "it follows from the checkpoint's size"
    assert once.threads
    torch_once = resolve(EngineSettings(backend="torch"))
    assert torch_once == resolve(torch_once)
    assert torch_once.dtype == ("bfloat16" if device.cpu_has_bfloat16() else "float32")
    assert "auto" in DEVICES
    assert "auto" in DTYPES
    assert "auto" in BACKENDS
    assert "auto" in STEPS
    assert once.steps == torch_once.steps == "clear"


def test_a_driver_has_torch_asked_and_no_driver_has_not(
    monkeypatch: pytest.MonkeyPatch, driver: None
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve(EngineSettings()).device == "cuda"
    assert resolve(EngineSettings(device="cpu")).device == "cpu"
    monkeypatch.setattr(device, "_has_driver", lambda: False)
    assert resolve(EngineSettings()).device == "cpu"
    assert resolve(EngineSettings(device="cuda")).device == "cuda"


def test_a_device_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, driver: None) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve(EngineSettings()).device == "cpu"
    with pytest.raises(ConfigError, match=r"engine\.device") as error:
        resolve(EngineSettings(device="cuda"))
    assert error.value.param == "engine.device"


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        (EngineSettings(device="cuda"), "engine.device"),
        (EngineSettings(backend="torch"), "engine.backend"),
        (EngineSettings(dtype="bfloat16"), "engine.dtype"),
    ],
)
def test_without_torch_the_error_says_how_to_install_it(
    no_torch: None, driver: None, settings: EngineSettings, param: str
) -> None:
    with pytest.raises(ConfigError) as error:
        resolve(settings)
    assert error.value.param == param
    assert "pip install 'dlm-lsp[gpu]'" in error.value.remedy
    assert f'{param} = "auto"' in error.value.remedy


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        (EngineSettings(backend="onnx", device="cuda"), "engine.backend"),
        (EngineSettings(backend="onnx", dtype="bfloat16"), "engine.dtype"),
        (EngineSettings(dtype="int8", backend="torch"), "engine.dtype"),
        (EngineSettings(dtype="int8", device="cuda"), "engine.dtype"),
        (EngineSettings(backend="onnx", steps="captured"), "engine.steps"),
    ],
)
def test_what_a_backend_cannot_do_is_named(
    monkeypatch: pytest.MonkeyPatch, settings: EngineSettings, param: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ConfigError, match=param) as error:
        resolve(settings)
    assert error.value.param == param
    assert error.value.remedy


def test_a_card_takes_captured_steps_if_the_kernels_are_for_it(
    monkeypatch: pytest.MonkeyPatch, driver: None
) -> None:
    capability = [(9, 0)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability[0])
    monkeypatch.setattr(device.importlib.util, "find_spec", lambda name: object())
    for steps, found in [("auto", "captured"), ("captured", "captured"), ("clear", "clear")]:
        assert resolve(EngineSettings(steps=steps)).steps == found
    capability[0] = (7, 5)
    decision = decide(EngineSettings())
    assert (decision.settings.steps, "8.0" in decision.why["steps"]) == ("clear", True)
    with pytest.raises(ConfigError, match=r"8\.0") as error:
        resolve(EngineSettings(steps="captured"))
    assert error.value.param == "engine.steps"


def test_without_triton_steps_are_clear_and_captured_ones_are_refused(
    monkeypatch: pytest.MonkeyPatch, driver: None
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        device.importlib.util, "find_spec", lambda name: None if name == "triton" else object()
    )
    assert resolve(EngineSettings()).steps == "clear"
    for place in ("cuda", "cpu"):
        settings = EngineSettings(device=place, backend="torch", steps="captured")
        with pytest.raises(ConfigError, match="Triton") as error:
            resolve(settings)
        assert error.value.param == "engine.steps"


def test_the_reasons_are_those_that_decided(
    monkeypatch: pytest.MonkeyPatch, no_driver: None
) -> None:
    why = decide(EngineSettings()).why
    assert why["device"] == "this machine has no NVIDIA driver"
    assert why["backend"].startswith("the CPU computes with ONNX Runtime ")
    assert "dtype" not in why
    assert "bf16" in decide(EngineSettings(backend="torch")).why["dtype"]
    assert (
        decide(EngineSettings(backend="onnx")).why["device"]
        == "ONNX Runtime computes on the CPU here"
    )
    monkeypatch.setattr(device, "_has_driver", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert decide(EngineSettings()).why["device"] == "torch finds no CUDA device"
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "no torch for it" in decide(EngineSettings()).why["device"]


def test_resolving_for_a_cpu_imports_no_torch() -> None:
    code = (
        "import sys; from engine.config import EngineSettings; from engine.device import resolve;"
        " resolve(EngineSettings(device='cpu')); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=120)
