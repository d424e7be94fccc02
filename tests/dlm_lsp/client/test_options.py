"""Options, as the command line parses them and as a client writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlm_lsp.cli.main import main
from dlm_lsp.client.options import ServeOptions
from engine.config import EngineSettings
from engine.errors import ConfigError

OPTIONS = [
    ServeOptions(),
    ServeOptions(EngineSettings(Path("/a b/c"), "cpu", "float32", 3), 12.5, log_file=Path("/l")),
    ServeOptions(EngineSettings(dtype="int8", backend="onnx", cache_tokens=1024)),
    ServeOptions(EngineSettings(backend="torch", steps="captured")),
    ServeOptions(host="127.0.0.1", port=0, token_file=Path("/token")),
]


@pytest.mark.parametrize("options", OPTIONS)
def test_arguments_mean_the_same_to_the_command_line(
    options: ServeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[ServeOptions] = []

    def serve(options: ServeOptions) -> int:
        served.append(options)
        return 0

    monkeypatch.setattr("dlm_lsp.cli.serve.serve", serve)
    assert main(options.arguments()) == 0
    assert served == [options]


def test_arguments_checkpoint_is_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    options = ServeOptions(EngineSettings(checkpoint=Path("here")))
    assert str(tmp_path / "here") in options.arguments()


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"idle_seconds": -1}, "idle_seconds"),
        ({"idle_seconds": float("nan")}, "idle_seconds"),
        ({"host": "127.0.0.1"}, "port"),
        ({"port": 80}, "host"),
        ({"host": "127.0.0.1", "port": 65536}, "port"),
    ],
)
def test_options_wrong_ones_are_named(wrong: dict[str, object], param: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ServeOptions(**wrong)  # pyright: ignore
    assert caught.value.param == param
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.2", False),
        ("example.org", False),
        ("", False),
    ],
)
def test_loopback_is_known(host: str, expected: bool) -> None:
    assert ServeOptions(host=host, port=1).is_loopback() is expected
