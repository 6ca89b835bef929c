"""Pictures that leave: several rules, functions of one's own, axes of one's own, words switched off, files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from matplotlib.figure import Figure
from matplotlib.text import Text

from proxmom import AdaptiveMemory, GradientDescent, HeavyBall
from proxmom.draw import FUNCTIONS, canvas, draw_model, draw_path
from proxmom.draw.own import own_function
from proxmom.draw.paths import follow

RULES = [GradientDescent(), HeavyBall(0.9), AdaptiveMemory()]
OWN = """
import numpy as np

def bowl(x, depth=3.0):
    return float(x @ x) - depth, 2 * x

def flat(x):
    return x, x
"""


def bowl(x: Any) -> Any:
    return float(x @ x) - 3.0, 2 * x


def words(figure: Any) -> str:
    return " ".join(text.get_text() for text in figure.findobj(Text))


# several rules


def test_every_rule_has_a_line_of_its_own_and_the_path_that_it_has_alone() -> None:
    figure = draw_path(RULES, "quadratic", lr=0.03, steps=6)
    plane, fall, beta = figure.axes
    paths = [line for line in plane.get_lines() if len(line.get_xdata()) == 7]
    assert len({(line.get_color(), line.get_linestyle(), line.get_marker()) for line in paths}) == 3
    for line, curve, rule in zip(paths, fall.get_lines(), RULES, strict=True):
        alone = draw_path(rule, "quadratic", lr=0.03, steps=6)
        assert curve.get_ydata() == pytest.approx(alone.axes[1].get_lines()[0].get_ydata())
        assert curve.get_color() == line.get_color()
        assert line.get_xydata()[0] == pytest.approx(FUNCTIONS["quadratic"].start)
    assert len(beta.get_lines()) == 2  # gradient descent has no memory
    [legend] = figure.legends
    assert [text.get_text().partition(":")[0] for text in legend.get_texts()] == list(map(canvas.name_of, RULES))


def test_rules_without_memory_have_no_panel_of_it() -> None:
    assert len(draw_path([GradientDescent(), GradientDescent()], steps=2).axes) == 2


def test_models_of_several_rules_stand_below_each_other() -> None:
    figure = draw_model(RULES)
    assert [axes.get_title() for axes in figure.axes] == [f"One step of {canvas.name_of(rule)}" for rule in RULES]
    assert all("$w$ = (" in axes.get_xlabel() for axes in figure.axes)


def test_lines_of_28_rules_differ() -> None:
    assert len({str(canvas.line_of(number)) for number in range(28)}) == 28


@pytest.mark.parametrize("draw", [draw_path, draw_model])
def test_no_rule_is_refused(draw: Any) -> None:
    with pytest.raises(ValueError, match="rule must be "):
        draw([])


# functions of one's own


@pytest.mark.parametrize("on", ["function", "path", "with arguments"])
def test_a_function_of_one_s_own_is_shown_where_its_runs_go(on: str, tmp_path: Path) -> None:
    (file := tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    thing: Any = {"function": bowl, "path": f"{file}:bowl", "with arguments": f"{file}:bowl(depth=5.0)"}[on]
    figure = draw_path(GradientDescent(), thing, lr=0.1, starts=[4.0, -2.0], steps=40)
    plane, fall = figure.axes
    (left, right), (bottom, top) = plane.get_xlim(), plane.get_ylim()
    assert (left, right) == pytest.approx((-0.6, 4.6), abs=0.1)
    assert bottom < -2
    assert top > 0
    least = -5.0 if on == "with arguments" else -3.0
    assert fall.get_lines()[0].get_ydata()[[0, -1]] == pytest.approx([20 + least, least], abs=1e-3)
    assert (fall.get_ylabel(), fall.get_yscale()) == ("$f(x_t)$", "linear")  # its minimum is not known
    assert figure.get_suptitle().startswith("GradientDescent() on bowl")
    figure.draw_without_rendering()


def test_contours_rise_from_the_least_value_that_is_seen() -> None:
    trace = follow(bowl, GradientDescent(), np.array([4.0, -2.0]), {"lr": 0.1, "max_iter": 40})
    function = own_function(bowl, 0.1, [trace], (-1.0, 1.0, -1.0, 1.0))
    assert function.base == pytest.approx(-3.0)
    assert 0 < function.levels[0] < 0.01
    assert 1 < function.levels[-1] < 2  # the corners are 2 above the middle


def test_the_view_can_be_given() -> None:
    figure = draw_path(GradientDescent(), bowl, lr=0.1, starts=[4.0, -2.0], steps=4, view=(-6, 5, -3, 3))
    assert (*figure.axes[0].get_xlim(), *figure.axes[0].get_ylim()) == (-6, 5, -3, 3)


@pytest.mark.parametrize(
    ("on", "more", "message"),
    [
        (bowl, {"starts": None}, r"starts must be given with a function of your own, got none\."),
        (bowl, {"lr": None}, r"lr must be given with a function of your own, got none\."),
        (lambda x: (x, x), {}, r"a number, and its gradient of shape \(2,\), got shapes \(2,\) and \(2,\)\."),
        (lambda x: 1.0, {}, r"on must be fun\(x\) -> \(f, gradient\) for x of shape \(2,\), but "),
        (3, {}, r"on must be a name, an import path or a function fun\(x\) -> \(f, gradient\), got 3\."),
        ("nowhere.py:f", {}, r"function: no file 'nowhere\.py'"),
        (bowl, {"view": (1, 1, 0, 2)}, r"view must be left < right and bottom < top, got \(1, 1, 0, 2\)\."),
    ],
)
def test_what_cannot_be_drawn_is_named(on: Any, more: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_path(HeavyBall(), on, **{"lr": 0.1, "starts": [1.0, 1.0], **more})


# axes and words


@pytest.mark.parametrize("draw", [draw_path, draw_model])
def test_axes_of_one_s_own(draw: Any, tmp_path: Path) -> None:
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert draw(HeavyBall(), ax=right, out=(out := tmp_path / "a.svg")) is figure
    assert len(figure.axes) == 2
    assert left.get_lines() == []
    assert len(right.get_lines()) + len(right.collections) > 3
    assert "HeavyBall" in right.get_title()
    assert out.stat().st_size > 1000


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("draw", [draw_path, draw_model])
def test_title_and_caption_can_be_switched_off(draw: Any, own: bool) -> None:
    for title in (True, False):
        figure = draw(HeavyBall(), title=title, caption=not title, ax=Figure().add_subplot() if own else None)
        assert ("HeavyBall" in words(figure)) == title
        assert ("lr = " in words(figure)) == (not title)


# files


def test_pgf_says_what_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match=r"out: a \.pgf takes LaTeX, and none of xelatex, lualatex, pdflatex is here"):
        draw_model(HeavyBall(), out=tmp_path / "a.pgf")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not any(map(shutil.which, canvas.TEX)), reason="no LaTeX")
def test_pgf(tmp_path: Path) -> None:
    draw_model(HeavyBall(), out=(out := tmp_path / "a.pgf"))
    assert "pgfpicture" in out.read_text(encoding="utf-8")


def test_the_same_function_twice_is_the_same_picture() -> None:
    first, second = (draw_path(AdaptiveMemory(), bowl, lr=0.1, starts=[1.0, 2.0], steps=9) for _ in range(2))
    assert np.array_equal(first.axes[1].get_lines()[0].get_ydata(), second.axes[1].get_lines()[0].get_ydata())
