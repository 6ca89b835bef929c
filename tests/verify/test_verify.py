"""Every rule against the convex solver, and that the comparison sees what is wrong."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
from click.testing import CliRunner

from proxmom import Adam, AdaptiveMemory, Euclidean, HeavyBall, Plane, TruncatedMemory, cli, mix, reference
from proxmom.memories import Average
from proxmom.numpy import Optimizer
from proxmom.reference import objective, solve_step
from proxmom.rules import Facts
from proxmom.verify import check, check_rule, settings
from proxmom.verify.cases import CASES

DECAYS = [(0.0, "proximal"), (0.05, "proximal"), (0.05, "decoupled"), (0.05, "coupled")]

EACH = 3 * len(CASES) - 5  # trials, so that every degenerate state is among them


@pytest.mark.parametrize("inertia", [0.0, 0.1])
@pytest.mark.parametrize(("weight_decay", "decay"), DECAYS)
def test_steps_are_the_convex_solvers(rule: Any, metric: Any, inertia: float, weight_decay: float, decay: str) -> None:
    report = check_rule(
        rule, metric=metric, inertia=inertia, weight_decay=weight_decay, decay=decay, trials=EACH, seed=1
    )
    refused = Facts.of(rule).needs_loss and (inertia > 0 or decay == "coupled")
    assert (report.refused is not None) == refused
    assert report.ok, str(report)
    assert refused or {trial.case for trial in report.trials} == set(CASES)


@dataclass(frozen=True)
class Wide:
    """A rule of a user's own: four planes, two of them mixtures, the last a bound."""

    lower_bound: float = 0.0
    beta_max = 0.9
    normalised = True
    needs_loss = True

    def planes(self, now: Any) -> Any:
        g = now.gradient_plane
        memory, cut = now.memory_plane("linearised"), now.memory_plane("cutting plane")
        return g, mix(g, memory, now.weight(0.9)), mix(g, cut, now.weight(0.5)), now.floor(self.lower_bound)


def test_four_planes_of_a_users_own() -> None:
    for metric in (Euclidean(), Adam()):
        report = check_rule(Wide(), metric=metric, weight_decay=0.1, trials=100)
        assert report.ok, str(report)


@dataclass(frozen=True)
class Fan:
    """A rule of a user's own: seven planes of four slopes, four of them mixtures, two averages, the last a bound."""

    lower_bound: float = 0.0
    beta_max = 0.9
    normalised = True
    needs_loss = True
    memories: ClassVar[dict[str, Any]] = {"slow": Average(0.1)}

    def planes(self, now: Any) -> Any:
        g = now.gradient_plane
        memory, cut = now.memory_plane("linearised"), now.memory_plane("cutting plane")
        mixed = [mix(g, plane, now.weight(beta)) for plane in (memory, cut) for beta in (0.9, 0.5)]
        slow = Plane(now.vector("slow"), -0.1 * now.dot(now.gradient, now.gradient))
        return (g, *mixed, slow, now.floor(self.lower_bound))


def test_seven_planes_of_a_users_own() -> None:
    for metric in (Euclidean(), Adam()):
        report = check_rule(Fan(), metric=metric, weight_decay=0.1, trials=40)
        assert report.ok, str(report)
        assert report.worst_figure("gap") < 1e-14


def _wrong(name: str) -> Any:
    """Optimizers with one deliberate error each."""

    class Wrong(Optimizer):
        def preview(self, gradient: Any, loss: float | None = None) -> Any:
            model = super().preview(gradient, loss)
            if name == "move":
                return replace(model, next_x=model.x + 1.0001 * (model.next_x - model.x))
            if name == "weights":
                return replace(model, weights=model.weights[::-1])
            return replace(model, next_x=model.next_x * (1 + 1e-4))

    return Wrong


@pytest.mark.parametrize("name", ["move", "weights", "decay"])
def test_a_wrong_step_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "Optimizer", _wrong(name))
    for rule in (AdaptiveMemory(), TruncatedMemory(0.0)):
        report = check_rule(rule, trials=9, weight_decay=0.05)
        assert not report.ok
        assert "FAILED" in str(report)


@dataclass(frozen=True)
class Branching:
    """A rule with an error that one model of planes does not show."""

    error: str
    beta_max = 0.9

    def planes(self, now: Any) -> Any:
        size = now.dot(now.gradient, now.gradient)
        if self.error == "branch":
            beta = 0.9 if size > 1 else 0.5
        else:
            beta = 0.9 * size / size.max() if self.error == "mixes models" else 0.9 + 0 * size
        return (mix(now.gradient_plane, now.memory_plane(0.0), beta),)


def test_a_rule_that_takes_one_model_only_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Branching takes one model of planes.*ambiguous.*xp\.where in place of if"):
        check_rule(Branching("branch"), trials=1)
    with pytest.raises(ValueError, match=r"Branching gives other directions for several models"):
        check_rule(Branching("mixes models"), trials=1)
    assert check_rule(Branching("none"), trials=3).ok


def test_a_trial_depends_on_its_seed_and_number_alone() -> None:
    few, many = (check_rule(AdaptiveMemory(), trials=trials, seed=7).trials for trials in (5, 9))
    assert few == many[:5]
    assert few != check_rule(AdaptiveMemory(), trials=5, seed=8).trials


def test_degenerate_cases_are_among_the_trials() -> None:
    seen = {trial.case for trial in check_rule(HeavyBall(), trials=3 * len(CASES)).trials}
    assert seen == set(CASES)


def test_a_rule_that_should_refuse_inertia_and_does_not_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxmom.step.Method._check_pairs", lambda self: None)
    with pytest.raises(AssertionError, match=r"TruncatedMemory.*inertia 0\.1.*must be refused"):
        check_rule(TruncatedMemory(0.0), inertia=0.1, trials=1)
    with pytest.raises(AssertionError, match=r"AdaptiveMemory.*Adam.*must be refused"):
        check_rule(AdaptiveMemory(1.0), metric=Adam(), trials=1)


def test_the_reference_is_a_minimiser_of_the_stated_objective() -> None:
    """The objective is written out in the move; no nearby move may be better."""
    random = np.random.default_rng(0)
    optimizer = Optimizer(random.normal(size=5), AdaptiveMemory(), lr=0.3, inertia=0.2, weight_decay=0.1, metric=Adam())
    for _ in range(3):
        optimizer.step(random.normal(size=5))
    model = optimizer.preview(random.normal(size=5))
    move = solve_step(model)
    best = objective(model, move)
    for size in (1e-1, 1e-3, 1e-5):
        for _ in range(20):
            assert objective(model, move + size * random.normal(size=5)) >= best - 1e-12 * abs(best)


@pytest.mark.parametrize("missing", ["clarabel", "cvxpy"])
def test_what_is_not_installed_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    reference._problem.cache_clear()
    said = rf"needs the verify extra: pip install 'proxmom\[verify\]' \(.*{missing}"
    with pytest.raises(ImportError, match=said):
        check_rule(HeavyBall(), trials=1)
    result = CliRunner().invoke(cli.main, ["verify", "HeavyBall", "--trials", "1"])
    assert result.exit_code != 0
    assert re.search(said, " ".join(result.output.split()))
    assert "Traceback" not in result.output


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"trials must be >= 1, got 0"):
        check_rule(HeavyBall(), trials=0)
    with pytest.raises(ValueError, match=r"seed must be >= 0, got -1"):
        check_rule(HeavyBall(), seed=-1)
    with pytest.raises(ValueError, match=r"jobs must be >= 1, got 0"):
        next(settings.check_settings(settings.grid(["HeavyBall"]), trials=1, seed=0, jobs=0))
    with pytest.raises(ValueError, match=r"no trial was made.*looks at the loss|no trial was made.*inertia"):
        check_rule(TruncatedMemory(0.0), inertia=0.1).worst("error")
    with pytest.raises(ValueError, match=r"decay must be one of"):
        settings.check_names(settings.grid(["HeavyBall"], weight_decays=[0.1], decays=["strong"]))


def test_the_grid_holds_everything_and_the_table_says_the_worst() -> None:
    every = settings.grid()
    # diagonals, other metrics, norms, and one row for a norm that refuses proximal decay
    assert len(every) == len(settings.all_rules()) * (3 * 2 * 4 + 3 * 4 + 4 * 3) + 1
    reports = list(settings.check_settings(every, trials=1, seed=0, jobs=2))  # none stops the others
    assert all(report.ok for report in reports)
    few = settings.grid(["AdaptiveMemory", "Polyak"], ["Euclidean"], [0.1], [0.0])
    text = settings.table(list(settings.check_settings(few, trials=4, seed=0)))
    assert "refused, as it must be" in text
    assert "4 steps compared, seed 0: worst error" in text
