"""Every problem: values, gradients, names, arguments."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import check_grad
from threadpoolctl import threadpool_limits

pytest.importorskip("sklearn")


from proxmom.study.problems import collection
from proxmom.study.problems import data as datasets
from proxmom.study.problems.collection import PROBLEMS, build_problem
from proxmom.study.problems.losses import Huber, LinearModel, Logistic, LogSumExp, SmoothedHinge, SmoothedL1, Softmax
from proxmom.study.problems.nonconvex import Factorisation, GemanMcClure, Rosenbrock
from tests.study.problems.conftest import CLASSICS, MORE, QUICK, near


@pytest.fixture(params=[*QUICK.values(), *CLASSICS.values()], ids=[*QUICK, *CLASSICS])
def quick(request: pytest.FixtureRequest) -> Any:
    """One of each kind, and more."""
    kind, arguments = request.param
    return build_problem(kind, **arguments)


def test_every_kind_is_tested() -> None:
    assert {kind for kind, _ in (QUICK | CLASSICS).values()} == set(PROBLEMS)


def test_only_the_classics_are_not_convex(any_problem: Any, request: pytest.FixtureRequest) -> None:
    assert any_problem.convex == (request.node.callspec.id not in CLASSICS)


def test_convex_problems_lie_above_their_tangents(problem: Any) -> None:
    rng = np.random.default_rng(20)
    for scale in (1e-2, 1.0, 10.0):
        x, y = (problem.x0 + scale * rng.standard_normal(problem.x0.size) for _ in range(2))
        (fx, gx), (fy, _) = problem.fun(x), problem.fun(y)
        assert fy >= fx + gx @ (y - x) - 1e-12 * (abs(fx) + abs(fy))


# Functions
def test_gradient_agrees_with_finite_differences(any_problem: Any) -> None:
    x = near(any_problem, 0)
    direction = np.random.default_rng(1).standard_normal(x.size)
    direction /= np.linalg.norm(direction)

    def along(t: Any) -> Any:
        return any_problem.fun(x + t[0] * direction)[0]

    def slope(t: Any) -> Any:
        return np.array([any_problem.fun(x + t[0] * direction)[1] @ direction])

    # Huber's gradient has kinks, so the one-sided difference is only first-order accurate there.
    assert check_grad(along, slope, np.zeros(1)) < 1e-5 * (1 + abs(slope([0.0])[0]))


def test_every_entry_of_the_gradient_agrees_with_finite_differences(quick: Any) -> None:
    x = near(quick, 2)
    entries = np.arange(x.size) if x.size <= 100 else np.arange(0, x.size, 37)
    step = 1e-6
    gradient = quick.fun(x)[1]
    for i in entries:
        move = np.zeros(x.size)
        move[i] = step
        difference = (quick.fun(x + move)[0] - quick.fun(x - move)[0]) / (2 * step)
        assert difference == pytest.approx(gradient[i], abs=1e-6)


def test_value_and_gradient_are_float64_of_the_right_shape(any_problem: Any) -> None:
    f, g = any_problem.fun(any_problem.x0)
    assert type(f) is float
    assert g.dtype == np.float64
    assert g.shape == any_problem.x0.shape
    assert g is not any_problem.fun(any_problem.x0)[1]


def test_evaluations_do_not_write_into_the_point_or_earlier_gradients(any_problem: Any) -> None:
    x = near(any_problem, 3)
    before, (_, first) = x.copy(), any_problem.fun(x)
    kept = first.copy()
    any_problem.fun(2 * x)
    assert np.array_equal(x, before)
    assert np.array_equal(first, kept)
    assert not any_problem.x0.flags.writeable


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["logistic", "softmax"])
def test_losses_are_stable_far_away(kind: Any) -> None:
    problem = build_problem(kind)
    for scale in (1e3, -1e3, 1e6):
        f, g = problem.fun(scale * near(problem, 4))
        assert np.isfinite(f)
        assert np.isfinite(g).all()


def test_losses_equal_their_definitions() -> None:
    rng = np.random.default_rng(0)
    matrix, x = rng.standard_normal((7, 3)), rng.standard_normal(3)
    r = matrix @ x - 0.2
    smooth = LinearModel(Logistic(), matrix, 0.2, 0.5)(x)[0]
    assert smooth == pytest.approx(np.mean(np.log(1 + np.exp(r))) + 0.25 * x @ x)
    robust = LinearModel(Huber(0.4), matrix, 0.2, 0.0)(x)[0]
    assert robust == pytest.approx(np.mean(np.where(abs(r) <= 0.4, r**2 / 2, 0.4 * abs(r) - 0.08)))
    assert LinearModel(Huber(np.inf), matrix, 0.2, 0.0)(x)[0] == pytest.approx(np.mean(r**2) / 2)
    weights, classes = rng.standard_normal((4, 3)), rng.integers(0, 4, 7)
    scores = matrix @ weights.T
    hinge = LinearModel(SmoothedHinge(0.4), matrix, 0.2, 0.0)(x)[0]
    assert hinge == pytest.approx(np.mean(np.where(r < -1, 0, np.where(r < -0.6, (1 + r) ** 2 / 0.8, 0.8 + r))))
    saturating = LinearModel(GemanMcClure(), matrix, 0.2, 0.0)(x)[0]
    assert saturating == pytest.approx(np.mean(0.5 * r**2 / (1 + r**2)))
    sparse_model = SmoothedL1(LinearModel(Huber(np.inf), matrix, 0.2, 0.0), 0.3, 0.1)(x)[0]
    assert sparse_model == pytest.approx(np.mean(r**2) / 2 + 0.3 * np.sum(np.sqrt(x**2 + 0.01) - 0.1))
    peak = LogSumExp(matrix, np.full(7, 0.2), 0.3, 0.5)(x)[0]
    assert peak == pytest.approx(0.3 * np.log(np.mean(np.exp(r / 0.3))) + 0.25 * x @ x)
    u, v = rng.standard_normal((4, 2)), rng.standard_normal((3, 2))
    product = Factorisation(matrix[:4], 2)(np.concatenate([u.ravel(), v.ravel()]))[0]
    assert product == pytest.approx(0.5 * np.sum((u @ v.T - matrix[:4]) ** 2))
    assert Rosenbrock(10.0)(np.array([2.0, 1.0]))[0] == pytest.approx(1 + 10 * 9)
    expected = np.mean(np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(7), classes])
    objective = Softmax(matrix, (classes == np.arange(4)[:, None]).astype(float), 0.5)
    assert objective(weights.ravel())[0] == pytest.approx(expected + 0.25 * np.sum(weights**2))


def test_softmax_of_two_classes_has_the_optimum_of_logistic_regression() -> None:
    # With weights ±x/2 the loss is the same and the penalty half as large.
    two = build_problem("softmax", data="breast_cancer", l2=2e-3)
    one = build_problem("logistic", data="breast_cancer", l2=1e-3)
    assert two.optimum == pytest.approx(one.optimum, abs=1e-11)


def test_hessians_agree_with_differences_of_the_gradient_and_with_their_products(quick: Any) -> None:
    x, v = near(quick, 5), np.random.default_rng(6).standard_normal(quick.x0.size)
    step = 1e-7
    difference = (quick.fun(x + step * v)[1] - quick.fun(x - step * v)[1]) / (2 * step)
    product = quick.fun.product(x)(v)
    assert np.allclose(quick.fun.hessian(x) @ v, product, rtol=1e-10, atol=1e-12)
    assert np.linalg.norm(product - difference) <= 1e-5 * np.linalg.norm(product)


@pytest.mark.parametrize("kind", ["logistic", "softmax", "huber"])
def test_sparse_and_dense_features_give_the_same_function(kind: Any) -> None:
    dense = build_problem(kind).fun
    matrix = sparse.csr_array(dense.matrix)
    if kind == "softmax":
        other = Softmax(matrix, dense.one_hot, dense.l2)
    else:
        other = LinearModel(dense.loss, matrix, dense.offset, dense.l2)
    x = near(build_problem(kind), 7)
    assert other(x)[0] == pytest.approx(dense(x)[0], rel=1e-13)
    assert np.allclose(other(x)[1], dense(x)[1], rtol=1e-11, atol=1e-14)
    assert np.allclose(other.hessian(x), dense.hessian(x), rtol=1e-10, atol=1e-13)
    assert np.allclose(other.product(x)(x), dense.product(x)(x), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(
    ("spectrum", "expected"),
    [
        ("linear", np.linspace(0.01, 1, 10)),
        ("clusters", [0.01, 0.0125, 0.015, 0.0175, 0.02, 0.5, 0.625, 0.75, 0.875, 1]),
    ],
)
def test_spectra(spectrum: Any, expected: Any) -> None:
    problem = build_problem("quadratic", condition=100, n=10, spectrum=spectrum)
    np.testing.assert_allclose(np.linalg.eigvalsh(problem.fun.matrix), expected, rtol=1e-9)


# Building
def test_problems_are_built_once_and_names_can_be_replaced() -> None:
    first, again = build_problem("logistic", l2=1e-3), build_problem("logistic", l2=1e-3)
    named = build_problem("logistic", l2=1e-3, name="mine")
    assert again is first
    assert named.name == "mine"
    assert named.fun is first.fun
    assert build_problem("logistic", l2=1e-2) is not first
    build_problem("huber", delta=1)
    with pytest.raises(TypeError, match="delta"):
        build_problem("huber", delta=True)


def test_names_tell_problems_apart() -> None:
    problems = [build_problem(kind, **arguments) for kind, arguments in [*QUICK.values(), *MORE.values()]]
    assert len({problem.name for problem in problems}) == len(problems)
    assert build_problem("quadratic", condition=1e4).name == "quadratic, condition 10000, n 100"


def test_problems_travel_to_other_processes(quick: Any) -> None:
    copy = pickle.loads(pickle.dumps(quick))
    assert copy.fun(copy.x0)[0] == quick.fun(quick.x0)[0]


def test_seeds_change_the_problem_and_nothing_else_does() -> None:
    one, other = build_problem("quadratic", seed=1), build_problem("quadratic", seed=2)
    assert not np.allclose(one.x0, other.x0)
    assert np.array_equal(datasets.synthetic(seed=1).features, datasets.synthetic(seed=1).features)
    assert not np.allclose(datasets.synthetic(seed=1).features, datasets.synthetic(seed=2).features)


SENSITIVE = {  # with two threads OpenBLAS adds their products in another order
    "softmax": ("softmax", {"data": "digits", "l2": 1e-3}),
    "least squares": ("least_squares", {"data": "synthetic", "n": 200, "samples": 400}),
}


@pytest.mark.parametrize(("kind", "arguments"), SENSITIVE.values(), ids=SENSITIVE)
def test_bits_do_not_depend_on_the_number_of_threads(kind: str, arguments: Any) -> None:
    def bits(threads: int) -> tuple[Any, ...]:
        collection._build.cache_clear()
        with threadpool_limits(threads):
            problem = build_problem(kind, **arguments)
        return problem.x0.tobytes(), *map(float.hex, (problem.smoothness, problem.optimum, problem.certificate))

    assert bits(1) == bits(2)


# Errors: (kind, arguments, what the message must say)
VALUE_ERRORS = {
    "kind": (
        "lasso",
        {},
        r"kind must be one of quadratic, logistic, softmax, least_squares, .*factorisation, literature, got 'lasso'",
    ),
    "argument": ("quadratic", {"cond": 10}, r"quadratic takes condition, n, seed, spectrum and name, got 'cond'"),
    "data name": (
        "logistic",
        {"data": "iris"},
        r"one of breast_cancer, digits, digits 0-1 .*diabetes, synthetic, or the path",
    ),
    "relative file": ("logistic", {"data": "gone.txt"}, r"no data directory was given.*--data.*PROXMOM_DATA"),
    "absolute file": ("logistic", {"data": "/gone/x"}, r"no file /gone/x.*--data.*PROXMOM_DATA"),
    "file in data_dir": ("huber", {"data": "x.gz", "data_dir": Path("/gone")}, r"no file /gone/x\.gz"),
    "ten classes": ("logistic", {"data": "digits"}, r"two labels, digits has 10 \(0, 1, .*softmax"),
    "real labels": ("softmax", {"data": "diabetes"}, r"whole numbers as labels, diabetes has 214"),
    "no regression": ("logistic", {"data": "synthetic"}, r"real target: use kind least_squares or huber"),
    "only synthetic": (
        "huber",
        {"data": "diabetes", "n": 5},
        r"n: only for data = 'synthetic', got .*diabetes",
    ),
    "l2 zero": ("logistic", {"l2": 0}, r"l2 must be > 0 and finite, got 0"),
    "l2 negative": ("least_squares", {"l2": -1}, r"l2 must be >= 0 and finite, got -1"),
    "l2 nan": ("huber", {"l2": float("nan")}, r"l2 must be >= 0 and finite, got nan"),
    "delta": ("huber", {"delta": 0.0}, r"delta must be > 0 and finite, got 0"),
    "condition": ("quadratic", {"condition": 0.5}, r"condition must be >= 1 and <= 1e\+12, got 0.5"),
    "n": ("quadratic", {"n": 1}, r"n must be >= 2 and <= 10000, got 1"),
    "spectrum": ("quadratic", {"spectrum": "flat"}, r"spectrum must be one of log, linear, clusters, got 'flat'"),
    "width": ("smoothed_hinge", {"width": 0}, r"width must be > 0 and finite, got 0"),
    "l1": ("smoothed_l1", {"l1": -1}, r"l1 must be > 0 and finite, got -1"),
    "planes": ("log_sum_exp", {"samples": 1}, r"samples must be >= 2 and <= 5000, got 1"),
    "scale": ("rosenbrock", {"scale": 0}, r"scale must be > 0 and finite, got 0"),
    "outliers": ("robust_regression", {"outliers": 0.6}, r"outliers must be >= 0 and <= 0.5, got 0.6"),
    "rank": ("factorisation", {"rows": 3, "rank": 3}, r"rows must be >= 4 and finite, got 3"),
    "samples": ("huber", {"data": "synthetic", "samples": 1}, r"samples must be >= 4 and finite, got 1"),
    "seed": ("quadratic", {"seed": -1}, r"seed must be >= 0 and finite, got -1"),
}
TYPE_ERRORS = {
    "text for a number": ("logistic", {"l2": "small"}, r"l2 must be a number, got 'small' \(str\)"),
    "truth value": ("huber", {"delta": True}, r"delta must be a number, got True \(bool\)"),
    "fraction": ("quadratic", {"n": 10.0}, r"n must be a whole number, got 10.0 \(float\)"),
    "list": ("softmax", {"l2": [1e-3]}, r"l2 must be a number or a text, got \[0.001\] \(list\)"),
    "number for data": ("huber", {"data": 3}, r"data must be a name or a path, got 3 \(int\)"),
}


@pytest.mark.usefixtures("no_directory")
@pytest.mark.parametrize(("kind", "arguments", "message"), VALUE_ERRORS.values(), ids=VALUE_ERRORS.keys())
def test_wrong_values(kind: Any, arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_problem(kind, **arguments)


@pytest.mark.parametrize(("kind", "arguments", "message"), TYPE_ERRORS.values(), ids=TYPE_ERRORS.keys())
def test_wrong_types(kind: Any, arguments: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        build_problem(kind, **arguments)
