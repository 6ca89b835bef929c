"""Shampoo and SOAP against plain formulas with the whole matrix, and against other people's code."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
import pytest
from scipy.linalg import fractional_matrix_power

from proxmom import SOAP, Adam, Shampoo
from proxmom.metrics import Operator, State

Arrays = Sequence[np.ndarray]


def gradients(shape: tuple[int, ...], count: int, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).normal(size=(count, *shape)))


def after(metric: Operator, gradients: Sequence[Any]) -> State:
    state = metric.start(gradients[0])
    for g in gradients:
        state = metric.update(state, g)
    return state


def inverse(metric: Operator, state: State, shape: tuple[int, ...]) -> np.ndarray:
    """P⁻¹ as a matrix: the images of the unit vectors."""
    n = int(np.prod(shape))
    return np.stack([image.ravel() for image in metric.images(state, list(np.eye(n).reshape(n, *shape)))], axis=1)


def gram(g: np.ndarray, axis: int) -> np.ndarray:
    others = [a for a in range(g.ndim) if a != axis]
    return np.tensordot(g, g, (others, others))


# --- Shampoo ---------------------------------------------------------------------------------------------------------


def shampoo(gs: Arrays, sides: tuple[int, ...], cuts: Sequence[Sequence[int]], beta2: float, eps: float) -> np.ndarray:
    """P, block by block, from all gradients; `cuts` are the ends of the pieces of every side."""
    n = int(np.prod(sides))
    places, matrix = np.arange(n).reshape(sides), np.zeros((n, n))
    pieces = [[range(a, b) for a, b in itertools.pairwise([0, *ends])] for ends in cuts]
    for block in itertools.product(*pieces):
        roots = []
        for axis in range(len(sides)):
            weights = beta2 ** np.arange(len(gs))[::-1]
            average = sum(w * gram(g.reshape(sides)[np.ix_(*block)], axis) for w, g in zip(weights, gs, strict=True))
            average = average / sum(weights)
            average += eps * np.linalg.eigvalsh(average)[-1] * np.eye(len(average))
            roots.append(fractional_matrix_power(average, 1 / (2 * len(sides))))
        inside = places[np.ix_(*block)].ravel()
        matrix[np.ix_(inside, inside)] = reduce(np.kron, roots)
    return matrix


CASES: list[tuple[tuple[int, ...], tuple[int, ...], int, list[list[int]]]] = [  # shape, sides, largest side, cuts
    ((), (1,), 1024, [[1]]),
    ((1, 1), (1,), 1024, [[1]]),
    ((5,), (5,), 1024, [[5]]),
    ((5,), (5,), 2, [[1, 3, 5]]),
    ((1, 4, 1), (4,), 4, [[4]]),
    ((3, 4), (3, 4), 1024, [[3], [4]]),
    ((3, 1, 4), (3, 4), 3, [[3], [2, 4]]),
    ((5, 3), (5, 3), 2, [[1, 3, 5], [1, 3]]),
    ((2, 3, 4), (2, 3, 4), 1024, [[2], [3], [4]]),
    ((2, 3, 4), (2, 3, 4), 2, [[2], [1, 3], [2, 4]]),
]


@pytest.mark.parametrize(("shape", "sides", "largest", "cuts"), CASES)
def test_shampoo_is_its_formula(shape: Any, sides: Any, largest: int, cuts: Any) -> None:
    gs, metric = gradients(shape, 5), Shampoo(beta2=0.8, eps=1e-3, every=3, largest_side=largest)
    for count, known in ((1, 1), (3, 1), (4, 4), (5, 4)):  # the roots are those of the first and the fourth gradient
        found = inverse(metric, after(metric, gs[:count]), shape)
        np.testing.assert_allclose(
            found @ shampoo(gs[:known], sides, cuts, 0.8, 1e-3), np.eye(len(found)), rtol=0, atol=1e-9
        )


def test_the_first_step_of_shampoo_is_that_of_pytorch_optimizer() -> None:
    """There eps is an absolute number; both factors of a first gradient have the same largest eigenvalue."""
    torch, theirs = pytest.importorskip("torch"), pytest.importorskip("pytorch_optimizer")
    g = torch.tensor(gradients((3, 4), 1)[0])
    x, metric = torch.zeros_like(g, requires_grad=True), Shampoo(eps=1e-3)
    x.grad = g.clone()
    theirs.Shampoo([x], lr=1.0, matrix_eps=1e-3 * float(torch.linalg.matrix_norm(g, 2)) ** 2).step()
    torch.testing.assert_close(metric.images(after(metric, [g]), [g])[0], -x.detach(), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("size", [1e-150, 1e-3, 7.0, 1e150])
def test_the_scale_of_the_loss_scales_shampoo(size: float) -> None:
    gs, metric = gradients((3, 4), 4), Shampoo(every=2)
    one, other = after(metric, gs), after(metric, [size * g for g in gs])
    u = gradients((3, 4), 1, seed=1)[0]
    np.testing.assert_allclose(metric.images(other, [size * u])[0], metric.images(one, [u])[0], rtol=1e-9)


def test_a_factor_of_zeros_is_the_identity() -> None:
    metric, zero, u = Shampoo(), np.zeros((3, 4)), gradients((3, 4), 1)[0]
    np.testing.assert_array_equal(metric.images(after(metric, [zero, zero]), [u])[0], u)


# --- SOAP ------------------------------------------------------------------------------------------------------------


def soap(gs: Arrays, beta2: float, eps: float, every: int, turned: Sequence[bool]) -> np.ndarray:
    """P⁻¹ after all gradients, with whole matrices throughout."""
    shape = gs[0].shape
    factors = [(1 - beta2) * gram(gs[0], axis) for axis in range(len(shape))]
    bases = [np.eye(n) for n in shape]
    v, seen = gs[0].ravel() ** 2, 1
    for t, g in enumerate(gs[1:], start=2):
        if t == 2:
            bases = [
                np.linalg.eigh(f)[1][:, ::-1] if turn else q for f, q, turn in zip(factors, bases, turned, strict=True)
            ]
            v, seen = np.zeros(g.size), 0
        elif (t - 2) % every == 0:
            sorting = []
            for axis, turn in enumerate(turned):
                estimates = np.diag(bases[axis].T @ factors[axis] @ bases[axis])
                column = np.eye(shape[axis])[:, np.argsort(-estimates)] if turn else np.eye(shape[axis])
                sorting.append(column)
                if turn:
                    bases[axis] = np.linalg.qr(factors[axis] @ bases[axis] @ column)[0]
            v = reduce(np.kron, sorting).T @ v
        v = beta2 * v + (1 - beta2) * (reduce(np.kron, bases).T @ g.ravel()) ** 2
        seen += 1
        factors = [beta2 * f + (1 - beta2) * gram(g, axis) for axis, f in enumerate(factors)]
    corrected = v if len(gs) == 1 else v / (1 - beta2**seen)
    q = reduce(np.kron, bases)
    return q @ np.diag(1 / (np.sqrt(corrected) + eps)) @ q.T


@pytest.mark.parametrize(
    ("shape", "largest", "turned"),
    [
        ((4, 4), 10, [True, True]),
        ((3, 4), 10, [True, True]),
        ((3, 4), 3, [True, False]),
        ((4, 3), 3, [False, True]),
        ((2, 3, 4), 10, [True, True, True]),
        ((2, 3, 4), 2, [True, False, False]),
    ],
)
def test_soap_is_its_formula(shape: tuple[int, ...], largest: int, turned: list[bool]) -> None:
    """No factor has two eigenvalues zero, between whose eigenvectors a basis would be free to choose."""
    gs = gradients(shape, 9)
    metric = SOAP(beta2=0.8, eps=1e-3, every=3, largest_side=largest)
    for count in range(1, 10):
        expected = soap(gs[:count], 0.8, 1e-3, 3, turned)
        np.testing.assert_allclose(inverse(metric, after(metric, gs[:count]), shape), expected, rtol=1e-7, atol=1e-9)


def test_soap_sorts_its_basis_when_the_order_of_the_eigenvalues_changes() -> None:
    """A second gradient along the other axes: the columns, and v with them, swap places."""
    first, second = np.diag([3.0, 1.0]), np.diag([1.0, 9.0])
    metric = SOAP(beta2=0.5, every=1)
    before, later = after(metric, [first, second]), after(metric, [first, second, second])
    np.testing.assert_allclose(np.abs(before["basis_0"]), np.eye(2), atol=1e-12)
    np.testing.assert_allclose(np.abs(later["basis_0"]), np.eye(2)[::-1], atol=1e-12)
    np.testing.assert_allclose(later["second_moment"], np.diag([0.75 * 81, 0.75]), atol=1e-12)


@pytest.mark.parametrize("shape", [(), (5,)])
def test_soap_of_vectors_and_numbers_is_adam(shape: tuple[int, ...]) -> None:
    gs, metric, adam = gradients(shape, 4), SOAP(beta2=0.9, eps=1e-3, every=1), Adam(beta2=0.9, eps=1e-3)
    state = adam.start(gs[0])
    for g in gs:
        state = adam.update(state, g)
    found = metric.images(after(metric, gs), [gs[0]])[0]
    np.testing.assert_allclose(found, gs[0] / adam.diagonal(state, 1.0), rtol=1e-14)


@pytest.mark.parametrize(
    ("shape", "axes"), [((4, 1), [0]), ((1, 4), [1]), ((2, 9, 4), [0, 2]), ((1,), []), ((8,), []), ((0, 3), [])]
)
def test_the_sides_that_soap_rotates(shape: tuple[int, ...], axes: list[int]) -> None:
    state = SOAP(largest_side=8).start(np.zeros(shape))
    kept = [f"{kind}_{axis}" for axis in axes for kind in ("factor", "basis")]
    assert list(state) == ["second_moment", "count", *kept]
    assert {state[name].shape for name in kept} == {(shape[axis],) * 2 for axis in axes}


@pytest.mark.parametrize("shape", [(4, 4), (2, 3, 4)])
def test_soap_is_that_of_pytorch_optimizer_from_the_second_gradient_on(shape: tuple[int, ...]) -> None:
    """Without momentum a step there is -lr P⁻¹g, and none with the first gradient; its QR is in float32."""
    torch, theirs = pytest.importorskip("torch"), pytest.importorskip("pytorch_optimizer")
    gs = [torch.tensor(g) for g in gradients(shape, 12)]
    x, metric = torch.zeros(shape, dtype=torch.float64, requires_grad=True), SOAP(eps=1e-15, every=3)
    other = theirs.SOAP([x], lr=1.0, betas=(0.0, 0.95), weight_decay=0.0, precondition_frequency=3, eps=1e-15)
    state = metric.start(gs[0])
    for t, g in enumerate(gs, start=1):
        old, x.grad = x.detach().clone(), g.clone()
        other.step()
        state = metric.update(state, g)
        step = old - x.detach()
        if t == 1:
            assert not step.any()
        else:
            torch.testing.assert_close(metric.images(state, [g])[0], step, rtol=1e-4, atol=1e-5)


def test_the_first_step_of_soap_is_adams_and_no_noise() -> None:
    """In float32 the rotated first gradient is a diagonal and noise, which division by its own size would blow up."""
    torch = pytest.importorskip("torch")
    g, metric = torch.tensor(gradients((16, 32), 1)[0], dtype=torch.float32), SOAP()
    torch.testing.assert_close(metric.images(after(metric, [g]), [g])[0], torch.sign(g), rtol=1e-4, atol=0)


# --- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Shampoo, SOAP])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beta2": 1.0}, r"beta2 must be in \[0, 1\), got 1\.0\."),
        ({"beta2": -0.1}, r"beta2 must be in \[0, 1\), got -0\.1\."),
        ({"eps": 0.0}, r"eps must be > 0, got 0\.0\."),
        ({"every": 0}, r"every must be a whole number >= 1, got 0\."),
        ({"every": 2.0}, r"every must be a whole number >= 1, got 2\.0\."),
        ({"largest_side": 0}, r"largest_side must be a whole number >= 1, got 0\."),
    ],
)
def test_bad_arguments(kind: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**arguments)


@pytest.mark.parametrize("metric", [Shampoo(beta2=0, every=1, largest_side=1), SOAP(beta2=0, every=1, largest_side=1)])
def test_ends_of_ranges_are_taken(metric: Operator) -> None:
    """Blocks of one entry, and bases of none: all that is left is the sign of the gradient."""
    gs = gradients((3, 4), 2)
    np.testing.assert_allclose(metric.images(after(metric, gs), [gs[1]])[0], np.sign(gs[1]), rtol=1e-5)


def test_what_the_metrics_say_of_themselves() -> None:
    for kind in (Shampoo, SOAP):
        assert (kind.memory_from_gradient, kind.elementwise, hasattr(kind, "diagonal")) == (False, False, False)
    assert Shampoo() == Shampoo(beta2=0.999, eps=1e-6, every=10, largest_side=1024)
    assert SOAP() == SOAP(beta2=0.95, eps=1e-8, every=10, largest_side=10000)
