"""The two passes as Triton kernels for rules with further memories, any number of them; see `triton_kernels`.

The vectors are u[0] the gradient, u[1] memory and the further memories, COUNT of them, in tiles that have PADDED rows,
the next power of 2. A table more than there: vectors (C, COUNT - 1), int64, addresses of all but the gradient.
"""

import triton
import triton.language as tl

from proxmom.torch.passes.triton_kernels import _chunk, _diagonal, _gradient, _metric, _pointer, _quotient

SCALARS = ["coupled", "at_zero", "at_one", "direction", "turns", "scale", "shrink", "sound"]  # may lie anywhere


@triton.jit
def _rows(vectors, S: tl.constexpr, COUNT: tl.constexpr, PADDED: tl.constexpr):
    """Of this program: where each row lies, (PADDED,); of the gradient and behind the end nothing is read."""
    place = tl.arange(0, PADDED)
    held = (place > 0) & (place < COUNT)
    chunk = tl.program_id(0).to(tl.int64)
    at = tl.load(vectors + chunk * (COUNT - 1) + place - 1, mask=held, other=0)
    return place, held, at.to(tl.pointer_type(S))


@triton.jit(do_not_specialize_on_alignment=SCALARS[:3])
def measure_vectors(
    tensors,
    addresses,
    vectors,
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
    COUNT: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sums over each chunk, into its row of sums (C, COUNT·(COUNT + 2)).

    Every vector is a row and a column of a square, so that a thread has all products of its elements: nothing is
    exchanged before the end. The second of the two loads finds the vector in cache.
    """
    _, moment, x, gradient, count, unit, row = _chunk(tensors, addresses, X, S)
    a, b = _metric(at_zero, at_one, unit, S)
    place, held, rows = _rows(vectors, S, COUNT, PADDED)
    metric, pulled = tl.zeros([PADDED, PADDED, BLOCK], S), tl.zeros([PADDED, PADDED, BLOCK], S)
    decay, total = tl.zeros([PADDED, 1, BLOCK], S), tl.zeros([1, 1, BLOCK], S)
    left, right = rows[:, None, None], rows[None, :, None]
    for start in range(0, count, BLOCK):
        at = start + tl.arange(0, BLOCK)[None, None, :]
        there = at < count
        g = _gradient(gradient, x, coupled, unit, at, count, SIGN, S)
        u = tl.load(left + at, mask=there & held[:, None, None], other=0.0)
        v = tl.load(right + at, mask=there & held[None, :, None], other=0.0)
        u, v = tl.where(place[:, None, None] == 0, g, u), tl.where(place[None, :, None] == 0, g, v)
        if WITH_X:
            decay += u * tl.load(x + at, mask=there, other=0.0).to(S)
        if BETA2 is not None:
            _v, p = _diagonal(moment, g, a, b, at, there, BETA2)
            total += p
            v = v * _quotient(1.0, p * (1 + INERTIA * p))
            if INERTIA != 0:
                pulled += p * (u * v)
        metric += u * v
    metric += 0 * total  # NaN where some P is infinite: divided by it, every product is 0
    share: tl.constexpr = 1.0 if BETA2 is not None else 1 / (1 + INERTIA)  # in the Euclidean metric M is one number
    i, j = place[:, None], place[None, :]
    pair, wanted = i * COUNT - i * (i - 1) // 2 + j - i, (i <= j) & (j < COUNT)
    pairs: tl.constexpr = COUNT * (COUNT + 1) // 2
    out, found = sums + row * (COUNT * (COUNT + 2)), tl.sum(metric, axis=2) * share
    tl.store(out + pair, found, mask=wanted)
    if BETA2 is None and INERTIA != 0:
        tl.store(out + pairs + pair, found, mask=wanted)
    else:
        tl.store(out + pairs + pair, tl.sum(pulled, axis=2), mask=wanted)
    tl.store(out + 2 * pairs + i, tl.sum(decay, axis=2), mask=i < COUNT)


@triton.jit
def _along(coefficients, u, place, COUNT: tl.constexpr):
    """Σ coefficient·u, of a tile (PADDED, BLOCK)."""
    by = tl.load(coefficients + place, mask=place < COUNT, other=0.0).to(u.dtype)
    return tl.sum(by[:, None] * u, axis=0)


@triton.jit(do_not_specialize_on_alignment=SCALARS)
def move_vectors(
    tensors,
    addresses,
    vectors,
    coupled,
    at_zero,
    at_one,
    direction,
    turns,
    scale,
    shrink,
    sound,
    X: tl.constexpr,
    S: tl.constexpr,
    SIGN: tl.constexpr,
    BETA2: tl.constexpr,
    INERTIA: tl.constexpr,
    COUNT: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """New memories, second moment and x of each chunk, unless the step is not sound.

    turns (U, COUNT - 2, COUNT): what the further memories become. What is stored in an element's place is a sum over
    all that was read of that element, so no thread can overwrite what another one has still to read.
    """
    memory, moment, x, gradient, count, unit, _ = _chunk(tensors, addresses, X, S)
    if sound is not None:
        count = tl.where(tl.load(sound), count, 0)
    a, b = _metric(at_zero, at_one, unit, S)
    place, held, rows = _rows(vectors, S, COUNT, PADDED)
    by, shrunk = tl.load(scale + unit).to(S), tl.load(shrink + unit).to(S)
    own = vectors + tl.program_id(0).to(tl.int64) * (COUNT - 1)
    for start in range(0, count, BLOCK):
        at = start + tl.arange(0, BLOCK)
        there = at < count
        g = _gradient(gradient, x, coupled, unit, at, count, SIGN, S)
        u = tl.load(rows[:, None] + at[None, :], mask=held[:, None] & there[None, :], other=0.0)
        u = tl.where(place[:, None] == 0, g[None, :], u)
        new = _along(direction + COUNT * unit, u, place, COUNT)
        pulled = new
        if BETA2 is None and INERTIA != 0:
            new = (new + INERTIA * tl.load(memory + at, mask=there, other=0.0)) * (1 / (1 + INERTIA))
            pulled = new
        if BETA2 is not None:
            v, p = _diagonal(moment, g, a, b, at, there, BETA2)
            if INERTIA != 0:
                d = tl.load(memory + at, mask=there, other=0.0)
                new = _quotient(new + INERTIA * p * d, 1 + INERTIA * p)
            pulled = _quotient(new, p)
            tl.store(moment + at, v, mask=there)
        old = tl.load(x + at, mask=there, other=0.0).to(S)
        for k in tl.static_range(COUNT - 2):
            after = _along(turns + (unit * (COUNT - 2) + k) * COUNT, u, place, COUNT)
            tl.store(_pointer(own + 1 + k, S) + at, after, mask=there)
        tl.store(memory + at, new, mask=there)
        tl.store(x + at, (shrunk * old - by * pulled).to(X), mask=there)
