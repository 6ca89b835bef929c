"""The problem collection: gradients, smoothness, certified optima, data files, error messages."""

import gzip
import pickle
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import check_grad, minimize

pytest.importorskip("sklearn")

from sklearn.datasets import dump_svmlight_file

from proxmom.study.problems import data as datasets
from proxmom.study.problems import optimum
from proxmom.study.problems.collection import PROBLEMS, build_problem
from proxmom.study.problems.losses import Huber, LinearModel, Logistic, LogSumExp, SmoothedHinge, SmoothedL1, Softmax
from proxmom.study.problems.nonconvex import Factorisation, GemanMcClure, Rosenbrock

QUICK = {
    "quadratic 1e2": ("quadratic", {"condition": 1e2}),
    "quadratic 1e4": ("quadratic", {"condition": 1e4}),
    "logistic": ("logistic", {"data": "breast_cancer", "l2": 1e-3}),
    "softmax": ("softmax", {"data": "digits", "l2": 1e-3}),
    "least squares": ("least_squares", {"data": "diabetes"}),
    "huber": ("huber", {"data": "diabetes", "delta": 0.1}),
    "smoothed hinge": ("smoothed_hinge", {"data": "breast_cancer", "l2": 1e-3}),
    "smoothed L1": ("smoothed_l1", {"data": "diabetes"}),
    "log-sum-exp": ("log_sum_exp", {}),
}
CLASSICS = {
    "Rosenbrock": ("rosenbrock", {}),
    "robust regression": ("robust_regression", {}),
    "factorisation": ("factorisation", {"rows": 8, "columns": 6}),
}
MORE = {
    "quadratic, linear": ("quadratic", {"condition": 1e4, "spectrum": "linear"}),
    "quadratic, clusters": ("quadratic", {"condition": 1e4, "spectrum": "clusters"}),
    "logistic, digits": ("logistic", {"data": "digits 3-8"}),
    "smoothed hinge, digits": ("smoothed_hinge", {"data": "digits 3-8", "width": 0.1}),
    "smoothed L1, synthetic": ("smoothed_l1", {"data": "synthetic", "n": 20, "samples": 90, "seed": 2, "width": 1e-3}),
    "log-sum-exp, wide": ("log_sum_exp", {"n": 5, "samples": 20, "width": 2.0, "seed": 1}),
    "least squares, l2": ("least_squares", {"l2": 0.1}),
    "least squares, synthetic": ("least_squares", {"data": "synthetic", "n": 5, "samples": 40, "seed": 1}),
    "least squares, zero columns": ("least_squares", {"data": "digits"}),
    "least squares, interpolating": ("least_squares", {"data": "synthetic", "n": 30, "samples": 20}),
    "huber, synthetic": ("huber", {"data": "synthetic", "n": 50, "samples": 200}),
    "huber, l2": ("huber", {"data": "synthetic", "l2": 1e-3}),
    "huber, small delta": ("huber", {"delta": 1e-3}),
    "huber, large delta": ("huber", {"delta": 10.0}),
    "softmax, two classes": ("softmax", {"data": "breast_cancer"}),
    "logistic, small l2": ("logistic", {"l2": 1e-8}),
}


@pytest.fixture(params=[*QUICK.values(), *CLASSICS.values()], ids=[*QUICK, *CLASSICS])
def quick(request):
    """One of each kind, and more."""
    kind, arguments = request.param
    return build_problem(kind, **arguments)


@pytest.fixture(params=[*QUICK.values(), *MORE.values(), *CLASSICS.values()], ids=[*QUICK, *MORE, *CLASSICS])
def any_problem(request):
    kind, arguments = request.param
    return build_problem(kind, **arguments)


@pytest.fixture(params=[*QUICK.values(), *MORE.values()], ids=[*QUICK.keys(), *MORE.keys()])
def problem(request):
    """A convex one."""
    kind, arguments = request.param
    return build_problem(kind, **arguments)


@pytest.fixture
def libsvm(tmp_path):
    """Writes text as a file and returns its path."""

    def write(text, name="made.txt"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


def near(problem, seed):
    """A point at a moderate distance from x0, where the losses are curved."""
    return problem.x0 + 0.3 * np.random.default_rng(seed).standard_normal(problem.x0.size)


def test_every_kind_is_tested():
    assert {kind for kind, _ in (QUICK | CLASSICS).values()} == set(PROBLEMS)


def test_only_the_classics_are_not_convex(any_problem, request):
    assert any_problem.convex == (request.node.callspec.id not in CLASSICS)


def test_convex_problems_lie_above_their_tangents(problem):
    rng = np.random.default_rng(20)
    for scale in (1e-2, 1.0, 10.0):
        x, y = (problem.x0 + scale * rng.standard_normal(problem.x0.size) for _ in range(2))
        (fx, gx), (fy, _) = problem.fun(x), problem.fun(y)
        assert fy >= fx + gx @ (y - x) - 1e-12 * (abs(fx) + abs(fy))


# Functions


def test_gradient_agrees_with_finite_differences(any_problem):
    x = near(any_problem, 0)
    direction = np.random.default_rng(1).standard_normal(x.size)
    direction /= np.linalg.norm(direction)

    def along(t):
        return any_problem.fun(x + t[0] * direction)[0]

    def slope(t):
        return np.array([any_problem.fun(x + t[0] * direction)[1] @ direction])

    # Huber's gradient has kinks, so the one-sided difference is only first-order accurate there.
    assert check_grad(along, slope, np.zeros(1)) < 1e-5 * (1 + abs(slope([0.0])[0]))


def test_every_entry_of_the_gradient_agrees_with_finite_differences(quick):
    x = near(quick, 2)
    entries = np.arange(x.size) if x.size <= 100 else np.arange(0, x.size, 37)
    step = 1e-6
    gradient = quick.fun(x)[1]
    for i in entries:
        move = np.zeros(x.size)
        move[i] = step
        difference = (quick.fun(x + move)[0] - quick.fun(x - move)[0]) / (2 * step)
        assert difference == pytest.approx(gradient[i], abs=1e-6)


def test_value_and_gradient_are_float64_of_the_right_shape(any_problem):
    f, g = any_problem.fun(any_problem.x0)
    assert type(f) is float
    assert g.dtype == np.float64
    assert g.shape == any_problem.x0.shape
    assert g is not any_problem.fun(any_problem.x0)[1]


def test_evaluations_do_not_write_into_the_point_or_earlier_gradients(any_problem):
    x = near(any_problem, 3)
    before, (_, first) = x.copy(), any_problem.fun(x)
    kept = first.copy()
    any_problem.fun(2 * x)
    assert np.array_equal(x, before)
    assert np.array_equal(first, kept)
    assert not any_problem.x0.flags.writeable


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["logistic", "softmax"])
def test_losses_are_stable_far_away(kind):
    problem = build_problem(kind)
    for scale in (1e3, -1e3, 1e6):
        f, g = problem.fun(scale * near(problem, 4))
        assert np.isfinite(f)
        assert np.isfinite(g).all()


def test_losses_equal_their_definitions():
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


def test_softmax_of_two_classes_has_the_optimum_of_logistic_regression():
    # With weights ±x/2 the loss is the same and the penalty half as large.
    two = build_problem("softmax", data="breast_cancer", l2=2e-3)
    one = build_problem("logistic", data="breast_cancer", l2=1e-3)
    assert two.optimum == pytest.approx(one.optimum, abs=1e-11)


def test_hessians_agree_with_differences_of_the_gradient_and_with_their_products(quick):
    x, v = near(quick, 5), np.random.default_rng(6).standard_normal(quick.x0.size)
    step = 1e-7
    difference = (quick.fun(x + step * v)[1] - quick.fun(x - step * v)[1]) / (2 * step)
    product = quick.fun.product(x)(v)
    assert np.allclose(quick.fun.hessian(x) @ v, product, rtol=1e-10, atol=1e-12)
    assert np.linalg.norm(product - difference) <= 1e-5 * np.linalg.norm(product)


@pytest.mark.parametrize("kind", ["logistic", "softmax", "huber"])
def test_sparse_and_dense_features_give_the_same_function(kind):
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


# Smoothness


def test_smoothness_bounds_the_change_of_the_gradient(problem):
    rng = np.random.default_rng(8)
    for scale in (1e-3, 0.1, 1.0, 10.0):
        x = scale * rng.standard_normal(problem.x0.size)
        y = x + scale * rng.standard_normal(x.size)
        change = np.linalg.norm(problem.fun(x)[1] - problem.fun(y)[1])
        assert change <= problem.smoothness * np.linalg.norm(x - y) * (1 + 1e-9)


REACHED = ["quadratic 1e4", "least squares", "logistic", "softmax, two classes", "huber, large delta"]


@pytest.mark.parametrize("name", REACHED)
def test_smoothness_is_reached(name):
    # By logistic losses and softmax of two at x0 = 0, where every sample has the largest curvature.
    kind, arguments = {**QUICK, **MORE}[name]
    problem = build_problem(kind, **arguments)
    largest = np.linalg.eigvalsh(problem.fun.hessian(problem.x0))[-1]
    assert largest == pytest.approx(problem.smoothness, rel=1e-8)


@pytest.mark.parametrize("shape", [(30, 8), (8, 30), (30, 1)])
def test_largest_eigenvalue(shape, monkeypatch):
    matrix = np.random.default_rng(9).standard_normal(shape)
    exact = np.linalg.norm(matrix, 2) ** 2
    for form in (matrix, sparse.csr_array(matrix)):
        value = optimum.largest_eigenvalue(form)
        assert exact <= value <= exact * (1 + 1e-9)
    monkeypatch.setattr(optimum, "DENSE_LIMIT", 1)
    assert exact <= optimum.largest_eigenvalue(sparse.csr_array(matrix)) <= exact * (1 + 1e-9)


# Optimum


def test_certificate_is_within_its_bound(any_problem):
    f0, _ = any_problem.fun(any_problem.x0)
    assert 0 <= any_problem.certificate <= 1e-10 * (f0 - any_problem.optimum)


def test_an_independent_solver_finds_the_same_optimum(problem):
    options = {"maxiter": 20_000, "maxfun": 100_000, "ftol": 0, "gtol": 1e-12, "maxcor": 50}
    other = minimize(problem.fun, problem.x0, jac=True, method="L-BFGS-B", options=options)
    f0, _ = problem.fun(problem.x0)
    rounding = 1e-14 * (abs(f0) + abs(problem.optimum))
    assert other.fun >= problem.optimum - problem.certificate - rounding
    assert other.fun - problem.optimum <= 1e-8 * (f0 - problem.optimum)


def test_quadratic_optimum_is_the_closed_form():
    problem = build_problem("quadratic", condition=1e4, n=20, seed=3)
    solution = np.linalg.solve(problem.fun.matrix, problem.fun.b)
    assert problem.optimum == pytest.approx(-0.5 * problem.fun.b @ solution, rel=1e-12)
    eigenvalues = np.linalg.eigvalsh(problem.fun.matrix)
    assert eigenvalues == pytest.approx(np.geomspace(1e-4, 1, 20), rel=1e-9)
    assert np.array_equal(problem.fun.matrix, problem.fun.matrix.T)


@pytest.mark.parametrize(
    ("spectrum", "expected"),
    [
        ("linear", np.linspace(0.01, 1, 10)),
        ("clusters", [0.01, 0.0125, 0.015, 0.0175, 0.02, 0.5, 0.625, 0.75, 0.875, 1]),
    ],
)
def test_spectra(spectrum, expected):
    problem = build_problem("quadratic", condition=100, n=10, spectrum=spectrum)
    np.testing.assert_allclose(np.linalg.eigvalsh(problem.fun.matrix), expected, rtol=1e-9)


def test_rosenbrock_is_solved_at_one_one():
    problem = build_problem("rosenbrock")
    value, gradient = problem.fun(np.ones(2))
    assert value == problem.optimum == problem.certificate == np.linalg.norm(gradient) == 0


def test_robust_regression_ends_in_a_local_minimum_and_smoothness_bounds_it():
    problem = build_problem("robust_regression")
    other = minimize(problem.fun, problem.x0, jac=True, method="L-BFGS-B", options={"ftol": 0, "gtol": 1e-12})
    assert other.fun == pytest.approx(problem.optimum, rel=1e-9)  # here even from x0
    values = np.linalg.eigvalsh(problem.fun.hessian(other.x))
    assert 0 < values[0] < values[-1] <= problem.smoothness
    bound = optimum.local_bound(problem.fun, 100.0)
    assert np.isfinite(bound(other.x, problem.fun(other.x)[1]))
    assert bound(problem.x0, problem.fun(problem.x0)[1]) == np.inf  # far from a minimum it says nothing


def test_third_derivative_of_geman_mcclure_is_bounded():
    r = np.linspace(-6, 6, 200_001)
    assert 0.9 * GemanMcClure.change_bound <= np.abs(np.gradient(GemanMcClure().curvature(r), r)).max()
    assert np.abs(np.gradient(GemanMcClure().curvature(r), r)).max() <= GemanMcClure.change_bound


def test_factorisation_has_the_optimum_of_eckart_and_young():
    problem = build_problem("factorisation", rows=8, columns=6)
    values = np.linalg.svd(problem.fun.matrix, compute_uv=False)
    assert problem.optimum == pytest.approx(0.5 * np.sum(values[3:] ** 2), rel=1e-12)
    other = minimize(problem.fun, problem.x0, jac=True, method="L-BFGS-B", options={"ftol": 0, "gtol": 1e-12})
    assert other.fun == pytest.approx(problem.optimum, rel=1e-9)  # it has no other local minima
    assert 2 * values[0] == pytest.approx(problem.smoothness)


def test_least_squares_without_full_rank_has_no_smoothed_l1():
    with pytest.raises(ValueError, match=r"full rank, digits has not: take diabetes"):
        build_problem("smoothed_l1", data="digits")


def test_huber_optimum_against_a_convex_solver():
    cvxpy = pytest.importorskip("cvxpy")
    problem = build_problem("huber", data="synthetic", n=8, samples=60)
    x = cvxpy.Variable(8)
    residuals = problem.fun.matrix @ x - problem.fun.offset
    model = cvxpy.Problem(cvxpy.Minimize(cvxpy.sum(cvxpy.huber(residuals, 0.1)) / 120))
    assert model.solve(solver="CLARABEL") == pytest.approx(problem.optimum, rel=1e-7)


@pytest.mark.parametrize("name", ["logistic", "softmax", "least squares", "huber", "huber, synthetic"])
def test_newton_by_conjugate_gradients_reaches_the_same_optimum(name, monkeypatch):
    kind, arguments = {**QUICK, **MORE}[name]
    problem = build_problem(kind, **arguments)
    bound = (
        optimum.strong_convexity_bound(problem.fun.l2)
        if problem.fun.l2 > 0
        else optimum.duality_gap_bound(problem.fun.matrix, problem.fun.offset, problem.fun.loss.delta)
    )
    monkeypatch.setattr(optimum, "DENSE_LIMIT", 0)
    found, certificate = optimum.certified_optimum(name, problem.fun, problem.x0, problem.smoothness, bound)
    assert abs(found - problem.optimum) <= certificate + problem.certificate


@pytest.mark.parametrize("delta", [0.1, np.inf])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
def test_duality_gap_bounds_the_distance_from_the_optimum_everywhere(delta, form):
    kind = "least_squares" if delta == np.inf else "huber"
    problem = build_problem(kind, data="synthetic", n=5, samples=60)
    bound = optimum.duality_gap_bound(form(problem.fun.matrix), problem.fun.offset, delta)
    rng = np.random.default_rng(10)
    for scale in (1e-6, 1e-3, 0.1, 1.0, 100.0):
        x = scale * rng.standard_normal(5)
        f, g = problem.fun(x)
        assert bound(x, g) >= f - problem.optimum - 1e-13 * f  # equality for least squares


def test_strong_convexity_bounds_the_distance_from_the_optimum():
    problem = build_problem("logistic")
    bound = optimum.strong_convexity_bound(problem.fun.l2)
    for seed in range(5):
        f, g = problem.fun(near(problem, seed))
        assert bound(np.zeros(0), g) >= f - problem.optimum


def test_an_optimum_that_cannot_be_certified_is_an_error():
    with pytest.raises(optimum.UncertifiedOptimum, match=r"delta 1e-05: f\* must be certified to 1e-10.*raise l2"):
        build_problem("huber", delta=1e-5)


def test_a_wrong_minimiser_is_an_error():
    problem = build_problem("logistic")
    f0, _ = problem.fun(problem.x0)
    bound = optimum.strong_convexity_bound(problem.fun.l2)
    with pytest.raises(optimum.UncertifiedOptimum, match="logistic: "):
        optimum.certify("logistic", problem.fun, f0, near(problem, 0), bound)


def test_a_start_at_the_optimum_is_an_error(libsvm):
    # Both classes have the same features: x = 0 is optimal.
    path = libsvm("0 1:1\n1 1:1\n0 2:1\n1 2:1\n")
    with pytest.raises(optimum.UncertifiedOptimum, match="or starts at it"):
        build_problem("logistic", data=path)


# Building


def test_problems_are_built_once_and_names_can_be_replaced():
    first, again = build_problem("logistic", l2=1e-3), build_problem("logistic", l2=1e-3)
    named = build_problem("logistic", l2=1e-3, name="mine")
    assert again is first
    assert named.name == "mine"
    assert named.fun is first.fun
    assert build_problem("logistic", l2=1e-2) is not first
    build_problem("huber", delta=1)
    with pytest.raises(TypeError, match="delta"):
        build_problem("huber", delta=True)


def test_names_tell_problems_apart():
    problems = [build_problem(kind, **arguments) for kind, arguments in [*QUICK.values(), *MORE.values()]]
    assert len({problem.name for problem in problems}) == len(problems)
    assert build_problem("quadratic", condition=1e4).name == "quadratic, condition 10000, n 100"


def test_problems_travel_to_other_processes(quick):
    copy = pickle.loads(pickle.dumps(quick))
    assert copy.fun(copy.x0)[0] == quick.fun(quick.x0)[0]


def test_seeds_change_the_problem_and_nothing_else_does():
    one, other = build_problem("quadratic", seed=1), build_problem("quadratic", seed=2)
    assert not np.allclose(one.x0, other.x0)
    assert np.array_equal(datasets.synthetic(seed=1).features, datasets.synthetic(seed=1).features)
    assert not np.allclose(datasets.synthetic(seed=1).features, datasets.synthetic(seed=2).features)


def test_embedded_data_are_scaled():
    for name in ("breast_cancer", "diabetes"):
        features = datasets.load_data(name).features
        assert np.allclose(features.mean(axis=0), 0, atol=1e-12)
        assert np.allclose(features.std(axis=0), 1)
    digits = datasets.load_data("digits").features
    assert digits.min() == 0
    assert digits.max() == 1


def test_standardise_makes_a_constant_column_zero():
    values = np.column_stack([np.full(49, 0.1), np.arange(49.0)])
    assert values[:, 0].mean() != 0.1  # the trap: a spread made of rounding
    assert np.array_equal(datasets.standardise(values)[:, 0], np.zeros(49))


# LIBSVM files


@pytest.mark.parametrize("name", ["made.txt", "made.txt.gz"])
def test_libsvm_round_trip(tmp_path, monkeypatch, name):
    rng = np.random.default_rng(11)
    features = rng.standard_normal((60, 4)) * (rng.random((60, 4)) < 0.6) * [1.0, 5.0, 0.1, 100.0]
    target = rng.integers(0, 2, 60)
    opened = gzip.open if name.endswith(".gz") else open
    with opened(tmp_path / name, "wb") as file:
        dump_svmlight_file(features, target, file, zero_based=False)
    loaded = datasets.load_data(str(tmp_path / name))
    assert sparse.issparse(loaded.features)
    assert np.allclose(loaded.features.toarray(), features / np.abs(features).max(axis=0))
    assert np.array_equal(loaded.target, target)
    absolute = build_problem("logistic", data=str(tmp_path / name))
    relative = build_problem("logistic", data=name, data_dir=tmp_path)
    monkeypatch.setenv("PROXMOM_DATA", str(tmp_path))
    by_variable = build_problem("logistic", data=name)
    assert absolute.optimum == relative.optimum == by_variable.optimum
    assert absolute.name == "logistic, made.txt, l2 0.001"
    assert sparse.issparse(absolute.fun.matrix)


@pytest.mark.parametrize("kind", ["logistic", "softmax", "least_squares", "huber"])
def test_every_kind_takes_a_file(kind, libsvm):
    rng = np.random.default_rng(12)
    lines = (f"{rng.integers(0, 2)} 1:{rng.normal()} 3:{rng.normal()} 4:{rng.normal()}" for _ in range(50))
    problem = build_problem(kind, data=libsvm("\n".join(lines)))
    other = minimize(problem.fun, problem.x0, jac=True, method="BFGS", options={"gtol": 1e-10})
    assert other.fun == pytest.approx(problem.optimum, abs=1e-11)


def test_more_features_than_a_dense_factor_takes(tmp_path):
    features = sparse.random_array((300, 3000), density=0.01, format="csr", rng=np.random.default_rng(13))
    target = np.random.default_rng(14).integers(0, 2, 300)
    dump_svmlight_file(features, target, str(tmp_path / "wide.txt"))
    problem = build_problem("logistic", data="wide.txt", data_dir=tmp_path)
    assert problem.x0.size > optimum.DENSE_LIMIT
    assert problem.certificate <= 1e-10 * (problem.fun(problem.x0)[0] - problem.optimum)


@pytest.mark.parametrize("kind", ["logistic", "softmax", "least_squares", "huber"])
def test_a_real_file(kind):
    if not datasets.directory(None):
        pytest.skip("PROXMOM_DATA is not set: the directory with a9a.gz")
    if not (datasets.directory(None) / "a9a.gz").is_file():
        pytest.skip("PROXMOM_DATA has no a9a.gz")
    problem = build_problem(kind, data="a9a.gz", l2=1e-4)
    assert sparse.issparse(problem.fun.matrix)
    assert problem.certificate <= 1e-10 * (problem.fun(problem.x0)[0] - problem.optimum)
    assert "a9a" in problem.name


# Errors: (kind, arguments, what the message must say)

VALUE_ERRORS = {
    "kind": (
        "lasso",
        {},
        r"kind must be one of quadratic, logistic, softmax, least_squares, huber, .*factorisation, got 'lasso'",
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
BAD_FILES = {
    "words": ("id name\n1 a\n", r"made\.txt cannot be read as a LIBSVM file .*should read like '\+1 3:0\.5"),
    "commas": ("1,2,3\n4,5,6\n", r"cannot be read as a LIBSVM file"),
    "binary": (b"\x89PNG\r\n\x1a\n\x00", r"cannot be read as a LIBSVM file"),
    "falling indices": ("1 2:1 1:3\n", r"cannot be read as a LIBSVM file .*rising indices"),
    "huge index": ("1 99999999999999:1\n", r"cannot be read as a LIBSVM file"),
    "empty": ("", r"made\.txt is not a LIBSVM file with features .*should read like"),
    "labels only": ("1\n0\n", r"is not a LIBSVM file with features"),
    "nan": ("1 1:2\n0 1:nan\n", r"made\.txt: values must be finite, got nan in sample 2"),
    "inf": ("1 1:2\n\n0 1:1\n1 1:1 2:inf\n", r"values must be finite, got inf in sample 3"),
    "nan label": ("1 1:2\nnan 1:3\n", r"labels must be finite, got nan in sample 2"),
    "one class": ("1 1:2\n1 1:3\n", r"two labels, made\.txt has 1 \(1\)"),
    "three classes": ("1 1:2\n2 1:3\n3 1:1\n", r"two labels, made\.txt has 3 \(1, 2, 3\)"),
}


@pytest.fixture
def no_directory(monkeypatch):
    monkeypatch.delenv("PROXMOM_DATA", raising=False)


@pytest.mark.usefixtures("no_directory")
@pytest.mark.parametrize(("kind", "arguments", "message"), VALUE_ERRORS.values(), ids=VALUE_ERRORS.keys())
def test_wrong_values(kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        build_problem(kind, **arguments)


@pytest.mark.parametrize(("kind", "arguments", "message"), TYPE_ERRORS.values(), ids=TYPE_ERRORS.keys())
def test_wrong_types(kind, arguments, message):
    with pytest.raises(TypeError, match=message):
        build_problem(kind, **arguments)


@pytest.mark.parametrize(("text", "message"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_bad_files(text, message, libsvm):
    with pytest.raises(ValueError, match=message):
        build_problem("logistic", data=libsvm(text))


@pytest.mark.parametrize(
    "text", [b"1 1:2\n", gzip.compress(b"1 1:2\n0 2:1\n" * 50, mtime=0)[:-12]], ids=["plain", "cut"]
)
def test_a_broken_gz_file(text, libsvm):
    with pytest.raises(ValueError, match=r"made\.gz cannot be read as a LIBSVM file"):
        build_problem("logistic", data=libsvm(text, "made.gz"))


def test_a_constant_target(libsvm):
    with pytest.raises(ValueError, match="the target must vary, got 2 equal values"):
        build_problem("huber", data=libsvm("3 1:1\n3 1:2\n"))
