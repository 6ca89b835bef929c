"""Recording: what a function does to symbols, played, is what it does to arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxmom import kernels
from proxmom.kernels.tape import Player
from proxmom.planes import namespace
from proxmom.solve import weights
from proxmom.step import Scope
from proxmom.tape import Untraceable, record
from proxmom.tape.record import Given
from proxmom.tape.trace import SCOPE

UNITS, SCOPE_OF = 7, np.array([0, 2, 1, 1, 0, 2, 2])
MEMBERSHIP = (np.arange(3)[:, None] == SCOPE_OF).astype(float)
SIZES = np.array([1.0, 2.0, 1.0, 5.0, 1.0, 1.0, 3.0])
GIVEN = {"u": Given(shape=(3,)), "v": Given(), "s": Given(per=SCOPE), "sizes": Given()}

plays = pytest.mark.skipif(not kernels.available(), reason="the kernels are not built")


def arrays(seed: int, scopes: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    values = random.normal(size=(UNITS, 3)) * 10.0 ** random.integers(-3, 4, size=(UNITS, 3))
    return {"u": values, "v": random.normal(size=UNITS), "s": random.normal(size=scopes)}


def both(
    function: Callable[..., Any], seed: int = 0, *, shared: bool, per_scope: tuple[str, ...] = (), rtol: float = 1e-14
) -> None:
    """Play it, and run it; they must agree to the bit, or to rounding where the C library computes."""
    scope = Scope(MEMBERSHIP, sizes=SIZES) if shared else Scope()
    scopes = len(MEMBERSHIP) if shared else UNITS
    tape = record(function, GIVEN, shared=shared, per_scope=per_scope)
    values = arrays(seed, scopes)
    found = Player(tape, UNITS, scopes, SCOPE_OF if shared else None).play({**values, "sizes": SIZES})
    with np.errstate(all="ignore"):
        right = function(scope, **values)
    assert found.keys() == right.keys()
    for name, value in right.items():
        np.testing.assert_allclose(found[name], value, rtol=rtol, err_msg=name)


UNARY: list[Callable[[Any, Any], Any]] = [
    lambda xp, x: xp.sqrt(abs(x)),
    lambda xp, x: xp.exp(-abs(x)),
    lambda xp, x: xp.log(abs(x) + 1),
    lambda xp, x: -x,
    lambda xp, x: x**2,
    lambda xp, x: abs(x) ** 0.25,
    lambda xp, x: 2.0**-x,
    lambda xp, x: xp.clip(x, -1.0, 0.5),
    lambda xp, x: xp.astype(x > 0, x.dtype),
    lambda xp, x: xp.where(~(x < 0.3), 1 - x, x / 3),
    lambda xp, x: xp.astype(xp.astype(x, xp.float32), xp.float64),
    lambda xp, x: 0.0 + xp.isfinite(1 / (x - x)),
]
BINARY: list[Callable[[Any, Any, Any], Any]] = [
    lambda xp, x, y: x + 2 * y,
    lambda xp, x, y: x * y - 1,
    lambda xp, x, y: x / (1 + y * y),
    lambda xp, x, y: xp.maximum(x, y) - xp.minimum(x, 0.5 * y),
    lambda xp, x, y: xp.where((x <= y) & (x != 0) | (y > 1), x, y),
    lambda xp, x, y: 0.0 + (x == x) * (y >= x),
    lambda xp, x, y: 0.5 * ((x > 0) + (y > 0)) + ((x > 0) ^ (y > 0)),
    lambda xp, x, y: xp.sum(xp.stack([x > 0, y > 0, x > y], axis=1), axis=1) + xp.cumsum(xp.stack([x, y], 1), 1)[:, 1],
]
# Not in a row with others: a difference in the last bit may become one of a whole number.
CURVED: list[Callable[[Any, Any], Any]] = [
    lambda xp, x: xp.floor(x) + xp.sign(x),
    lambda xp, x: xp.sin(x) * xp.cos(x),
    lambda xp, x: xp.tanh(x),
    lambda xp, x: xp.log1p(abs(x)) + 0.1 * xp.isnan(x),
    lambda xp, x: xp.expm1(-abs(x)),
    lambda xp, x: x % 0.7 - x // 0.3,
    lambda xp, x: xp.trunc(x) + xp.ceil(0.5 * x),
    lambda xp, x: xp.remainder(x, x[::-1] - 1) + xp.floor_divide(x[::-1], x - 1),
]


@plays
@given(
    steps=st.lists(
        st.tuples(st.integers(0, len(UNARY) + len(BINARY) - 1), st.integers(0, 20), st.integers(0, 20)),
        min_size=1,
        max_size=30,
    ),
    seed=st.integers(0, 1000),
)
@settings(max_examples=150, deadline=None)
def test_any_sequence_of_operations(steps: list[tuple[int, int, int]], seed: int) -> None:
    """Registers are used again as soon as they are free: none may be lost, or overwritten too early."""

    def function(scope: Scope, u: Any, v: Any, s: Any) -> dict[str, Any]:
        xp = namespace(v)
        values = [v, u[:, 0], u[:, 1], u[:, 2]]
        for which, one, other in steps:
            x, y = values[one % len(values)], values[other % len(values)]
            made = UNARY[which](xp, x) if which < len(UNARY) else BINARY[which - len(UNARY)](xp, x, y)
            # the last bits of exp, log and powers are the C library's: they are rounded off, and not magnified
            made = xp.astype(xp.astype(xp.where(abs(made) < 1e6, made, v), xp.float32), xp.float64)
            values.append(made)
        return {"last": values[-1], "all": xp.stack(values, axis=1)}

    both(function, seed, shared=False)


@plays
def test_curved_functions_and_whole_numbers() -> None:
    def function(scope: Scope, u: Any, v: Any, s: Any) -> dict[str, Any]:
        xp = namespace(v)
        x = xp.concat([u, xp.stack([v, -v, 0 * v, 0 * v + np.inf, 0 * v - np.inf, 0 * v + np.nan], axis=1)], axis=1)
        return {
            str(k): xp.permute_dims(curve(xp, xp.permute_dims(x, (1, 0))), (1, 0)) for k, curve in enumerate(CURVED)
        }

    for seed in range(5):
        both(function, seed, shared=False)


@plays
@pytest.mark.parametrize("shared", [False, True])
def test_scopes(shared: bool) -> None:
    def function(scope: Scope, u: Any, v: Any, s: Any) -> dict[str, Any]:
        weight = scope.mean(v) + scope.total(u)[:, 1] * s + scope.least(v) - scope.oldest(v, u[:, 0])
        return {"weight": weight, "back": scope.spread(weight) * v, "one": 0 * s + 1, "divided": scope.divide(weight)}

    both(function, shared=shared, per_scope=("weight", "one"))


@plays
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("floors", [(), (1,)])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_solver(count: int, floors: tuple[int, ...], shared: bool) -> None:
    random = np.random.default_rng(count)
    mixes = random.normal(size=(count, 3))

    def function(scope: Scope, u: Any, v: Any, s: Any) -> dict[str, Any]:
        xp = namespace(v)
        heights = xp.stack([k * v for k in range(count)], axis=1)
        slopes = u[:, None, :] * mixes
        found = weights(heights, slopes @ xp.matrix_transpose(slopes), floors=floors)
        return {"weights": found, "best": xp.argmax(heights, axis=1) + 0.0}

    both(function, shared=shared, rtol=1e-9)  # products of matrices are summed in another order


@plays
def test_arrays_are_changed_in_place_as_arrays_are() -> None:
    def function(scope: Scope, u: Any, v: Any, s: Any) -> dict[str, Any]:
        xp = namespace(v)
        pair = xp.stack([v, 2 * v], axis=1)
        view, other = pair[:, 0], xp.astype(v, v.dtype)
        view *= 3
        view -= 1
        other[v > 0] = 0.5
        flags = v > 0
        return {"pair": pair, "other": other, "v": v, "some": xp.where(flags, np.nan, v), "none": 0 * v + np.nan}

    both(function, shared=False)


@plays
def test_zeros_keep_their_sign() -> None:
    def function(scope: Scope, u: Any, v: Any, s: Any) -> dict[str, Any]:
        xp = namespace(v)
        return {str(zero): 1 / xp.where(v > 0, zero, zero) for zero in (0.0, -0.0)}

    both(function, shared=False)


@plays
def test_many_units_go_through_in_blocks() -> None:
    tape = record(lambda scope, x: {"y": x * x + 1}, {"x": Given()}, shared=False)
    x = np.random.default_rng(0).normal(size=1000)
    for count in (0, 1, 127, 128, 129, 1000):
        np.testing.assert_array_equal(Player(tape, count, count, None).play({"x": x[:count]})["y"], x[:count] ** 2 + 1)


def _random(scope: Scope, v: Any) -> dict[str, Any]:
    return {"w": v * float(np.random.default_rng().normal())}


def _catching(scope: Scope, v: Any) -> dict[str, Any]:
    try:
        return {"w": v if v[0] > 100 else -v}
    except Exception:
        return {"w": -v}


def _asking(scope: Scope, v: Any) -> dict[str, Any]:
    return {"w": v.cumprod() if hasattr(v, "cumprod") else -v}


UNRECORDABLE: dict[str, tuple[Callable[..., Any], str]] = {
    "a branch": (lambda scope, v: {"w": v if v[0] > 0 else -v}, "a branch"),
    "a number": (lambda scope, v: {"w": v * float(v[0])}, "a branch"),
    "a loop over units": (lambda scope, v: {"w": sum(x for x in v) + v}, "a branch"),
    "chance": (_random, "not the same each time"),
    "no instruction": (lambda scope, v: {"w": np.arctan(v)}, "arctan"),
    "an index": (lambda scope, v: {"w": np.ones(3)[v]}, "a branch"),
    "a mistake": (lambda scope, v: {"w": v.nothing}, "nothing"),
    "scopes and units": (lambda scope, v: {"w": scope.total(v) * v}, "units and of scopes"),
    "a sum twice": (lambda scope, v: {"w": scope.total(scope.total(v))}, "total of"),
    "one for each scope": (lambda scope, v: {"w": scope.total(v)}, "one for each unit"),
    "caught": (_catching, "a branch"),
    "caught, no method": (_asking, "cumprod"),
    "any of all": (lambda scope, v: {"w": v * np.any(v > 100)}, "over units"),
    "any along units": (lambda scope, v: {"w": v * np.any(v > 100, axis=0)}, "over units"),
    "most of all": (lambda scope, v: {"w": v * v.max()}, "over units"),
    "how many": (lambda scope, v: {"w": v * 2 if v.size > 10 else v}, "how many units"),
    "of which shape": (lambda scope, v: {"w": v * 2 if v.shape == (9,) else v}, "how many units"),
    "truth values": (lambda scope, v: {"w": 1.0 * ((v > 0) - (v > 1))}, "truth values"),
    "too much": (lambda scope, v: {"w": sum(v * k for k in range(30_000))}, "instructions"),
}


@pytest.mark.parametrize("name", UNRECORDABLE)
def test_what_cannot_be_recorded_is_said(name: str) -> None:
    function, message = UNRECORDABLE[name]
    with pytest.raises(Untraceable, match=message):
        record(function, {"v": Given()}, shared=True)


@plays
def test_what_is_given_is_looked_at() -> None:
    player = Player(record(lambda scope, u: {"v": u[:, 0]}, {"u": Given(shape=(2,))}, shared=False), 3, 3, None)
    with pytest.raises(ValueError, match=r"u must have the shape \(3, 2\), got \(3,\)"):
        player.play({"u": np.zeros(3)})
    wide = np.arange(12.0).reshape(3, 4)
    np.testing.assert_array_equal(player.play({"u": wide[:, ::2]})["v"], wide[:, 0])  # strides
    np.testing.assert_array_equal(player.play({"u": wide[:, :2].astype(np.float32)})["v"], wide[:, 0])
    wide += 1  # the same array with other numbers
    np.testing.assert_array_equal(player.play({"u": wide[:, ::2]})["v"], wide[:, 0])
    with pytest.raises(ValueError, match="unit"):
        Player(
            record(lambda scope, v: {"w": scope.total(v)}, {"v": Given()}, shared=True, per_scope=("w",)),
            2,
            1,
            np.array([0, 1]),
        ).play({"v": np.zeros(2)})
