"""The solver: certified optimal on every input, and the defined answers where the optimum is not unique."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize as scipy_minimize

from proxmom.certify import certify
from proxmom.solve import weights

Problem = tuple[Any, Any]  # slopes (K, n), heights (K,)


def solve(slopes: Any, heights: Any, **settings: Any) -> Any:
    return weights(heights, slopes @ slopes.T, **settings)


@st.composite
def problems(draw: Any, low: int = 1, high: int = 7) -> Problem:
    """Small whole numbers: they shrink to readable cases, and meet every degeneracy (equal, parallel, zero slopes)."""
    count, size = draw(st.integers(low, high)), draw(st.integers(1, 4))
    whole = st.integers(-3, 3).map(float)
    slopes, heights = draw(arrays(float, (count, size), elements=whole)), draw(arrays(float, count, elements=whole))
    scale = draw(st.sampled_from([1.0, 1e-3, 1e3]))
    return slopes * scale, heights


def step(problem: Problem) -> Any:
    """What the weights stand for: unique, where the weights may not be."""
    slopes, heights = problem
    return solve(slopes, heights) @ slopes


@given(problems())
def test_weights_are_certified_optimal(problem: Problem) -> None:
    slopes, heights = problem
    q = slopes @ slopes.T
    proof = certify(heights, q, solve(slopes, heights))
    scale = max(np.abs(heights).max(), np.abs(q).max(), 1e-300)
    assert -1e-14 * scale <= proof.gap <= 1e-13 * scale
    assert proof.kkt <= 1e-13 * max(scale, 1)
    assert proof.primal - proof.dual == pytest.approx(proof.gap, abs=1e-12 * scale)


def test_agrees_with_a_general_purpose_solver(random: np.random.Generator) -> None:
    for count in (2, 3, 4, 5, 9):
        slopes, heights = random.normal(size=(count, 5)), random.normal(size=count)
        q = slopes @ slopes.T
        found = scipy_minimize(
            lambda w, q=q, h=heights: w @ q @ w / 2 - h @ w,
            np.full(count, 1 / count),
            jac=lambda w, q=q, h=heights: q @ w - h,
            bounds=[(0, 1)] * count,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
            options={"ftol": 1e-15, "maxiter": 500},
        )
        np.testing.assert_allclose(solve(slopes, heights), found.x, atol=1e-6)


@given(problems(low=2), st.data())
def test_permuting_the_planes_permutes_nothing_else(problem: Problem, data: Any) -> None:
    slopes, heights = problem
    order = data.draw(st.permutations(range(len(heights))))
    np.testing.assert_allclose(step((slopes[order], heights[order])), step(problem), atol=_rounding(problem))


@given(problems(high=6), st.data())
def test_a_duplicate_plane_changes_nothing(problem: Problem, data: Any) -> None:
    slopes, heights = problem
    again = data.draw(st.integers(0, len(heights) - 1))
    double = np.vstack([slopes, slopes[again]]), np.append(heights, heights[again])
    np.testing.assert_allclose(step(double), step(problem), atol=_rounding(problem))


@given(problems(high=6), st.floats(0, 1))
def test_a_plane_below_the_model_changes_nothing(problem: Problem, share: float) -> None:
    slopes, heights = problem
    w = solve(slopes, heights)
    z = -w @ slopes  # the move; a plane through the model's value there, lowered by one, is never active at it
    slope = share * slopes[0]
    height = (heights + slopes @ z).max() - slope @ z - 1
    more = np.vstack([slopes, slope]), np.append(heights, height)
    np.testing.assert_allclose(step(more), step(problem), atol=_rounding(problem))


@given(problems(), st.sampled_from([2.0**-20, 0.5, 4.0, 2.0**20]))
def test_scaling_the_model_changes_no_weight(problem: Problem, factor: float) -> None:
    slopes, heights = problem
    q = slopes @ slopes.T
    np.testing.assert_array_equal(weights(factor * heights, factor * q), weights(heights, q))


def _rounding(problem: Problem) -> float:
    """What rounding of heights and products can do to a step: heights h move it by about eps·h / |slope|."""
    slope, height = np.abs(problem[0]).max(), np.abs(problem[1]).max()
    return float(1e-12 * (slope + height / slope)) if slope > 0 else 0.0


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6])
def test_zero_step_size_picks_the_highest_plane_and_the_last_of_equals(count: int) -> None:
    for heights in itertools.product([0.0, 1.0], repeat=count):
        w = weights(np.array(heights), np.zeros((count, count)))
        last_of_highest = max(k for k in range(count) if heights[k] == max(heights))
        np.testing.assert_array_equal(w, np.eye(count)[last_of_highest])


def test_a_floor_never_wins_a_tie() -> None:
    zero = np.zeros((2, 2))
    np.testing.assert_array_equal(weights(np.zeros(2), zero, floors=(1,)), [1, 0])
    np.testing.assert_array_equal(weights(np.zeros(3), np.zeros((3, 3)), floors=(2,)), [0, 1, 0])
    np.testing.assert_array_equal(weights(np.zeros(5), np.zeros((5, 5)), floors=(2, 4)), [0, 0, 0, 1, 0])
    np.testing.assert_array_equal(weights(np.array([0.0, 1.0]), zero, floors=(1,)), [0, 1])  # higher: it wins


def test_three_planes_on_a_line_divide_by_nothing(random: np.random.Generator) -> None:
    """Rounding can make a zero pivot look sound; a warning would be an error here."""
    for _ in range(500):
        slope = random.normal(size=5)
        slopes = np.array([slope, slope * (1 + 1e-16), slope * random.choice([1.0, 0.3, -2.0]), slope])
        assert np.isfinite(solve(slopes, random.normal(size=4))).all()


def test_coinciding_slopes_at_rounding_level_are_decided_by_height() -> None:
    slope = np.array([1.0, 2.0, 3.0])
    slopes = np.array([slope, slope * (1 + 1e-15)])
    q = slopes @ slopes.T
    noise = np.array([1e-17, 0.0])  # c differs by rounding alone: the heights are equal, so the last named counts
    np.testing.assert_array_equal(weights(noise, q, heights=np.zeros(2)), [0, 1])
    np.testing.assert_array_equal(weights(noise, q, heights=np.array([1e-9, 0.0])), [1, 0])


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_batch_is_its_members_and_torch_is_numpy(count: int, random: np.random.Generator) -> None:
    slopes = random.integers(-2, 3, size=(6, 7, count, 3)).astype(float)
    heights = random.integers(-2, 3, size=(6, 7, count)).astype(float)
    q = slopes @ slopes.swapaxes(-1, -2)
    batch = weights(heights, q)
    for index in np.ndindex(6, 7):
        np.testing.assert_allclose(batch[index], weights(heights[index], q[index]), atol=1e-14)
    on_torch = weights(torch.tensor(heights), torch.tensor(q))
    np.testing.assert_allclose(on_torch.numpy(), batch, atol=1e-14)


def test_torch_needs_no_values_on_the_host() -> None:
    """On the meta device tensors have no values: any branch on data, .item() or conversion to NumPy would raise."""
    for count in (1, 2, 3, 4, 5, 16):
        w = weights(torch.empty(5, count, device="meta"), torch.empty(5, count, count, device="meta"))
        assert w.shape == (5, count)


@pytest.mark.parametrize("count", [0, 17])
def test_too_many_or_no_planes(count: int) -> None:
    with pytest.raises(ValueError, match=rf"1 to 16 planes, got {count}"):
        weights(np.zeros(count), np.zeros((count, count)))


def test_certificate_sees_wrong_weights(random: np.random.Generator) -> None:
    slopes, heights = random.normal(size=(3, 5)), random.normal(size=3)
    q, w = slopes @ slopes.T, solve(slopes, heights)
    for wrong in (np.roll(w, 1), np.eye(3)[0] * 0.5 + w * 0.5, w * 1.01):
        proof = certify(heights, q, wrong)
        assert max(proof.gap, proof.kkt) > 1e-4


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("apart", "is_one"), [(8, True), (9, False)])
@pytest.mark.parametrize("count", [2, 3])
def test_slopes_within_eight_eps_are_one(count: int, apart: int, is_one: bool, dtype: Any) -> None:
    """Their squared distance, to the sum of their squares; then the higher counts, else the one that c favours."""
    linear, heights = np.zeros(count, dtype), np.zeros(count, dtype)
    linear[1], heights[0] = 1, 1
    quadratic = np.full((count, count), 1 - apart * np.finfo(dtype).eps, dtype)
    quadratic[range(count), range(count)] = 1
    if count == 3:
        linear[2] = heights[2] = -10
    found = weights(linear, quadratic, heights=heights)
    np.testing.assert_array_equal(found, np.eye(count)[0 if is_one else 1])
