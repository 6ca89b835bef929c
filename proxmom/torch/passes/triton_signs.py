"""A hard step in the maximum norm as Triton kernels: its directions are signs, element by element.

Only `cuda_signs` beside it imports this, and late. The formulas are those of `NormPasses` and of `kernels/signs.h`:
with g the gradient, d the memory and t = a·g + b·d, a slope (a, b) pulls Σ sign(t)·g and Σ sign(t)·d. The products of t
must not be fused into its sum, lest an element with t = 0 get the sign of a rounding.

Tables, X and S are as in `triton_kernels`.
"""

import triton
import triton.language as tl

from proxmom.torch.passes.triton_kernels import _chunk, _gradient, add_up  # noqa: F401 - the same adding up

SCALARS = ["coupled", "slopes", "direction", "scale", "shrink", "parts", "sound"]  # read one by one: may lie anywhere


@triton.jit
def _sign(a, b, g, d, S: tl.constexpr):
    """The sign of a·g + b·d."""
    t = a * g + b * d
    return (t > 0).to(S) - (t < 0).to(S)


@triton.jit(do_not_specialize_on_alignment=SCALARS[:1])
def recall(
    tensors,
    addresses,
    coupled,
    sums,
    X: tl.constexpr,
    S: tl.constexpr,
    SIGN: tl.constexpr,
    INVERSE: tl.constexpr,
    WITH_X: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Products of g and d with the direction that memory recalls, clip(d·INVERSE, -1, 1), then with x: (C, 4)."""
    memory, _, x, gradient, count, unit, row = _chunk(tensors, addresses, X, S)
    zeros = tl.zeros([BLOCK], S)
    gv, dv, gx, dx = zeros, zeros, zeros, zeros
    for start in range(0, count, BLOCK):
        at = start + tl.arange(0, BLOCK)
        there = at < count
        g = _gradient(gradient, x, coupled, unit, at, count, SIGN, S)
        d = tl.load(memory + at, mask=there, other=0.0)
        far = d * INVERSE
        v = tl.where(far > 1, 1.0, tl.where(far < -1, -1.0, far))
        gv += g * v
        dv += d * v
        if WITH_X:
            values = tl.load(x + at, mask=there, other=0.0).to(S)
            gx += g * values
            dx += d * values
    out = sums + row * 4
    tl.store(out, tl.sum(gv))
    tl.store(out + 1, tl.sum(dv))
    tl.store(out + 2, tl.sum(gx))
    tl.store(out + 3, tl.sum(dx))


@triton.jit(do_not_specialize_on_alignment=SCALARS[:2])
def pull(
    tensors,
    addresses,
    coupled,
    slopes,
    sums,
    X: tl.constexpr,
    S: tl.constexpr,
    SIGN: tl.constexpr,
    COUNT: tl.constexpr,
    PIECE: tl.constexpr,
):
    """What each of COUNT slopes, (U, COUNT, 2), pulls in each chunk, (C, COUNT, 2): one look for all of them."""
    memory, _, x, gradient, count, unit, row = _chunk(tensors, addresses, X, S)
    which = 2 * tl.arange(0, COUNT)
    ours = slopes + unit * (2 * COUNT) + which
    a, b = tl.load(ours).to(S)[:, None], tl.load(ours + 1).to(S)[:, None]
    of_gradient, of_memory = tl.zeros([COUNT, PIECE], S), tl.zeros([COUNT, PIECE], S)
    for start in range(0, count, PIECE):
        at = start + tl.arange(0, PIECE)
        g = _gradient(gradient, x, coupled, unit, at, count, SIGN, S)[None, :]
        d = tl.load(memory + at, mask=at < count, other=0.0)[None, :]
        s = _sign(a, b, g, d, S)
        of_gradient = tl.fma(s, tl.broadcast_to(g, [COUNT, PIECE]), of_gradient)  # exact: s is a sign
        of_memory = tl.fma(s, tl.broadcast_to(d, [COUNT, PIECE]), of_memory)
    out = sums + row * (2 * COUNT) + which
    tl.store(out, tl.sum(of_gradient, axis=1))
    tl.store(out + 1, tl.sum(of_memory, axis=1))


@triton.jit(do_not_specialize_on_alignment=SCALARS[:1] + SCALARS[2:])
def move(
    tensors,
    addresses,
    coupled,
    direction,
    scale,
    shrink,
    parts,
    sound,
    X: tl.constexpr,
    S: tl.constexpr,
    SIGN: tl.constexpr,
    FAINT: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """New memory and x of each chunk, unless the step is not sound; parts: slopes and shares, (U, PARTS, 3)."""
    memory, _, x, gradient, count, unit, _ = _chunk(tensors, addresses, X, S)
    if sound is not None:
        count = tl.where(tl.load(sound), count, 0)
    to_gradient, to_memory = tl.load(direction + 2 * unit).to(S), tl.load(direction + 2 * unit + 1).to(S)
    by, shrunk = tl.load(scale + unit).to(S), tl.load(shrink + unit).to(S)
    ours = parts + unit * (3 * PARTS)
    for start in range(0, count, BLOCK):
        at = start + tl.arange(0, BLOCK)
        there = at < count
        g = _gradient(gradient, x, coupled, unit, at, count, SIGN, S)
        d = tl.load(memory + at, mask=there, other=0.0)
        step = tl.zeros([BLOCK], S)
        for part in tl.static_range(PARTS):
            a, b = tl.load(ours + 3 * part).to(S), tl.load(ours + 3 * part + 1).to(S)
            step += tl.load(ours + 3 * part + 2).to(S) * _sign(a, b, g, d, S)
        size = tl.abs(to_gradient * g + to_memory * d)
        size = tl.where(tl.abs(step) < 1, FAINT, tl.where(size < FAINT, FAINT, size))
        old = tl.load(x + at, mask=there, other=0.0).to(S)
        tl.store(memory + at, step * size, mask=there)
        tl.store(x + at, (shrunk * old - by * step).to(X), mask=there)
