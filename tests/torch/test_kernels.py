"""The C++ kernels: against plain formulas in NumPy, whatever the type, the settings, the lengths and the threads."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from proxmom import kernels
from proxmom.kernels import build

usable = pytest.mark.skipif(not kernels.available(), reason=kernels.why_not())
compiler = pytest.mark.skipif(not build.compilers(), reason="no C++ compiler")
Array = NDArray[Any]
FOLDER = Path(kernels.__file__).parent
STORED = {"float32": np.float32, "float64": np.float64, "bfloat16": np.uint16, "float16": np.float16}
TOLERANCE = {"float32": 1e-5, "float64": 1e-12, "bfloat16": 1e-5, "float16": 1e-5}
SIZES, UNITS = (0, 1, 15, 70000, 4097, 0, 5), (0, 0, 1, 2, 1, 3, 0)  # unit 3 has no elements
U = 4


def widened(values: Array) -> Array:
    """As float32 what is stored as bfloat16 (uint16); the other types as they are."""
    return (values.astype(np.uint32) << 16).view(np.float32) if values.dtype == np.uint16 else values


def rounded(values: Array, dtype: str) -> Array:
    """Values in a type, rounded to nearest even; for bfloat16: 8 digits, or multiples of 2^-133."""
    with np.errstate(over="ignore", invalid="ignore"):  # NaN may be a signalling one
        if dtype != "bfloat16":
            return values.astype(STORED[dtype])
        mantissa, exponent = np.frexp(values.astype(np.float64))
        unit = np.maximum(exponent, -125) - 8
        nearest = np.ldexp(np.rint(np.ldexp(mantissa, exponent - unit)), unit).astype(np.float32)
    return (nearest.view(np.uint32) >> 16).astype(np.uint16)


@dataclass
class Tensors:
    """Some tensors in memory, each one element behind where an allocator would put it."""

    dtype: str
    sizes: tuple[int, ...] = SIZES
    units: tuple[int, ...] = UNITS
    seed: int = 0
    arrays: dict[str, list[Array]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng, state = np.random.default_rng(self.seed), kernels.TYPES[self.dtype]
        for name in ("x", "gradient", "memory", "second_moment"):
            values = [rng.standard_normal(n + 1).astype(state) for n in self.sizes]
            if name == "second_moment":
                values = [v**2 for v in values]
            self.arrays[name] = [(v if name[0] in "ms" else rounded(v, self.dtype))[1:] for v in values]

    def batch(self) -> kernels.Batch:
        columns = {name: np.array([a.ctypes.data for a in list_]) for name, list_ in self.arrays.items()}
        return kernels.Batch(self.dtype, np.array(self.sizes), np.array(self.units), **columns)

    def bytes(self) -> list[bytes]:
        return [a.tobytes() for list_ in self.arrays.values() for a in list_]

    def each(self, dtype: Any) -> Any:
        """Of each tensor: its unit, and x, gradient, memory, second moment in the type of the computation."""
        for k, unit in enumerate(self.units):
            yield unit, *(widened(list_[k]).astype(dtype) for list_ in self.arrays.values())


def settings(metric: str, inertia: float, coupled: bool) -> dict[str, Any]:
    decay = np.array([0.3, 0.0, -0.2, 0.1]) if coupled else None
    adam = (np.array([1.0, 1.5, 0.7, 1.0]), np.full(U, 1e-3), 0.9) if metric == "Adam" else None
    return {"sign": -1.0, "coupled": decay, "adam": adam, "inertia": inertia}


def formulas(tensor: tuple[Any, ...], given: dict[str, Any], dtype: Any) -> tuple[Array, Array, Any]:
    """g, v' and P of one tensor, in the type."""
    unit, x, gradient, _, v = tensor
    g = dtype(given["sign"]) * gradient
    if given["coupled"] is not None and given["coupled"][unit]:
        g = g + dtype(given["coupled"][unit]) * x
    if given["adam"] is None:
        return g, v, dtype(1)
    a, b, beta2 = given["adam"]
    v = dtype(beta2) * v + dtype(1 - beta2) * (g * g)
    return g, v, dtype(a[unit]) * np.sqrt(v) + dtype(b[unit])


def expected_sums(tensors: Tensors, given: dict[str, Any], with_x: bool, units: int = U) -> tuple[Array, Array]:
    """The sums, and the sums of absolute terms, (U, 8), in float64."""
    sums, size = np.zeros((2, units, 8))
    for tensor in tensors.each(np.float64):
        g, _, p = formulas(tensor, given, np.float64)
        unit, x, _, d, _ = tensor
        pm = 1 / (1 + given["inertia"] * p)
        pairs = [g * g, g * d, d * d]
        terms = [pm / p * z for z in pairs] + [pm * z * (given["inertia"] > 0) for z in pairs]
        terms += [g * x * with_x, d * x * with_x]
        sums[unit] += [z.sum() for z in terms]
        size[unit] += [abs(z).sum() for z in terms]
    return sums, size


def expected_move(tensors: Tensors, given: dict[str, Any], to: dict[str, Array], dtype: Any) -> list[list[Array]]:
    """x, memory and second moment of each tensor after the move, in the type of the computation."""
    moved = []
    for tensor in tensors.each(dtype):
        g, v, p = formulas(tensor, given, dtype)
        unit, x, _, d, _ = tensor
        cg, cd = to["direction"][unit].astype(dtype)
        d_new = cg * g + cd * d
        if given["inertia"]:
            held = dtype(given["inertia"]) * p
            d_new = (d_new + held * d) / (1 + held)
        moved.append([dtype(to["shrink"][unit]) * x - dtype(to["scale"][unit]) * (d_new / p), d_new, v])
    return moved


def direction() -> dict[str, Array]:
    rng = np.random.default_rng(1)
    return {
        "direction": rng.standard_normal((U, 2)),
        "scale": np.array([0.1, 0.2, 0.0, 1.0]),
        "shrink": np.array([1.0, 0.9, 0.8, 1.0]),
    }


table = [
    pytest.mark.parametrize("dtype", kernels.TYPES),
    pytest.mark.parametrize("metric", ["Euclidean", "Adam"]),
    pytest.mark.parametrize("inertia", [0.0, 0.1]),
    pytest.mark.parametrize("coupled", [False, True]),
]


def tabled(test: Any) -> Any:
    for mark in table:
        test = mark(test)
    return usable(test)


@tabled
@pytest.mark.parametrize("with_x", [False, True])
def test_sums_are_those_of_the_formula(dtype: str, metric: str, inertia: float, coupled: bool, with_x: bool) -> None:
    tensors, given = Tensors(dtype), settings(metric, inertia, coupled)
    before = tensors.bytes()
    sums = kernels.measure(tensors.batch(), U, **given, with_x=with_x)
    want, size = expected_sums(tensors, given, with_x)
    assert np.all(abs(sums - want) <= TOLERANCE[dtype] * size)
    assert tensors.bytes() == before, "pass 1 wrote something"


@tabled
def test_the_move_is_that_of_the_formula(dtype: str, metric: str, inertia: float, coupled: bool) -> None:
    tensors, given, to = Tensors(dtype), settings(metric, inertia, coupled), direction()
    state = np.dtype(kernels.TYPES[dtype]).type
    exact, close = expected_move(tensors, given, to, state), expected_move(tensors, given, to, np.float64)
    kernels.move(tensors.batch(), **to, **given)
    for k, (same, near) in enumerate(zip(exact, close, strict=True)):
        x, memory, v = (tensors.arrays[name][k] for name in ("x", "memory", "second_moment"))
        assert_array_equal(widened(x), widened(rounded(same[0], dtype)))
        assert_array_equal(memory, same[1])
        assert_array_equal(v, same[2])
        assert_allclose(memory, near[1], rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@usable
@pytest.mark.parametrize("dtype", kernels.TYPES)
@pytest.mark.parametrize("metric", ["Euclidean", "Adam"])
def test_threads_change_no_bit(dtype: str, metric: str) -> None:
    given, sizes, units = settings(metric, 0.1, True), (200_001, 3, 150_000), (2, 0, 2)
    results = []
    for threads in (1, 2, 3):
        tensors = Tensors(dtype, sizes, units)
        sums = kernels.measure(tensors.batch(), U, **given, with_x=True, threads=threads)
        kernels.move(tensors.batch(), **direction(), **given, threads=threads)
        results.append([sums.tobytes(), *tensors.bytes()])
    assert results[0] == results[1] == results[2]


@usable
@pytest.mark.parametrize("dtype", kernels.TYPES)
@pytest.mark.parametrize("metric", ["Euclidean", "Adam"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 37, 4096])
def test_what_is_not_finite_arrives(dtype: str, metric: str, value: float, at: int) -> None:
    tensors = Tensors(dtype)
    tensors.arrays["gradient"][4][at : at + 1] = rounded(np.array([value], np.float32), dtype)
    sums = kernels.measure(tensors.batch(), U, **settings(metric, 0.1, False))
    assert not np.isfinite(sums[1, :2]).any()
    assert np.isfinite(sums[[0, 2, 3]]).all()


@usable
@pytest.mark.parametrize("value", [0.1, 1 / 3, 0.7])
def test_equal_terms_do_not_add_up_their_rounding(value: float) -> None:
    tensors = Tensors("float32", (300_000,), (0,))
    tensors.arrays["gradient"][0][:] = value
    want, _ = expected_sums(tensors, {"sign": 1, "coupled": None, "adam": None, "inertia": 0.0}, False, units=1)
    assert_allclose(kernels.measure(tensors.batch(), 1)[0, 0], want[0, 0], rtol=1e-5)


@usable
@pytest.mark.parametrize("coupled", [None, np.zeros(U)])
def test_x_is_not_read_where_it_does_not_matter(coupled: Any) -> None:
    tensors = Tensors("float32")
    for x in tensors.arrays["x"]:
        x[:] = np.nan
    assert np.isfinite(kernels.measure(tensors.batch(), U, coupled=coupled)).all()


@usable
def test_a_call_without_tensors_and_a_batch_without_second_moment() -> None:
    none = np.zeros(0, np.int64)
    nothing = kernels.Batch("float32", none, none, none, none, none)
    assert kernels.measure(nothing, 0).shape == (0, 8)
    assert_array_equal(kernels.measure(nothing, 2), np.zeros((2, 8)))
    kernels.move(nothing, np.zeros((0, 2)), scale=none, shrink=none)


def float32_patterns(dtype: str) -> Array:
    """All values of a half type, what lies half-way between neighbours, its neighbours, and random bit patterns."""
    every = np.arange(1 << 16, dtype=np.uint16)
    values = widened(every) if dtype == "bfloat16" else every.view(np.float16).astype(np.float32)
    values = np.sort(values[np.isfinite(values)])
    middle = ((values[1:].astype(np.float64) + values[:-1]) / 2).astype(np.float32)
    random = np.random.default_rng(0).integers(0, 1 << 32, 1 << 18, dtype=np.uint32).view(np.float32)
    with np.errstate(over="ignore", under="ignore"):
        beside = [np.nextafter(middle, np.float32(sign * np.inf)) for sign in (1, -1)]
    ends = np.float32([np.inf, -np.inf, np.nan, 65519.99, 65520, 3.4e38, -3.4e38])
    return np.concatenate([values, middle, *beside, random, ends])


@usable
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_types_are_loaded_exactly_and_rounded_once(dtype: str) -> None:
    every = np.arange(1 << 16, dtype=np.uint16)
    gradient = every if dtype == "bfloat16" else every.view(np.float16)
    x, memory = np.zeros_like(gradient), np.zeros(every.size, np.float32)
    move_one(dtype, x, gradient, memory, coefficients=(1, 0), scale=0)
    with np.errstate(invalid="ignore"):  # signalling NaNs
        assert_array_equal(memory, widened(gradient).astype(np.float32))

    memory = float32_patterns(dtype)
    x = rounded(np.zeros_like(memory), dtype)
    wanted = widened(rounded(memory, dtype))
    move_one(dtype, x, np.zeros_like(x), memory, coefficients=(0, 1), scale=-1)
    assert_array_equal(widened(x), wanted)


def move_one(dtype: str, x: Array, gradient: Array, memory: Array, coefficients: Any, scale: float) -> None:
    columns = [np.array([array.ctypes.data]) for array in (x, gradient, memory)]
    batch = kernels.Batch(dtype, np.array([x.size]), np.array([0]), *columns)
    kernels.move(batch, np.array([coefficients], float), scale=[scale], shrink=[1])


@usable
@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 2)), max_size=8), st.integers(0, 9))
def test_a_units_sums_are_those_of_its_tensors(shapes: list[tuple[int, int]], seed: int) -> None:
    sizes, units = (tuple(column) for column in zip(*shapes, strict=True)) if shapes else ((), ())
    tensors, given = Tensors("float64", sizes, units, seed), settings("Adam", 0.1, False)
    given["adam"] = tuple(value[:3] if np.ndim(value) else value for value in given["adam"])
    want, size = expected_sums(tensors, given, True, units=3)
    sums = kernels.measure(tensors.batch(), 3, **given, with_x=True)
    assert np.all(abs(sums - want) <= 1e-12 * size)


@usable
def test_what_cannot_be_is_refused() -> None:
    batch = Tensors("float32").batch()
    with pytest.raises(ValueError, match=r"batch.unit must be in \[0, 3\)"):
        kernels.measure(batch, 3)
    with pytest.raises(ValueError, match=r"coupled must have one entry for each unit, shape \(4,\), got \(3,\)"):
        kernels.measure(batch, U, coupled=np.zeros(3))
    with pytest.raises(ValueError, match=r"direction must have the shape \(U, 2\), got \(4, 3\)"):
        kernels.move(batch, np.zeros((U, 3)), scale=np.ones(U), shrink=np.ones(U))
    euclidean = kernels.Batch("float32", batch.size, batch.unit, batch.x, batch.gradient, batch.memory)
    with pytest.raises(ValueError, match="second_moment must be addresses with adam"):
        kernels.measure(euclidean, U, **settings("Adam", 0.0, False))


def test_a_batch_says_what_it_wants() -> None:
    one, two = np.zeros(1, np.int64), np.zeros(2, np.int64)
    with pytest.raises(ValueError, match=r"dtype must be one of float32, .*, got 'int8'"):
        kernels.Batch("int8", one, one, one, one, one)
    with pytest.raises(ValueError, match=r"memory must have the shape of size, \(1,\), got \(2,\)"):
        kernels.Batch("float32", one, one, one, one, two)
    with pytest.raises(TypeError, match="integers, got float64"):
        kernels.Batch("float32", one, one, np.zeros(1), one, one)
    assert kernels.Batch("float32", one, one, one, one, one).x is one
    assert kernels.supports("bfloat16")
    assert not kernels.supports("complex64")
