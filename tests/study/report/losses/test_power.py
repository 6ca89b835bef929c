"""How many seeds tell a difference, and what the choice of a point adds: against simulations of known variance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.stats import norm

from proxmom.cli import main
from proxmom.study.report.power import choice_spread, choice_spreads, powers
from proxmom.study.report.results import Losses
from proxmom.study.report.sources import merge, read_source
from proxmom.study.report.statistics import FEWEST, power_of_t, size_for_power, t_mean, variance_factors
from tests.study.report.losses.conftest import STEPS, make_run, sweep

EXPERIMENTS = Path(__file__).parents[4] / "experiments"
DRAWS = 4000
ERROR = 4 * 0.5 / np.sqrt(DRAWS)  # four standard errors of a share


def detected(effect: float, size: int, seed: int = 0) -> float:
    """The share of simulated studies in which the interval of the tables says that there is a difference."""
    samples = effect + np.random.default_rng(seed).standard_normal((DRAWS, size))
    intervals = [t_mean(sample) for sample in samples]
    return sum(not interval.low <= 0 <= interval.high for interval in intervals) / DRAWS


@pytest.mark.parametrize(("effect", "size"), [(0.0, 5), (1.0, 3), (1.0, 5), (-1.0, 5), (2.0, 5), (0.5, 20), (0.3, 100)])
def test_the_power_is_that_of_the_tables_intervals(effect: float, size: int) -> None:
    assert power_of_t(effect, size) == pytest.approx(detected(effect, size), abs=ERROR)


@pytest.mark.parametrize(("effect", "power"), [(3.0, 0.8), (1.0, 0.8), (1.0, 0.9), (0.25, 0.8)])
def test_the_promised_size_is_the_least_with_that_power(effect: float, power: float) -> None:
    size = int(size_for_power(effect, power))
    assert detected(effect, size) >= power - ERROR
    assert size == FEWEST or power_of_t(effect, size - 1) < power


def test_sizes_at_the_ends() -> None:
    assert size_for_power(np.inf, 0.8) == FEWEST
    assert size_for_power(1e-6, 0.8) == np.inf
    assert size_for_power(0.28, 0.8, most=50) == np.inf
    assert size_for_power(1.0, 0.8) == 10  # as tables of sample sizes for paired t tests have it


def test_a_variance_is_known_to_its_factors() -> None:
    low, high = variance_factors(5)
    ratios = 1 / np.random.default_rng(0).standard_normal((DRAWS, 5)).var(axis=1, ddof=1)
    assert np.mean((low <= ratios) & (ratios <= high)) == pytest.approx(0.95, abs=0.02)
    assert np.mean(ratios < low) == pytest.approx(0.025, abs=0.01)


def final_runs(method: str, losses: Any) -> list[Any]:
    return [make_run(method=method, loss=float(loss), seed=seed) for seed, loss in enumerate(losses, 1)]


def study(spread: float, ratio: float = 1.0, seeds: int = 400) -> Losses:
    """A method and its reference, whose logarithms differ by noise of this spread beside much that seeds share."""
    rng = np.random.default_rng(1)
    shared = rng.normal(0, 0.5, seeds)
    own = rng.normal(np.log(ratio), spread, seeds)
    return Losses.of([*final_runs("ref", np.exp(shared)), *final_runs("m", np.exp(shared + own))], STEPS)


def test_seeds_that_a_study_promises_keep_the_promise() -> None:
    """The whole way: from runs of known variance to a number, and with it to studies that tell the difference."""
    [row] = powers(study(spread=0.04), "ref", differences=(0.02, 0.05), power=0.8)["p"]
    assert row.spread == pytest.approx(0.04, rel=0.15)
    for difference, seeds in zip((0.02, 0.05), row.seeds, strict=True):
        effect = np.log1p(difference) / row.spread
        assert 0.8 - ERROR <= detected(effect, int(seeds)) <= 0.8 + ERROR + 0.15  # whole seeds, a few of them
        assert detected(effect, int(0.6 * seeds)) < 0.8 - ERROR


@pytest.mark.parametrize(
    ("ratio", "spread", "word"),
    [(0.9, 0.02, "holds"), (1.1, 0.02, "fails"), (1.0, 0.02, "level"), (1.0, 3, "undecided")],
)
def test_what_is_decided_is_told_from_what_is_not(ratio: float, spread: float, word: str) -> None:
    [row] = powers(study(spread, ratio, seeds=30), "ref")["p"]
    assert row.judged.word == word
    assert (row.judged.more > 0) == (word == "undecided")


@pytest.mark.parametrize(("apart", "noise"), [(0.1, 0.1), (0.1, 0.03), (0.5, 0.2)])
def test_a_choice_of_two_spreads_as_it_must(apart: float, noise: float) -> None:
    wrong = norm.cdf(-apart / (noise * np.sqrt(2)))
    expected = apart * np.sqrt(wrong * (1 - wrong))
    assert choice_spread(np.array([1.0, 1.0 + apart]), noise) == pytest.approx(expected, rel=0.1, abs=1e-3)


def test_a_choice_that_is_none_spreads_nothing() -> None:
    assert choice_spread(np.array([1.0]), 0.5) == 0
    assert choice_spread(np.array([]), 0.5) == 0
    assert choice_spread(np.array([1.0, 1.0, 1.0]), 0.5) == 0
    assert choice_spread(np.array([1.0, 1.0001]), np.nan) == 0
    assert choice_spread(np.array([0.3, 2.0]), 1e-3) == 0


def searched(own: float) -> Losses:
    """Three methods whose seeds share much and have this noise of their own; the third is not searched."""
    rng = np.random.default_rng(2)
    shared = rng.normal(0, 0.5, 40)
    runs: list[Any] = []
    for method in ("a", "b", "c"):
        runs += final_runs(method, np.exp(shared + rng.normal(0, own, 40)))
        runs += [] if method == "c" else sweep(np.exp([0.3, 0.1, 0.0, 0.2]), method=method)
    return Losses.of(runs, STEPS)


def test_the_noise_of_a_choice_is_that_which_seeds_do_not_share() -> None:
    assert choice_spreads(searched(own=1e-6))["p", "a"] < 1e-6
    noisy = choice_spreads(searched(own=0.1))
    expected = choice_spread(np.array([0.3, 0.1, 0.0, 0.2]), 0.1)
    assert noisy["p", "a"] == pytest.approx(expected, rel=0.5)
    assert noisy["p", "c"] == 0
    assert choice_spreads(searched(own=0.1), search_seeds=9)["p", "a"] < 0.6 * noisy["p", "a"]


def test_the_share_of_the_choice_grows_with_the_seeds_that_cannot_lessen_it() -> None:
    results = searched(own=0.1)
    [row, _] = powers(results, "c")["p"]
    assert row.size == 40
    assert row.share == pytest.approx(row.choice**2 / (row.choice**2 + row.spread**2 / 40))
    assert row.share > 0.2


@pytest.mark.parametrize(("study", "medians", "means"), [("vision", 1.2, 1.7), ("language", 1.9, 2.8)])
def test_the_choice_beside_that_of_single_seeds(study: str, medians: float, means: float) -> None:
    """Where three seeds tried each point: what two of them would choose alone, judged by the third one."""
    results = merge([read_source(EXPERIMENTS / "norms" / study)])
    assert isinstance(results, Losses)
    asked, told = [], choice_spreads(results, search_seeds=1)
    for runs in results.tried.values():
        losses = np.log([results.score(run) for run in runs]).reshape(-1, 3)  # ordered by point, then by seed
        chosen = losses[losses.argmin(axis=0)]
        asked.append(np.mean([(chosen[i, k] - chosen[j, k]) ** 2 / 2 for i, j, k in ((0, 1, 2), (0, 2, 1), (1, 2, 0))]))
    squares = np.array([told[pair] ** 2 for pair in results.tried])
    assert np.sqrt(np.median(asked) / np.median(squares)) == pytest.approx(medians, abs=0.05)
    assert np.sqrt(np.mean(asked) / np.mean(squares)) == pytest.approx(means, abs=0.05)


def power(*arguments: Any) -> Any:
    return CliRunner().invoke(main, ["power", *map(str, arguments)])


def test_the_command_shows_a_row_for_each_other_method() -> None:
    folder = EXPERIMENTS / "language/small"
    text = power(folder).output
    assert "  2%  5%  choice  share" in text
    assert len([line for line in text.splitlines() if line.startswith(("AdamW", "AM-AdamW", "MoMo"))]) == 9
    assert "\nAdamW, tuned " not in text, "the reference has no row"
    against = power(folder, "--reference", "AM-AdamW", "--difference", 0.01, "--power", 0.9, "--search-seeds", 3).output
    assert "\nAdamW, tuned " in against
    assert "  1%  choice  share" in against
    assert "power 0.9" in against
    assert "tried by 3 seeds" in against


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("convex/a9a",), "a count of evaluations is certain"),
        (("language/small", "--difference", 0), "difference must be > 0"),
        (("language/small", "--power", 1), "power must be in (0.05, 1), got 1"),
        (("language/small", "--reference", "Adam"), "reference must be a method with finished runs"),
        (("language/small", "--search-seeds", 0), "0 is not in the range"),
    ],
)
def test_what_the_command_refuses(arguments: Any, message: str) -> None:
    result = power(EXPERIMENTS / arguments[0], *arguments[1:])
    assert result.exit_code in (1, 2)
    assert message in " ".join(result.output.split())
