"""How methods are told apart: colours, dashes, markers."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest

from proxmom.study.report import panels

# Machado, Oliveira and Fernandes (2009), severity 1: linear RGB as protan, deutan and tritan vision have it.
VISIONS = [
    np.eye(3),
    np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
    np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]),
]
# OKLab (Ottosson, 2020): linear RGB to cones, and the cube roots of those to the space.
CONES = np.array([[0.41222, 0.53633, 0.05145], [0.21190, 0.68070, 0.10740], [0.08830, 0.28172, 0.62998]])
SPACE = np.array([[0.21045, 0.79362, -0.00407], [1.97800, -2.42859, 0.45059], [0.02590, 0.78277, -0.80868]])


def distance(one: str, other: str) -> float:
    """The distance of two colours to those who tell them apart worst."""
    bytes_ = np.array([list(bytes.fromhex(colour[1:])) for colour in (one, other)]) / 255
    linear = np.where(bytes_ <= 0.04045, bytes_ / 12.92, ((bytes_ + 0.055) / 1.055) ** 2.4)
    seen = [np.cbrt(np.clip(linear @ vision.T, 0, 1) @ CONES.T) @ SPACE.T for vision in VISIONS]
    return float(min(np.linalg.norm(a - b) for a, b in seen))


@pytest.mark.parametrize("palette", [panels._LIGHT, panels._DARK])
def test_eleven_methods_have_colours_that_impaired_vision_tells_apart(palette: Any) -> None:
    assert len(palette) == 11
    distances = {pair: distance(*pair) for pair in combinations(palette, 2)}
    assert min(distances.values()) > 0.07  # of OKLab, where 0.02 is just noticeable
    dashes = [panels._DASHES[index % len(panels._DASHES)] for index in range(11)]
    alike = {(palette[a], palette[b]) for a, b in combinations(range(11), 2) if dashes[a] == dashes[b]}
    assert min(distances[pair] for pair in alike) > 0.1


def test_lines_of_further_methods_bear_markers() -> None:
    _, axes = panels.panel("x", "y")
    ends = np.array([1.0, 2.0])
    markers = [panels.plot_line(axes, panels.Style(index, "m"), ends, ends).get_marker() for index in range(9)]
    assert markers == ["None"] * 7 + ["<", ">"]
    tried = panels.plot_line(axes, panels.Style(8, "m"), ends, ends, marker="o", linewidth=0)
    assert tried.get_markevery() is None  # where marks are runs, all of them are shown


def test_names_stand_at_the_ends_of_lines_and_apart() -> None:
    styles = [panels.Style(index, f"method ${index}") for index in range(13)]
    figure, axes = panels.panel("x", "y", wide=True)
    axes.set(xlim=(1, 10), ylim=(0, 1))
    ends = [0.5, *[1.0] * 10, 0.0, 0.01]
    panels.name_ends(axes, list(zip(styles, ends, strict=True)))
    places = {text.get_text(): text.get_position()[1] for text in axes.texts}
    assert places["method $0"] < 0.5, "ten above it push it down"
    assert list(places) == [f"method ${index}" for index in (*range(1, 11), 0, 12, 11)]
    heights = list(places.values())
    assert heights[0] == pytest.approx(1.0)
    assert min(high - low for high, low in pairwise(heights)) > 0.05
    assert heights[-1] >= -0.02
    assert all(text.get_position()[0] > 1 for text in axes.texts)
    drawn = panels.picture(figure, "wide", "heading", "what", styles)
    assert drawn.wide
    assert all(f">method ${index}<" in drawn.svg for index in range(13))
    assert not panels.picture(panels.panel("x", "y")[0], "narrow", "heading", "what", styles).wide
