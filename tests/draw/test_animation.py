"""Animations: a frame for each step, on axes that stay; files that need nothing but themselves."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from click.testing import CliRunner
from PIL import Image

from proxmom import AdaptiveMemory, HeavyBall
from proxmom.cli import main
from proxmom.draw import animate_model, animation, draw_model


def test_a_gif_has_a_frame_for_each_step(tmp_path: Path) -> None:
    out = tmp_path / "new" / "a.gif"
    assert animate_model(HeavyBall(), steps=3, fps=2, dpi=30, out=out) == out
    with Image.open(out) as picture:
        assert (getattr(picture, "n_frames", 1), picture.info["duration"]) == (3, 500)
        frames = []
        for number in range(3):
            picture.seek(number)
            frames.append(np.asarray(picture.convert("RGB")))
    assert not np.array_equal(frames[0], frames[1])
    assert not np.array_equal(frames[1], frames[2])


def test_frames_are_the_pictures_of_the_steps_on_the_same_axes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[Any] = []
    whole = animation._frame

    def watched(figure: Any, *arguments: Any) -> None:
        whole(figure, *arguments)
        [axes] = figure.axes
        objective = [line.get_xydata() for line in axes.get_lines() if line.get_gid() == "objective"]
        seen.append((axes.get_xlim(), axes.get_ylim(), objective[0], figure.get_suptitle()))

    monkeypatch.setattr(animation, "_frame", watched)
    animate_model(AdaptiveMemory(), steps=3, dpi=20, out=tmp_path / "a.gif")
    frames = {title: (x, y, line) for x, y, line, title in seen}
    assert [title.rpartition(": ")[2] for title in frames] == ["step 2", "step 3", "step 4"]
    assert len({(x, y) for x, y, _ in frames.values()}) == 1
    for steps, (x, _, line) in enumerate(frames.values(), start=1):
        own = draw_model(AdaptiveMemory(), steps=steps)
        [single] = [each for each in own.axes[0].get_lines() if each.get_gid() == "objective"]
        assert x[0] <= own.axes[0].get_xlim()[0]
        at = np.linspace(*own.axes[0].get_xlim(), 7)
        assert np.interp(at, *line.T) == pytest.approx(np.interp(at, *single.get_xydata().T), abs=1e-2)


def test_a_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    animate_model(HeavyBall(), steps=2, dpi=30, out=(out := tmp_path / "a.html"))
    page = out.read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 2
    assert 'type="range"' in page
    assert not re.search(r"https?://|<link|<i class", page)
    assert "❚❚" in page
    assert "•" not in page


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"out": "a.mp4"}, r"out must end in \.gif or \.html, got 'a\.mp4'\."),
        ({"steps": 0}, r"steps must be from 1 to 200, a frame each, got 0\."),
        ({"fps": 0}, r"fps must be > 0 and at most 50, got 0\."),
        ({"dpi": 1}, r"dpi must be from 10 to 2400, got 1"),
        ({"lr": -1.0}, r"lr must be > 0 and finite, got -1\.0\."),
    ],
)
def test_bad_arguments_write_nothing(wrong: Any, message: str, tmp_path: Path) -> None:
    arguments = {"out": "a.gif", **wrong}
    with pytest.raises(ValueError, match=message):
        animate_model(HeavyBall(), **{**arguments, "out": tmp_path / arguments["out"]})
    assert list(tmp_path.iterdir()) == []


def test_the_command(tmp_path: Path) -> None:
    out = tmp_path / "a.html"
    asked = ["draw", "HeavyBall", "--on", "model", "--steps", "2", "--dpi", "20", "--animate", str(out)]
    assert CliRunner().invoke(main, asked).output == f"{out}\n"
    refused = CliRunner().invoke(main, ["draw", "HeavyBall", "--animate", str(out)])
    assert refused.exit_code == 1
    assert "--animate goes with --on model and one RULE, and without --out." in refused.output
