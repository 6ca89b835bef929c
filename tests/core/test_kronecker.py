"""Shampoo and SOAP against plain formulas with the whole matrix, other people's code, and what every operator owes."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
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


# --- both ------------------------------------------------------------------------------------------------------------

BOTH = [
    pytest.param(Shampoo(beta2=0.9, every=2, largest_side=3), id="Shampoo, blocks"),
    pytest.param(Shampoo(), id="Shampoo"),
    pytest.param(SOAP(every=2, largest_side=3), id="SOAP, some sides"),
    pytest.param(SOAP(every=2), id="SOAP"),
]
RANK_ONE = np.outer(np.arange(1.0, 4), np.arange(1.0, 5))
KINDS: dict[str, Callable[[int], np.ndarray]] = {
    "random": lambda t: gradients((3, 4), 1, seed=t)[0],
    "zero": lambda t: np.zeros((3, 4)),
    "zero first": lambda t: RANK_ONE * min(t, 1),
    "one and the same": lambda t: RANK_ONE,
    "one entry": lambda t: np.pad([[1.0]], ((0, 2), (0, 3))),
    "huge": lambda t: 1e150 * gradients((3, 4), 1, seed=t)[0],
    "tiny": lambda t: 1e-150 * gradients((3, 4), 1, seed=t)[0],
    "huge, rank one": lambda t: 1e150 * RANK_ONE,
    "tiny, rank one": lambda t: 1e-150 * RANK_ONE,
    "huge and tiny": lambda t: (1e150 if t % 2 else 1e-150) * gradients((3, 4), 1, seed=t)[0],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", BOTH)
def test_every_p_is_linear_symmetric_and_positive_definite(metric: Operator, kind: str) -> None:
    gs = [KINDS[kind](t) for t in range(6)]
    u, w = gradients((3, 4), 2, seed=9)
    for count in range(1, 7):
        state = after(metric, gs[:count])
        matrix = inverse(metric, state, (3, 4))
        assert np.isfinite(matrix).all()
        size = np.abs(matrix).max()
        np.testing.assert_allclose(matrix / size, matrix.T / size, rtol=0, atol=1e-12)
        values = np.linalg.eigvalsh(matrix / size)
        assert values[0] > (0 if values[0] > 1e-12 else -1e-14 * values[-1])  # below that the matrix itself is rounded
        assert np.diag(matrix).min() > 0
        images = metric.images(state, [u, w, 2 * u - 3 * w, gs[count - 1]])
        np.testing.assert_allclose(images[2] / size, (2 * images[0] - 3 * images[1]) / size, rtol=0, atol=1e-12)
        np.testing.assert_allclose(images[0].ravel() / size, matrix @ u.ravel() / size, rtol=0, atol=1e-12)
        assert np.vdot(u, images[0]) > 0
        g, image = (a / (np.abs(a).max() or 1.0) for a in (gs[count - 1], images[3]))
        assert np.vdot(g, image) > 0 or not g.any()


@pytest.mark.parametrize("shape", [(), (5,), (4, 4), (2, 3, 4)])
@pytest.mark.parametrize("metric", BOTH)
def test_torch_gives_what_numpy_gives(metric: Operator, shape: tuple[int, ...]) -> None:
    torch = pytest.importorskip("torch")
    gs = gradients(shape, 6)
    ours, theirs = after(metric, gs), after(metric, [torch.tensor(g) for g in gs])
    assert list(ours) == list(theirs)
    assert type(theirs["count"]) is int
    u = gradients(shape, 2, seed=1)
    images = metric.images(theirs, [torch.tensor(v) for v in u])
    for one, other in zip(metric.images(ours, u), images, strict=True):
        np.testing.assert_allclose(one, other.numpy(), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("metric", BOTH)
def test_low_precision_is_kept_in_float32(metric: Operator) -> None:
    torch = pytest.importorskip("torch")
    gs = [torch.tensor(g, dtype=torch.bfloat16) for g in gradients((4, 4), 4)]
    state = after(metric, gs)
    assert {a.dtype for a in state.values() if isinstance(a, torch.Tensor)} == {torch.float32}
    image, exact = metric.images(state, [gs[0]])[0], metric.images(state, [gs[0].float()])[0]
    assert image.dtype == torch.bfloat16
    torch.testing.assert_close(image, exact.bfloat16(), rtol=0, atol=0)
    assert {a.dtype for a in after(metric, gradients((4, 4), 1)).values() if hasattr(a, "dtype")} == {np.dtype("f8")}


@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 0), (4, 5), (2, 3, 4)])
@pytest.mark.parametrize("metric", BOTH)
def test_a_state_starts_from_shape_dtype_and_device_alone(metric: Operator, shape: tuple[int, ...]) -> None:
    torch = pytest.importorskip("torch")
    nowhere, here = metric.start(torch.empty(shape, device="meta")), metric.start(torch.empty(shape))
    assert list(nowhere) == list(here)
    for name, value in here.items():
        if isinstance(value, torch.Tensor):
            assert nowhere[name].device.type == "meta"
            assert (nowhere[name].shape, nowhere[name].dtype) == (value.shape, value.dtype)


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 2, 4)])
@pytest.mark.parametrize("metric", BOTH)
def test_empty_tensors_pass(metric: Operator, shape: tuple[int, ...]) -> None:
    torch = pytest.importorskip("torch")
    for g in (np.zeros(shape), torch.zeros(shape)):
        (image,) = metric.images(after(metric, [g] * 4), [g])
        assert tuple(image.shape) == shape


@pytest.mark.parametrize("metric", BOTH)
def test_nothing_given_is_written(metric: Operator) -> None:
    torch = pytest.importorskip("torch")
    gs = gradients((4, 5), 6)
    for g in gs:
        g.flags.writeable = False
    state = metric.start(gs[0])
    other = metric.start(torch.tensor(gs[0]))
    for g in gs:
        for array in state.values():
            if isinstance(array, np.ndarray):
                array.flags.writeable = False
        new = metric.update(state, g)
        metric.images(new, [g])
        state, given, before = new, torch.tensor(g), copy.deepcopy(other)
        later = metric.update(other, given)
        metric.images(other if other["count"] else later, [given])
        np.testing.assert_array_equal(given.numpy(), g)
        assert all(torch.equal(torch.as_tensor(other[n]), torch.as_tensor(before[n])) for n in before)
        other = later


@pytest.mark.parametrize(
    ("metric", "name", "expected"),
    [
        (Shampoo(every=3), "root_0_1", [1, 4, 7]),
        (Shampoo(every=1), "root_0_1", [1, 2, 3, 4, 5, 6, 7, 8]),
        (SOAP(every=3), "basis_1", [2, 5, 8]),
        (SOAP(every=1), "basis_1", [2, 3, 4, 5, 6, 7, 8]),
    ],
)
def test_refreshes_are_every_so_many_gradients(metric: Operator, name: str, expected: list[int]) -> None:
    gs = gradients((3, 4), 8)
    states = [metric.start(gs[0])]
    for g in gs:
        states.append(metric.update(states[-1], g))
    changed = [t for t, (a, b) in enumerate(itertools.pairwise(states), start=1) if (a[name] != b[name]).any()]
    assert changed == expected


# --- what eigh does not find -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", BOTH)
def test_eigh_is_tried_again_in_float64(metric: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    gs, eigh = [g.astype(np.float32) for g in gradients((4, 4), 3)], np.linalg.eigh
    expected = metric.images(after(metric, gs), [gs[0]])[0]

    def only_float64(matrix: np.ndarray) -> Any:
        if matrix.dtype != np.float64:
            raise np.linalg.LinAlgError
        return eigh(matrix)

    monkeypatch.setattr(np.linalg, "eigh", only_float64)
    found = metric.images(after(metric, gs), [gs[0]])[0]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("size", [1e-150, 0.0, 1e150])
@pytest.mark.parametrize("metric", [Shampoo(), SOAP(every=1)], ids=["Shampoo", "SOAP"])
def test_libraries_are_given_matrices_of_size_one(
    metric: Operator, size: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not every library's eigh and qr can take squares of 1e-300."""
    seen: list[np.ndarray] = []
    for name in ("eigh", "qr"):
        plain = getattr(np.linalg, name)
        monkeypatch.setattr(np.linalg, name, lambda matrix, plain=plain: (seen.append(matrix), plain(matrix))[1])
    after(metric, [size * g for g in gradients((3, 4), 3)])
    assert len(seen) == (2 if isinstance(metric, Shampoo) else 4)
    for matrix in seen:
        assert 0.5 < np.abs(matrix).max() < 4 if size else not matrix.any()


@pytest.mark.parametrize("metric", [Shampoo(every=2), SOAP()], ids=["Shampoo", "SOAP"])
def test_where_eigh_fails_the_old_matrices_stay(metric: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    gs = gradients((3, 4), 3)
    known = after(metric, gs[:2]) if isinstance(metric, Shampoo) else after(metric, gs[:1])
    monkeypatch.setattr(np.linalg, "eigh", lambda matrix: (_ for _ in ()).throw(np.linalg.LinAlgError))
    new = metric.update(known, gs[2])
    assert new["count"] == known["count"] + 1
    for name in known:
        if name.startswith(("root", "basis")):
            np.testing.assert_array_equal(new[name], known[name])
        elif name.startswith("factor"):
            assert (new[name] != known[name]).any()


@pytest.mark.parametrize("metric", [Shampoo(every=1), SOAP(every=1)], ids=["Shampoo", "SOAP"])
def test_matrices_that_are_not_finite_are_not_taken(metric: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU nothing is raised: the choice is made there."""
    known = after(metric, gradients((3, 4), 3))

    def broken(matrix: np.ndarray) -> np.ndarray:
        found = np.eye(len(matrix))
        found[0, 0] = np.nan
        return found

    monkeypatch.setattr(np.linalg, "eigh", lambda matrix: (np.ones(len(matrix)), broken(matrix)))
    monkeypatch.setattr(np.linalg, "qr", lambda matrix: (broken(matrix), None))
    new = metric.update(known, gradients((3, 4), 1, seed=1)[0])
    for name in known:
        if name.startswith(("root", "basis")):
            np.testing.assert_array_equal(new[name], known[name])
    assert all(np.isfinite(value).all() for value in new.values())


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
