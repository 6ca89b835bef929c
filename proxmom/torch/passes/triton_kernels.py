"""The two passes as Triton kernels: one program for each chunk of a parameter, however many parameters there are.

Only `cuda` beside it imports this, and late: Triton takes a while to load and may be missing. The formulas are
those of `TorchPasses` and of `kernels/passes.cpp`; rules with further memories have kernels in `triton_vectors`.

Tables, int64, a row for each chunk. tensors (C, 5): address of memory, address of the second moment, elements, unit,
row of its sums; addresses (C, 2): x, gradient. X is the parameters' dtype, S that of the computation. In the Euclidean
metric BETA2, at_zero and at_one are None; without coupled decay, coupled is None. Numbers that are one for all steps
are compiled in: as arguments they would be float32.
"""

import triton
import triton.language as tl

TENSOR_COLUMNS = tl.constexpr(5)
SUMS = tl.constexpr(8)
SCALARS = ["coupled", "at_zero", "at_one", "direction", "scale", "shrink", "sound"]  # read one by one: may lie anywhere


@triton.jit
def _quotient(a, b):
    """a / b as IEEE has it; the plain operator is approximate in float32."""
    if b.dtype == tl.float64:
        return a / b
    else:
        return tl.div_rn(a, b)


@triton.jit
def _root(v):
    """The square root as IEEE has it."""
    if v.dtype == tl.float64:
        return tl.sqrt(v)
    else:
        return tl.sqrt_rn(v)


@triton.jit
def _pointer(table, T: tl.constexpr):
    """What an entry points at; nothing is said of its alignment, as views may begin anywhere."""
    return tl.load(table).to(tl.pointer_type(T))


@triton.jit
def _chunk(tensors, addresses, X: tl.constexpr, S: tl.constexpr):
    """Of this program: memory, second moment, x, gradient; elements, unit, row of its sums."""
    chunk = tl.program_id(0).to(tl.int64)
    row, here = tensors + chunk * TENSOR_COLUMNS, addresses + chunk * 2
    memory, moment = _pointer(row, S), _pointer(row + 1, S)
    x, gradient = _pointer(here, X), _pointer(here + 1, X)
    count = tl.load(row + 2).to(tl.int32)
    return memory, moment, x, gradient, count, tl.load(row + 3), tl.load(row + 4)


@triton.jit
def _metric(at_zero, at_one, unit, S: tl.constexpr):
    """a, b with P = a·sqrt(v) + b, from P at v = 0 and at v = 1."""
    if at_zero is None:
        return 0.0, 1.0
    else:
        zero, one = tl.load(at_zero + unit), tl.load(at_one + unit)
        return (one - zero).to(S), zero.to(S)


@triton.jit
def _gradient(gradient, x, coupled, unit, at, count, SIGN: tl.constexpr, S: tl.constexpr):
    """The gradient as the rule sees it."""
    g = SIGN * tl.load(gradient + at, mask=at < count, other=0.0).to(S)
    if coupled is not None:
        mu = tl.load(coupled + unit).to(S)
        decayed = tl.where(mu != 0, count, 0)  # where there is no decay, x is not even read
        g += mu * tl.load(x + at, mask=at < decayed, other=0.0).to(S)
    return g


@triton.jit
def _diagonal(moment, g, a, b, at, there, BETA2: tl.constexpr):
    """New second moment, and P; 1 behind the end, where nothing may become 0/0."""
    v = BETA2 * tl.load(moment + at, mask=there, other=0.0) + (1 - BETA2) * (g * g)
    return v, tl.where(there, a * _root(v) + b, 1.0)


@triton.jit(do_not_specialize_on_alignment=SCALARS[:3])
def measure(
    tensors,
    addresses,
    coupled,
    at_zero,
    at_one,
    sums,
    X: tl.constexpr,
    S: tl.constexpr,
    SIGN: tl.constexpr,
    BETA2: tl.constexpr,
    INERTIA: tl.constexpr,
    WITH_X: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sums over each chunk, into its row of sums (C, 8)."""
    memory, moment, x, gradient, count, unit, row = _chunk(tensors, addresses, X, S)
    a, b = _metric(at_zero, at_one, unit, S)
    zeros = tl.zeros([BLOCK], S)
    gg, gd, dd, pgg, pgd, pdd, gx, dx, total = zeros, zeros, zeros, zeros, zeros, zeros, zeros, zeros, zeros
    for start in range(0, count, BLOCK):
        at = start + tl.arange(0, BLOCK)
        there = at < count
        g = _gradient(gradient, x, coupled, unit, at, count, SIGN, S)
        d = tl.load(memory + at, mask=there, other=0.0)
        mg, md = g, d
        if BETA2 is not None:
            _, p = _diagonal(moment, g, a, b, at, there, BETA2)
            total += p
            if INERTIA != 0:
                smooth = _quotient(1.0, 1 + INERTIA * p)
                mg, md = g * smooth, d * smooth
                pgg += mg * g
                pgd += mg * d
                pdd += md * d
            mg, md = _quotient(mg, p), _quotient(md, p)
        gg += mg * g
        gd += mg * d
        dd += md * d
        if WITH_X:
            values = tl.load(x + at, mask=there, other=0.0).to(S)
            gx += g * values
            dx += d * values
    gg += 0 * total  # NaN where some P is infinite: divided by it, every product is 0
    share: tl.constexpr = 1.0 if BETA2 is not None else 1 / (1 + INERTIA)  # in the Euclidean metric M is one number
    out = sums + row * SUMS
    tl.store(out, tl.sum(gg) * share)
    tl.store(out + 1, tl.sum(gd) * share)
    tl.store(out + 2, tl.sum(dd) * share)
    if BETA2 is None and INERTIA != 0:
        pgg, pgd, pdd = gg * share, gd * share, dd * share
    tl.store(out + 3, tl.sum(pgg))
    tl.store(out + 4, tl.sum(pgd))
    tl.store(out + 5, tl.sum(pdd))
    tl.store(out + 6, tl.sum(gx))
    tl.store(out + 7, tl.sum(dx))


@triton.jit
def add_up(sums, ends, total, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Of each unit: the sums of its chunks, which are neighbours, always in the same order; SUMS of WIDTH columns."""
    unit = tl.program_id(0).to(tl.int64)
    first, last = tl.load(ends + unit), tl.load(ends + unit + 1)
    column = tl.program_id(1) * SUMS + tl.arange(0, SUMS)
    whole = tl.zeros([ROWS, SUMS], sums.dtype.element_ty)
    for start in range(first, last, ROWS):
        row = start + tl.arange(0, ROWS)
        there = (row < last)[:, None] & (column < WIDTH)[None, :]
        whole += tl.load(sums + row[:, None] * WIDTH + column[None, :], mask=there, other=0.0)
    tl.store(total + unit * WIDTH + column, tl.sum(whole, axis=0), mask=column < WIDTH)


@triton.jit(do_not_specialize_on_alignment=SCALARS)
def move(
    tensors,
    addresses,
    coupled,
    at_zero,
    at_one,
    direction,
    scale,
    shrink,
    sound,
    X: tl.constexpr,
    S: tl.constexpr,
    SIGN: tl.constexpr,
    BETA2: tl.constexpr,
    INERTIA: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """New memory, second moment and x of each chunk, unless the step is not sound."""
    memory, moment, x, gradient, count, unit, _ = _chunk(tensors, addresses, X, S)
    if sound is not None:
        count = tl.where(tl.load(sound), count, 0)
    a, b = _metric(at_zero, at_one, unit, S)
    to_gradient, to_memory = tl.load(direction + 2 * unit).to(S), tl.load(direction + 2 * unit + 1).to(S)
    by, shrunk = tl.load(scale + unit).to(S), tl.load(shrink + unit).to(S)
    for start in range(0, count, BLOCK):
        at = start + tl.arange(0, BLOCK)
        there = at < count
        g = _gradient(gradient, x, coupled, unit, at, count, SIGN, S)
        d = tl.load(memory + at, mask=there, other=0.0)
        new = to_gradient * g + to_memory * d
        if BETA2 is not None:
            v, p = _diagonal(moment, g, a, b, at, there, BETA2)
            tl.store(moment + at, v, mask=there)
            if INERTIA != 0:
                new = _quotient(new + INERTIA * p * d, 1 + INERTIA * p)
            pulled = _quotient(new, p)
        else:
            if INERTIA != 0:
                new = (new + INERTIA * d) * (1 / (1 + INERTIA))
            pulled = new
        tl.store(memory + at, new, mask=there)
        old = tl.load(x + at, mask=there, other=0.0).to(S)
        tl.store(x + at, (shrunk * old - by * pulled).to(X), mask=there)


@triton.jit
def power(a, b):
    """a ** b; a negative a has powers that are whole numbers."""
    size = tl.exp(b * tl.log(tl.abs(a)))
    at_zero = tl.where(b == 0, 1.0, tl.where(b > 0, 0.0, 1 / tl.abs(a))).to(tl.float64)
    half = b * 0.5
    odd = tl.floor(half) != half
    of_negative = tl.where(tl.floor(b) == b, tl.where(odd, -size, size), b - b + (a - a) / (a - a))
    return tl.where(a > 0, size, tl.where(a == 0, at_zero, of_negative))


@triton.jit
def log1p(a):
    """log(1 + a), small a too: the rounding of 1 + a is divided out."""
    above = 1 + a
    small = tl.where(above == 1, a, tl.log(above) * (a / (above - 1)))
    return tl.where(above - above == 0, small, tl.log(above))


@triton.jit
def expm1(a):
    """exp(a) - 1, small a too: the rounding of exp(a) is divided out."""
    above = tl.exp(a)
    small = tl.where(above == 1, a, tl.where(above == 0, -1.0, (above - 1) * (a / tl.log(above))))
    return tl.where(above - above == 0, small, above)


@triton.jit
def tanh(a):
    less = expm1(-2 * tl.abs(a))
    size = -less / (less + 2)
    return tl.where(a < 0, -size, size)


@triton.jit
def remainder(a, b):
    """What division by b leaves, with the sign of b."""
    rest = tl.fma(-tl.floor(a / b), b, a)
    rest = tl.where(rest == 0, rest, tl.where((rest < 0) != (b < 0), rest + b, rest))  # the quotient was rounded
    rest = tl.where(tl.abs(rest) >= tl.abs(b), rest - b, rest)
    of_infinite = tl.where(a == 0, a, tl.where((a < 0) != (b < 0), b, a))
    return tl.where(tl.abs(b) == float("inf"), tl.where(a - a == 0, of_infinite, rest), rest)


@triton.jit(do_not_specialize=["rows_count", "weights_count", "beta_count"])
def settle(
    sound, rows, new_rows, rows_count, weights, new_weights, weights_count, beta, new_beta, beta_count,
    COLUMNS: tl.constexpr, SKIPPED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """What was decided takes the place of what was, where the step is sound; else it is counted as skipped."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    taken = tl.load(sound)
    old = tl.load(rows + at, mask=at < rows_count, other=0.0)
    skipped = old + tl.where(at % COLUMNS == SKIPPED, 1.0, 0.0).to(old.dtype)
    new = tl.load(new_rows + at, mask=at < rows_count, other=0.0).to(old.dtype)
    tl.store(rows + at, tl.where(taken, new, skipped), mask=at < rows_count)
    kept = tl.where(taken, at, -1)  # without a step these stay as they are
    there = (kept >= 0) & (at < weights_count)
    tl.store(weights + at, tl.load(new_weights + at, mask=there, other=0.0), mask=there)
    there = (kept >= 0) & (at < beta_count)
    tl.store(beta + at, tl.load(new_beta + at, mask=there, other=0.0), mask=there)


COMPILED = isinstance(move, triton.runtime.JITFunction)  # not so under TRITON_INTERPRET=1
