"""How suggestions look in light, dark and high-contrast themes: everything can be read."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.vscode.conftest import Bench, bench_with
from tests.vscode.screenshots import PICTURES, QUIET, SCENES, THEMES, prepare, show

# WCAG asks 4.5:1 of text, which VS Code's own ghost text reaches in high contrast alone.
LEAST = {"dark": 3.0, "light": 3.0, "contrast": 4.5, "contrast-light": 4.5}
Color = tuple[float, float, float, float]


@pytest.fixture(scope="module")
def bench(vscode: None) -> Iterator[Bench]:
    with bench_with(**QUIET) as made:
        prepare(made)
        yield made


def color_of(css: str) -> Color:
    """A colour of CSS as red, green, blue and opacity, each from 0 to 1."""
    red, green, blue, *rest = (float(one) for one in re.findall(r"[\d.]+", css))
    return red / 255, green / 255, blue / 255, rest[0] if rest else 1.0


def over(front: Color, back: Color) -> Color:
    opacity = front[3]
    red, green, blue = (
        opacity * one + (1 - opacity) * other
        for one, other in zip(front[:3], back[:3], strict=True)
    )
    return red, green, blue, 1.0


def luminance(color: Color) -> float:
    """Of an opaque colour, as WCAG defines it."""
    linear = [
        one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in color[:3]
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(front: Color, back: Color) -> float:
    """The contrast of text on a background, from 1 to 21."""
    first, second = luminance(over(front, back)), luminance(back)
    return (max(first, second) + 0.05) / (min(first, second) + 0.05)


@pytest.mark.parametrize("theme", THEMES)
def test_a_draft_can_be_read(bench: Bench, theme: str):
    show(bench, "draft", theme)
    back = color_of(bench.call("background"))
    parts = bench.call("decorations")
    assert len(parts) == 2
    for part in parts:
        assert contrast(color_of(part["color"]), back) >= LEAST[theme], part


@pytest.mark.parametrize("theme", THEMES)
def test_a_change_can_be_read(bench: Bench, theme: str):
    show(bench, "refine", theme)
    back = color_of(bench.call("background"))
    parts = bench.call("decorations")
    assert len(parts) == 2
    for part in parts:
        behind = over(color_of(part["background"]), back)
        assert contrast(color_of(part["color"]), behind) >= LEAST[theme], part


def test_the_pictures_of_the_readme_are_scenes():
    assert {scene for scene, _ in PICTURES.values()} <= set(SCENES)
    assert {theme for _, theme in PICTURES.values()} <= set(THEMES)
