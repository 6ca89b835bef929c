"""Rules in norms against the convex solver, and that the comparison sees what is wrong with a step and with a norm."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
from click.testing import CliRunner

from proxmom import AdaptiveMemory, ConjugateMemory, HeavyBall, Plane, SteadyMemory, TruncatedMemory, cli, mix
from proxmom.memories import Average
from proxmom.metrics import LInf, Spectral
from proxmom.numpy import Optimizer
from proxmom.numpy.measures import split
from proxmom.reference import lengths, objective, shortest, solve_step
from proxmom.rules import Facts
from proxmom.verify import check, check_rule, settings
from proxmom.verify.cases import IN_NORMS, MATRICES, SHAPES
from proxmom.verify.norms import norm_fault, shapes_for

NORMS = [LInf(), LInf("soft"), Spectral(), Spectral("soft")]


@pytest.mark.parametrize("norm", NORMS, ids=str)
@pytest.mark.parametrize("decay", ["decoupled", "coupled"])
def test_the_steps_of_every_rule_are_the_convex_solvers(rule: Any, norm: Any, decay: str) -> None:
    report = check_rule(rule, metric=norm, weight_decay=0.05, decay=decay, trials=4, seed=1)
    asks = isinstance(rule, ConjugateMemory | SteadyMemory)
    assert (report.refused is not None) == (asks or (decay == "coupled" and Facts.of(rule).needs_loss))
    assert report.ok, str(report)


@pytest.mark.parametrize(
    ("norm", "rule"),
    [
        *((norm, TruncatedMemory(0.0)) for norm in NORMS),
        (LInf(), AdaptiveMemory(0.95)),
        (Spectral("soft", scale="match_rms_adamw"), AdaptiveMemory(0.95)),
    ],
    ids=str,
)
def test_every_degenerate_state_is_among_the_trials(norm: Any, rule: Any) -> None:
    report = check_rule(rule, metric=norm, weight_decay=0.05, trials=3 * len(IN_NORMS))
    assert report.ok, str(report)
    assert {trial.case for trial in report.trials} == set(IN_NORMS)
    assert report.worst_figure("gap") < 1e-14  # two planes, to the end


@dataclass(frozen=True)
class Fan:
    """A rule of a user's own: three planes with a slope and a bound."""

    lower_bound: float = 0.0
    beta_max = 0.9
    normalised = True
    needs_loss = True
    memories: ClassVar[dict[str, Any]] = {"slow": Average(0.1)}

    def planes(self, now: Any) -> Any:
        g, memory = now.gradient_plane, now.memory_plane("linearised")
        slow = Plane(now.vector("slow"), -0.1 * now.loss)
        return g, mix(g, memory, now.weight(0.9)), slow, now.floor(self.lower_bound)


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_four_planes_of_a_users_own(norm: Any) -> None:
    report = check_rule(Fan(), metric=norm, weight_decay=0.05, trials=12)
    assert report.ok, str(report)


def test_what_has_no_meaning_in_a_norm_is_refused() -> None:
    for rule in (ConjugateMemory(beta_max=0.9), SteadyMemory()):
        assert "inner products" in str(check_rule(rule, metric=LInf(), trials=1).refused)
    for norm in NORMS:
        assert "inertia must be 0" in str(check_rule(HeavyBall(), metric=norm, inertia=0.1, trials=1).refused)
        assert "got 'proximal'" in str(check_rule(HeavyBall(), metric=norm, decay="proximal", trials=1).refused)
        assert "beta_max must be < 1" in str(check_rule(AdaptiveMemory(1.0), metric=norm, trials=1).refused)


def test_a_setting_that_should_be_refused_and_is_not_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxmom.step.Method._check_pairs", lambda self: None)
    for rule, more in (
        (HeavyBall(), {"decay": "proximal"}),
        (HeavyBall(), {"inertia": 0.1}),
        (SteadyMemory(), {}),
        (ConjugateMemory(beta_max=0.9), {}),
        (AdaptiveMemory(1.0), {}),
    ):
        with pytest.raises(AssertionError, match=r"LInf.*must be refused, and was not"):
            check_rule(rule, metric=LInf(), trials=1, **more)  # type: ignore[arg-type]


def _wrong(change: Any) -> Any:
    """Optimizers whose step is changed."""

    class Wrong(Optimizer):
        def preview(self, gradient: Any, loss: float | None = None) -> Any:
            model = super().preview(gradient, loss)
            led = (1 - model.lr * model.weight_decay) * model.x
            return replace(model, **change(model, led, model.next_x - led))

    return Wrong


MISTAKES: dict[str, Any] = {
    "too long": lambda model, led, move: {"next_x": led + (1 + 1e-5) * move},
    "too short": lambda model, led, move: {"next_x": led + (1 - 1e-5) * move},
    "one coordinate": lambda model, led, move: {"next_x": led + move * (np.arange(12) > 0)},
    "no decay": lambda model, led, move: {"next_x": model.x + move},
    "weights": lambda model, led, move: {"weights": model.weights[::-1]},
    "gap": lambda model, led, move: {"gap": 1.0},
}


@pytest.mark.parametrize("norm", NORMS, ids=str)
@pytest.mark.parametrize("name", MISTAKES)
def test_a_wrong_step_is_seen(name: str, norm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "Optimizer", _wrong(MISTAKES[name]))
    for rule in (AdaptiveMemory(), TruncatedMemory(0.0)):
        report = check_rule(rule, metric=norm, weight_decay=0.05, trials=10)
        assert not report.ok, name


def test_a_step_that_reaches_the_floor_and_goes_on_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def longer(model: Any, led: Any, move: Any) -> Any:
        """On along the move, as far as lr and the floor allow."""
        here = np.abs(move).max() < 0.9 * model.lr and model.weights[-1] == 1
        return {"next_x": led + (1 + 1e-5) * move} if here else {}

    monkeypatch.setattr(check, "Optimizer", _wrong(longer))
    report = check_rule(TruncatedMemory(0.0), metric=LInf(), trials=12)
    assert not report.ok
    assert report.worst_figure("gap") < 1e-14
    assert report.worst_figure("excess") < 1e-9
    assert report.worst_figure("error") == pytest.approx(1e-5, rel=1e-2)


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_the_reference_is_a_minimiser_of_the_stated_objective(norm: Any) -> None:
    random = np.random.default_rng(0)
    x = split(random.normal(size=12), MATRICES)
    optimizer = Optimizer(x, AdaptiveMemory(), lr=0.3, weight_decay=0.1, metric=norm)
    for _ in range(3):
        optimizer.step(split(random.normal(size=12), MATRICES))
    model = optimizer.preview(split(random.normal(size=12), MATRICES))
    move = solve_step(model)
    best = objective(model, move)
    assert lengths(norm, MATRICES, move).max() <= 0.3 * (1 + 1e-7) or norm.form == "soft"
    assert shortest(model) == np.inf  # there is no floor
    for size in (1e-1, 1e-3):
        for _ in range(10):
            other = move + size * random.normal(size=12)
            if norm.form == "hard":
                other *= min(1.0, 0.3 / lengths(norm, MATRICES, other).max())
            assert objective(model, other) >= best - 1e-8 * abs(best)


def test_the_objective_in_a_norm_by_hand() -> None:
    model = Optimizer([1.0, 2.0], HeavyBall(), lr=0.1, weight_decay=0.5, metric=LInf("soft")).preview([1.0, -3.0])
    move = np.array([0.2, 0.4])
    (height,), (slope,) = model.heights, model.slopes
    moved = move - 0.1 * 0.5 * np.array([1.0, 2.0])
    assert objective(model, move) == pytest.approx(height + slope @ moved + 0.4**2 / 0.2, rel=1e-12)


def test_matrices_alone_are_shown_where_a_norm_wants_them() -> None:
    assert shapes_for(LInf()) == SHAPES
    assert shapes_for(Spectral()) == MATRICES
    assert sum(int(np.prod(shape)) for shape in MATRICES) == 12


def test_approximate_directions_are_not_verified() -> None:
    with pytest.raises(ValueError, match=r"must have exact steepest directions.*newton-schulz.*Verify polar='exact'"):
        check_rule(HeavyBall(), metric=Spectral(polar="newton-schulz"), trials=1)
    result = CliRunner().invoke(cli.main, ["verify", "HeavyBall", "--metric", "Spectral(polar='newton-schulz')"])
    assert result.exit_code == 1
    assert "Verify polar='exact'" in " ".join(result.output.split())


@dataclass(frozen=True)
class Own(LInf):
    """The maximum norm with one mistake."""

    wrong: str = ""
    recalls: ClassVar[bool] = False  # type: ignore[assignment]

    def steepest(self, slope: Any) -> Any:
        dual, v = super().steepest(slope)
        if self.wrong == "dual":
            return 1.1 * dual, v
        if self.wrong == "long":
            return 1.1 * dual, 1.1 * v
        if self.wrong == "at zero":
            return dual, v + (slope == 0)
        if self.wrong == "another":  # no norm: the largest element alone is moved where it is the first
            v = v * (np.arange(v.size).reshape(v.shape) == 0) if np.abs(slope).argmax() == 0 else v
            return (v * slope).sum(), v
        if self.wrong == "asymmetric":
            v = np.where(slope > 0, v, v / 2)
            return (v * slope).sum(), v
        if self.wrong == "power":
            return dual, v * min(dual, 1.0)
        if self.wrong == "shape":
            return dual, v.ravel()[None, None]
        if self.wrong == "nan":
            return dual, v + np.where(slope == 0, 0.0, np.nan)
        if self.wrong == "blind":
            return 0 * dual, 0 * v
        return dual, v


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("dual", "not reached"),
        ("long", r"exceeded: ||v|| is 1.1"),
        ("at zero", "not zero at zero"),
        ("another", "the direction of another slope goes further"),
        ("asymmetric", "not symmetric"),
        ("power", "not reached"),
        ("shape", "without a finite direction"),
        ("nan", "without a finite direction"),
        ("blind", "zero at a slope that is not"),
    ],
)
def test_what_is_no_norm_is_named(wrong: str, said: str) -> None:
    slopes = np.random.default_rng(0).normal(size=(2, 12))
    assert norm_fault(Own(), SHAPES, slopes) is None
    fault = norm_fault(Own(wrong=wrong), SHAPES, slopes)
    assert fault is not None
    assert said in fault


def test_a_report_says_that_the_norm_is_at_fault() -> None:
    report = check_rule(HeavyBall(), metric=Own(wrong="asymmetric"), trials=2)
    assert not report.ok
    assert "the norm is not symmetric" in report.worst("error").case


class Silent:
    """A norm without an expression."""

    form, calls = "hard", 4

    def steepest(self, slope: Any) -> Any:
        return np.abs(slope).sum(), np.sign(slope)


def test_a_norm_without_an_expression_is_told_what_to_add() -> None:
    with pytest.raises(TypeError, match=r"Silent must have expression\(cvxpy, move\).*Add it.*cvxpy\.norm_inf"):
        check_rule(HeavyBall(), metric=Silent(), trials=1)


def test_a_norm_of_ones_own_is_verified() -> None:
    class Telling(Silent):
        form = "soft"

        def expression(self, cvxpy: Any, move: Any) -> Any:
            return cvxpy.norm_inf(move)

    assert check_rule(AdaptiveMemory(), metric=Telling(), trials=12).ok is False  # four slopes are too few
    Telling.calls = 40
    assert check_rule(AdaptiveMemory(), metric=Telling(), trials=12).ok


def test_the_table_holds_norms_in_both_forms_and_tries_proximal_decay_once() -> None:
    rows = [setting for setting in settings.grid() if "LInf" in setting.metric or "Spectral" in setting.metric]
    assert {row.metric for row in rows} == {"LInf", "Spectral", "LInf(form='soft')", "Spectral(form='soft')"}
    assert {row.inertia for row in rows} == {0.0}
    assert [row.decay for row in rows].count("proximal") == 1
    assert len(rows) == len(settings.all_rules()) * 4 * 3 + 1
    few = settings.grid(["HeavyBall"], ["LInf", "Spectral(form='soft')"], weight_decays=[0.1], decays=["decoupled"])
    assert len(few) == 2
    text = settings.table(list(settings.check_settings(few, trials=1, seed=0)))
    assert "LInf " in text
    assert "Spectral soft" in text
