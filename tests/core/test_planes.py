"""The model layer: vectors and planes as an algebra, and what `Now` offers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from proxmom import Plane, mix
from proxmom.now import Now
from proxmom.planes import Vector

number = st.floats(-10, 10)


def now(**given_: Any) -> Now:
    u = np.arange(12.0).reshape(1, 2, 6)  # the vectors "gradient" and "memory", written out
    settings = {
        "dual": u @ u.swapaxes(-1, -2),
        "last_move": np.array([[-3.0, 2.0]]),
        "lr": np.array([0.1]),
        "step": np.array([4.0]),
        "mass": np.array([0.5]),
        "normalised": False,
    }
    return Now(("gradient", "memory"), **{**settings, **given_})


@given(number, number)
def test_vectors_are_linear(a: float, b: float) -> None:
    n = now()
    g, d = n.gradient, n.memory
    left = n.dot(a * g - d / 2 + n.zero, -(b * d))
    right = -a * b * n.dot(g, d) + b / 2 * n.dot(d, d)
    np.testing.assert_allclose(left, right, atol=1e-9)


@given(st.floats(0, 1), number, number)
def test_mixing_planes_mixes_their_values(w: float, z1: float, z2: float) -> None:
    first, second = Plane(Vector(np.array([1.0, 2.0])), 3.0), Plane(Vector(np.array([-1.0, 0.5])), -1.0)

    def value(plane: Plane) -> float:
        return plane.height + float(plane.slope.coefficients @ np.array([z1, z2]))

    assert value(mix(first, second, w)) == pytest.approx((1 - w) * value(first) + w * value(second), abs=1e-9)


def test_a_batch_of_weights_mixes_each_scope() -> None:
    first, second = Plane(Vector(np.eye(2)[0]), 0.0), Plane(Vector(np.eye(2)[1]), np.array([1.0, 2.0]))
    mixed = mix(first, second, np.array([0.0, 0.5]))
    np.testing.assert_array_equal(mixed.slope.coefficients, [[1, 0], [0.5, 0.5]])
    np.testing.assert_array_equal(mixed.height, [0, 1])


def test_floors_are_known_by_construction() -> None:
    n = now(loss=np.array([5.0]), previous_loss=np.array([5.0]))
    floor = n.floor(2.0)
    assert floor.is_floor
    assert floor.height == -3
    assert mix(floor, n.floor(0.0), 0.5).is_floor
    assert not mix(floor, n.gradient_plane, 0.0).is_floor
    assert not (0 * n.gradient_plane.slope).is_zero  # zero in value, but not by construction


def test_heights_by_name() -> None:
    n = now(loss=np.array([5.0]), previous_loss=np.array([7.0]), memory_height=np.array([-0.25]))
    heights = {name: n.memory_plane(name).height for name in ("linearised", "previous value", "cutting plane")}
    assert heights == {"linearised": 3.0, "previous value": 2.0, "cutting plane": 2.0 + 2.0}
    assert n.memory_plane("aggregated").height == -0.25
    assert n.memory_plane(1.5).height == 1.5
    assert n.rise == 3.0


def test_weight_follows_the_mass_convention() -> None:
    assert now().weight(0.9) == 0.9
    np.testing.assert_allclose(now(normalised=True).weight(0.9), 0.45 / 0.55)
    assert now(normalised=True, mass=np.array([0.0])).weight(0.9) == 0
    np.testing.assert_allclose(now(normalised=True, mass=np.array([1.0])).weight(0.9), 0.9)


@pytest.mark.parametrize("name", ["loss", "previous_loss", "memory_height"])
def test_a_missing_loss_is_one_clear_error(name: str) -> None:
    with pytest.raises(ValueError, match=r"looks at the loss.*needs_loss = True.*step\(loss=\.\.\.\)"):
        getattr(now(), name)


def test_an_undeclared_vector_is_named() -> None:
    with pytest.raises(ValueError, match=r"one of gradient, memory, got 'slow'"):
        now().vector("slow")


@pytest.mark.parametrize("library", [np, torch], ids=["numpy", "torch"])
def test_an_array_times_a_vector_is_a_vector_from_either_side(library: Any) -> None:
    """One number for each scope: nothing else is left of it where the array stands first."""
    scale, v = library.asarray([2.0, -1.0]), Vector(library.asarray([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
    for product in (scale * v, v * scale):
        assert isinstance(product, Vector)
        np.testing.assert_array_equal(np.asarray(product.coefficients), [[2.0, 4.0, 6.0], [-4.0, -5.0, -6.0]])
