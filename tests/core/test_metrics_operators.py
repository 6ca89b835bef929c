"""What every metric that is an operator owes the step: a proper P, whatever the gradients, and a state left alone."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from proxmom import SOAP, Shampoo
from proxmom.metrics import Operator
from tests.core.test_kronecker import after, gradients, inverse

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
