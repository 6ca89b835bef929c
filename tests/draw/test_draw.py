"""Pictures: the functions drawn on, that what is drawn is what is solved, files, and error messages."""

from __future__ import annotations

import subprocess
import sys
import warnings
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from matplotlib.collections import LineCollection

from proxmom import Adam, AdaptiveMemory, Euclidean, GradientDescent, HeavyBall, MoMo, Polyak, TruncatedMemory
from proxmom.draw import FUNCTIONS, draw_model, draw_path, plane
from proxmom.draw.functions import VALLEY_MINIMUM, valley
from proxmom.draw.path import BETA
from proxmom.draw.paths import run
from proxmom.memories import Average
from proxmom.rules import RULES, Facts

BOUNDED = {name for name, rule in RULES.items() if hasattr(rule, "without_floor")}
ARGUMENTS = {**{name: {"lower_bound": 0.0} for name in BOUNDED}, "ConjugateMemory": {"beta_max": 0.9}}  # < 1 for Adam
RULE_OF = {name: rule(**ARGUMENTS.get(name, {})) for name, rule in RULES.items()}
HEIGHTS = {h: AdaptiveMemory(height=h) for h in ("previous value", "cutting plane", "aggregated")}
EVERY = {**RULE_OF, **HEIGHTS}
SETTINGS = {
    "plain": {},
    "adam": {"metric": Adam()},
    "inertia": {"inertia": 0.3},
    "decay": {"weight_decay": 0.2},
    "all": {"metric": Adam(), "inertia": 0.1, "weight_decay": 0.2, "lr": 0.7, "steps": 5},
    "one step": {"steps": 1},
    "large lr": {"lr": 8.0, "steps": 2},
}
CASES = {
    f"{name}, {kind}": (rule, settings)
    for name, rule in RULE_OF.items()
    for kind, settings in SETTINGS.items()
    if not (Facts.of(rule).needs_loss and "inertia" in settings)
}


class Alternating:
    """A rule of a user's: no dataclass, and it declares a further memory."""

    beta_max = 0.5
    memories = {"slow": Average(0.1)}  # noqa: RUF012

    def planes(self, now: Any) -> Any:
        return now.gradient_plane, type(now.gradient_plane)(0.25 * now.vector("slow") - 0.5 * now.memory, -0.1)


@pytest.fixture(params=FUNCTIONS.values(), ids=FUNCTIONS)
def function(request: pytest.FixtureRequest) -> Any:
    return request.param


def slope(fun: Any, x: Any, eps: Any = 1e-6) -> Any:
    """Central differences of fun along each coordinate of x."""
    moves = eps * np.eye(len(x))
    return np.array([(fun(x + move)[0] - fun(x - move)[0]) / (2 * eps) for move in moves])


def line(figure: Any, gid: Any) -> Any:
    return [curve.get_xydata().T for curve in figure.axes[0].get_lines() if curve.get_gid() == gid]


def title(figure: Any) -> Any:
    return figure.get_suptitle()


# the functions


def test_gradients(function: Any) -> None:
    left, right, bottom, top = function.view
    for x in np.random.default_rng(0).uniform((left, bottom), (right, top), (20, 2)):
        gradient = function.fun(x)[1]
        assert slope(function.fun, x) == pytest.approx(gradient, rel=1e-5, abs=1e-5)


def test_minimisers_are_stationary_with_value_zero(function: Any) -> None:
    for x in function.minimisers:
        value, gradient = function.fun(x)
        assert value == pytest.approx(0, abs=1e-24)
        assert gradient == pytest.approx([0, 0], abs=1e-11)
        assert np.linalg.eigvalsh(slope(lambda z: function.fun(z)[::-1], x)).min() > 0.1
    assert len(np.unique(function.minimisers.round(6), axis=0)) == len(function.minimisers)


def test_a_grid_gives_what_its_points_give(function: Any) -> None:
    grid = np.random.default_rng(1).uniform(-2, 2, (2, 3, 4))
    values, gradients = function.fun(grid)
    assert values.shape == (3, 4)
    assert gradients.shape == (2, 3, 4)
    value, gradient = function.fun(grid[:, 2, 1])
    assert value == pytest.approx(values[2, 1], rel=1e-14)
    assert gradient == pytest.approx(gradients[:, 2, 1], rel=1e-13)


def test_view_is_a_square_with_start_minimisers_and_levels(function: Any) -> None:
    left, right, bottom, top = function.view
    assert right - left == pytest.approx(top - bottom)
    for a, b in [function.start, *function.minimisers]:
        assert left < a < right
        assert bottom < b < top
    assert (np.diff(function.levels) > 0).all()


def test_quadratic_has_condition_20() -> None:
    hessian = np.array([FUNCTIONS["quadratic"].fun(unit)[1] for unit in np.eye(2)])
    assert np.linalg.eigvalsh(hessian) == pytest.approx([1, 20])


def test_valley_is_smooth_convex_and_asymmetric() -> None:
    x = np.linspace(-6, 6, 1001)
    value, gradient = valley(x)
    assert slope(valley, np.array([0.7]))[0] == pytest.approx(valley(np.array([0.7]))[1], rel=1e-6)
    assert (np.diff(gradient) > 0).all()
    assert value.min() == pytest.approx(VALLEY_MINIMUM, abs=1e-15)
    assert x[value.argmin()] == pytest.approx(0)
    assert gradient[[0, -1]] == pytest.approx([-0.8, 2.0], rel=1e-3)


@pytest.mark.parametrize("metric", [None, Adam()], ids=["Euclidean", "Adam"])
@pytest.mark.parametrize("rule", EVERY.values(), ids=EVERY)
def test_default_lr_suits_every_rule(function: Any, rule: Any, metric: Any) -> None:
    settings = {"lr": function.default_lr(metric), "metric": metric, "max_iter": 200}
    trace = run(function, rule, np.array(function.start), settings)
    assert function.default_lr(Euclidean()) == function.default_lr(None)
    assert not trace.diverged
    assert trace.values[-1] < 0.05 * trace.values[0]


# the model


@pytest.mark.parametrize(("rule", "settings"), CASES.values(), ids=CASES)
def test_next_iterate_is_the_minimum_of_the_drawn_curve(rule: Any, settings: Any) -> None:
    figure = draw_model(rule, **settings)
    [[x, objective]] = line(figure, "objective")
    [diamond] = [curve for curve in figure.axes[0].get_lines() if curve.get_marker() == "D"]
    [[next_x, least]] = diamond.get_xydata()
    assert x[0] < next_x < x[-1]
    assert abs(x[objective.argmin()] - next_x) <= x[1] - x[0]
    assert least <= objective.min() + 1e-12


@pytest.mark.parametrize("rule", RULE_OF.values(), ids=RULE_OF)
def test_thick_line_is_the_maximum_of_the_planes(rule: Any) -> None:
    figure = draw_model(rule)
    [[_, thick]] = line(figure, "model")
    assert thick == pytest.approx(np.max([y for _, y in line(figure, "plane")], axis=0))


def test_gradient_plane_is_the_tangent_and_planes_differ() -> None:
    figure = draw_model(AdaptiveMemory())
    (x, tangent), (_, mixture) = line(figure, "plane")
    [[_, loss]] = line(figure, "loss")
    touch = np.abs(loss - tangent).argmin()
    assert (loss >= tangent - 1e-12).all()
    assert loss[touch] == pytest.approx(tangent[touch], abs=1e-4)
    assert np.sign(tangent[-1] - tangent[0]) != np.sign(mixture[-1] - mixture[0])
    assert x[touch] > 0 > x[0]


@pytest.mark.parametrize(
    ("rule", "names"),
    [
        (GradientDescent(), ["gradient"]),
        (HeavyBall(0.8), ["0.2 gradient + 0.8 memory"]),
        (AdaptiveMemory(beta_max=1.0), ["gradient", "memory"]),
        (TruncatedMemory(lower_bound=-0.5), ["gradient", "0.1 gradient + 0.9 memory", "lower bound -0.5"]),
        (Polyak(lower_bound=0.0), ["gradient", "lower bound 0"]),
        (MoMo(lower_bound=0.1), ["0.1 gradient + 0.9 memory", "lower bound 0.1"]),
        (Alternating(), ["gradient", "-0.5 memory + 0.25 slow"]),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "planes") else "",
)
def test_planes_are_named_after_what_they_are_made_of(rule: Any, names: Any) -> None:
    labels = [text.get_text() for text in draw_model(rule).axes[0].get_legend().get_texts()]
    planes = [label.removeprefix("plane: ").split("\n")[0] for label in labels if label.startswith("plane: ")]
    assert planes == names


def test_caption_says_weights_and_beta() -> None:
    figure = draw_model(HeavyBall(0.8), inertia=0.1, weight_decay=0.05, lr=0.5)
    caption = figure.get_supxlabel()
    assert "lr = 0.5, inertia = 0.1, weight decay = 0.05, proximal" in caption
    assert "$w$ = (1.00)" in caption
    assert "$\\beta$ = 0.80" in caption
    assert "HeavyBall(beta=0.8)" in title(figure)


# the trajectory


def test_path_is_the_rule_s() -> None:
    function, lr = FUNCTIONS["quadratic"], 0.03
    figure = draw_path(GradientDescent(), "quadratic", lr=lr, steps=5)
    [path] = [artist for artist in figure.axes[0].collections if type(artist) is LineCollection]
    x = np.array(function.start)
    for piece in path.get_segments():
        assert piece[0] == pytest.approx(x, abs=1e-12)
        x = x - lr * function.fun(x)[1]
        assert piece[1] == pytest.approx(x, abs=1e-12)
    assert len(path.get_segments()) == 5
    assert f"lr = 0.03: f = {function.fun(x)[0]:.3g} after 5 steps" in title(figure)


def test_colour_is_the_weight_on_memory() -> None:
    figure = draw_path(AdaptiveMemory(beta_max=0.7), "himmelblau", steps=30)
    [path] = [artist for artist in figure.axes[0].collections if type(artist) is LineCollection]
    beta_axes = figure.axes[2]
    colours = np.asarray(path.get_array())
    assert colours == pytest.approx(beta_axes.get_lines()[0].get_ydata())
    assert path.get_clim() == (0, 0.7)
    assert np.ptp(colours) > 0.1
    assert colours[0] == 0.7
    assert [axes.get_ylabel() for axes in figure.axes].count(BETA) == 2


def test_without_memory_no_colour_bar() -> None:
    figure = draw_path(Polyak(lower_bound=0.0), steps=3)
    assert len(figure.axes) == 2
    assert figure.axes[1].get_xlabel() == "step $t$"


def test_fall_is_f_minus_its_minimum() -> None:
    function = FUNCTIONS["himmelblau"]
    figure = draw_path(GradientDescent(), "himmelblau", steps=3)
    [curve] = figure.axes[1].get_lines()
    assert curve.get_ydata()[0] == function.fun(np.array(function.start))[0]
    assert figure.axes[1].get_yscale() == "log"


def test_title_says_default_lr_metric_and_inertia() -> None:
    figure = draw_path(AdaptiveMemory(), metric=Adam(beta2=0.99), inertia=0.1, steps=2)
    assert "lr = 0.15 (default), Adam(beta2=0.99, eps=1e-08), inertia = 0.1: f = " in title(figure)
    assert "Rosenbrock" in title(figure)
    assert "clipped" not in title(figure)


@pytest.mark.parametrize(("on", "lr"), [("quadratic", 0.12), ("quadratic", 40.0)])
def test_a_diverging_path_is_clipped_and_said_so(on: Any, lr: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", DeprecationWarning)  # what an old Matplotlib and a new parser have to settle
        figure = draw_path(GradientDescent(), on, lr=lr, steps=120)
        figure.draw_without_rendering()
    assert "diverged, clipped to the view" in title(figure)
    assert (*figure.axes[0].get_xlim(), *figure.axes[0].get_ylim()) == pytest.approx(FUNCTIONS[on].view)


def test_far_points_keep_their_direction() -> None:
    function = FUNCTIONS["quadratic"]
    trace = run(function, GradientDescent(), np.array(function.start), {"lr": 1.0, "max_iter": 60})
    figure = draw_path(GradientDescent(), "quadratic", lr=1.0, steps=60)
    [path] = [artist for artist in figure.axes[0].collections if type(artist) is LineCollection]
    true, drawn = trace.points[1:], np.array([piece[1] for piece in path.get_segments()])
    assert np.abs(drawn).max() == pytest.approx(plane.FAR)
    assert true[:, 0] * drawn[:, 1] == pytest.approx(true[:, 1] * drawn[:, 0], rel=1e-9)


def test_view_grows_to_a_path_that_leaves_it_and_returns() -> None:
    _, _, bottom, top = FUNCTIONS["himmelblau"].view
    figure = draw_path(HeavyBall(), "himmelblau")
    low, high = figure.axes[0].get_ylim()
    assert low < bottom
    assert high - low < 2 * (top - bottom)
    assert np.diff(figure.axes[0].get_xlim()) == pytest.approx(high - low)
    assert "clipped" not in title(figure)


def test_several_starts() -> None:
    starts = [[1.0, 1.0], [-3.0, 0.0], [9.0, 9.0], [0.0, 2.0]]
    figure = draw_path(AdaptiveMemory(), "himmelblau", starts=starts, steps=10)
    labels = [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
    assert labels == ["start 1", "start 2", "start 3", "start 4"]
    assert figure.axes[0].get_xlim()[1] > 9
    assert " to " in title(figure)


def test_start_at_the_minimiser() -> None:
    figure = draw_path(AdaptiveMemory(), starts=[1.0, 1.0])
    figure.draw_without_rendering()
    assert "f = 0 after 0 steps" in title(figure)


def test_a_user_s_rule() -> None:
    assert title(draw_path(Alternating(), steps=3)).startswith("Alternating on Rosenbrock")
    assert title(draw_model(Alternating())) == "One step of Alternating"


# files and errors


@pytest.mark.parametrize("on", ["quadratic", "rosenbrock", "himmelblau"])
def test_the_shades_of_a_function_are_pixels(on: Any, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        draw_path(HeavyBall(), on=on, steps=3, out=(file := tmp_path / "a.svg"))
    shades = ElementTree.parse(file).iter("{http://www.w3.org/2000/svg}image")
    assert len(list(shades)) >= 1
    assert file.stat().st_size < 500_000


@pytest.mark.parametrize("draw", [draw_path, draw_model])
@pytest.mark.parametrize("name", ["a.PNG", "new/b.svg", "c.pdf"])
def test_files(draw: Any, name: str, tmp_path: Path) -> None:
    out = tmp_path / name
    figure = draw(AdaptiveMemory(), steps=2, out=str(out), dpi=50)
    content = out.read_bytes()
    if out.suffix == ".svg":
        assert ElementTree.fromstring(content).tag == "{http://www.w3.org/2000/svg}svg"
        texts = ElementTree.fromstring(content).iter("{http://www.w3.org/2000/svg}text")
        words = ["".join(text.itertext()) for text in texts]
        assert any("AdaptiveMemory" in each for each in words)  # text is text
    elif out.suffix == ".pdf":
        assert content.startswith(b"%PDF")
    else:
        assert content.startswith(b"\x89PNG")
        assert int.from_bytes(content[16:20], "big") == round(50 * figure.get_figwidth())


def test_the_same_picture_is_the_same_file(tmp_path: Path) -> None:
    for kind in ("svg", "pdf"):
        for name in "ab":
            draw_model(HeavyBall(), out=tmp_path / f"{name}.{kind}")
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


@pytest.mark.parametrize("draw", [draw_path, draw_model])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"out": "a.gif"}, r"out must end in \.png, \.svg, \.pdf or \.pgf, got 'a\.gif'\."),
        ({"out": "a"}, r"out must end in \.png, \.svg, \.pdf or \.pgf, got 'a'\."),
        ({"dpi": 0}, r"dpi must be from 10 to 2400, got 0: 200 suits a screen, 600 a journal\."),
        ({"lr": 0.0}, r"lr must be > 0 and finite, got 0\.0\."),
        ({"lr": -1.0}, r"lr must be > 0 and finite, got -1\.0\."),
        ({"lr": float("nan")}, r"lr must be > 0 and finite, got nan\."),
        ({"steps": 0}, r"steps must be >= 1, got 0"),
        ({"inertia": -1.0}, r"inertia must be >= 0 and finite, got -1\.0\."),
    ],
)
def test_bad_arguments_write_nothing(draw: Any, wrong: Any, message: str, tmp_path: Path) -> None:
    arguments = {"out": "a.png", **wrong}
    with pytest.raises(ValueError, match=message):
        draw(AdaptiveMemory(), **{**arguments, "out": tmp_path / arguments["out"]})
    assert list(tmp_path.iterdir()) == []


def test_unknown_function_lists_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"on must be one of 'quadratic', 'rosenbrock', 'himmelblau', or an import path .*, got 'sphere'\.",
    ):
        draw_path(AdaptiveMemory(), "sphere", out=tmp_path / "a.png")


@pytest.mark.parametrize("starts", [[1.0, 2.0, 3.0], [[0.0, np.inf]], [], 1.0, np.zeros((1, 1, 2))])
def test_bad_starts(starts: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"starts must be a finite point \(2,\) or points \(k, 2\), got "):
        draw_path(AdaptiveMemory(), starts=starts, out=tmp_path / "a.png")


@pytest.mark.parametrize("draw", [draw_path, draw_model])
def test_floor_with_inertia_and_no_rule_at_all_are_refused_as_everywhere(draw: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"TruncatedMemory looks at the loss, so inertia must be 0, got 0\.1"):
        draw(TruncatedMemory(lower_bound=0.0), inertia=0.1, out=tmp_path / "a.png")
    with pytest.raises(TypeError, match="rule must be an object with a method planes"):
        draw(HeavyBall, out=tmp_path / "a.png")


@pytest.mark.parametrize("draw", [draw_path, draw_model])
def test_without_matplotlib_the_extra_is_named(draw: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'proxmom\[study\]'"):
        draw(AdaptiveMemory(), out=tmp_path / "a.png")


def test_matplotlib_comes_with_the_first_picture_and_pyplot_never(tmp_path: Path) -> None:
    code = (
        "import sys, proxmom, proxmom.draw as d; assert 'matplotlib' not in sys.modules; "
        f"d.draw_model(proxmom.HeavyBall(), out={str(tmp_path / 'a.svg')!r}); "
        "assert 'matplotlib' in sys.modules; assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
