// The two passes for more than FEW vectors, up to MOST, and for more than two where x and gradient must be converted;
// `passes.cpp` includes this, and has what both share. The formulas are those there, for the vectors u = (g, memory,
// further memories).
//
// A tensor is worked on in strips that stay in the first cache: each vector comes from memory once in each pass. P and M
// of a strip are computed once and laid aside, and every pair of vectors is a short loop: the code does not grow with
// their number.

#pragma once

namespace {

constexpr std::int64_t STRIP = 512; // elements, summed in S; short, so that float keeps its digits

// One strip: where its vectors are, and room for what is computed once. x is converted where it is not of type S.
template <class S> struct Strip {
    std::int64_t size;
    int vectors;
    const S *u[MOST]; // u[0] is g
    S *second_moment, *x;
    Scalars<S> c;
    bool adam, inertia;
    S g[STRIP], converted[STRIP], p[STRIP], m[STRIP]; // m: M in the first pass, the new memory in the second

    S *memory(std::int64_t k) const { return const_cast<S *>(u[k]); }

    // As tensors of few vectors, whose gradient is g.
    Arrays<S> arrays() const { return {x, g, memory(1), second_moment, memory(2), memory(vectors - 1)}; }
    Scalars<S> of_g() const {
        Scalars<S> scalars = c;
        scalars.sign = 1, scalars.mu = 0;
        return scalars;
    }
};

template <class S> INLINE S *state_at(const std::uint64_t *addresses, const Piece &piece, std::int64_t start) {
    return reinterpret_cast<S *>(static_cast<std::uintptr_t>(addresses[piece.tensor])) + piece.start + start;
}

// What is the same for all strips of a piece.
template <class S> void prepare(const Batch &batch, const Further &further, const Settings &s, const Piece &piece,
                                Strip<S> &strip) {
    strip.vectors = further.vectors();
    strip.u[0] = strip.g;
    strip.c = scalars_of<S>(s, batch.unit[piece.tensor]);
    strip.adam = s.a != nullptr;
    strip.inertia = s.inertia != 0;
}

// The strip that begins at an element of a piece: its vectors, and g.
template <class X, class S>
INLINE void load_strip(const Batch &batch, const Further &further, const Arrays<X> &at, const Piece &piece,
                       std::int64_t start, bool with_x, Strip<S> &strip) {
    const std::int64_t size = strip.size = piece.size - start < STRIP ? piece.size - start : STRIP;
    const X *gradient = at.gradient + start, *from = at.x + start;
    const S sign = strip.c.sign, mu = strip.c.mu;
    strip.u[1] = at.memory + start;
    for (std::int64_t k = 0; k < further.count; ++k)
        strip.u[k + 2] = state_at<S>(further.at + k * batch.tensors, piece, start);
    strip.second_moment = strip.adam ? at.second_moment + start : nullptr;
    if constexpr (std::is_same_v<X, S>) {
        strip.x = at.x + start;
    } else {
        strip.x = strip.converted;
        if (with_x || mu != 0)
#pragma omp simd
            for (std::int64_t i = 0; i < size; ++i) strip.converted[i] = load(from[i]);
    }
    const S *x = strip.x;
    if (mu != 0)
#pragma omp simd
        for (std::int64_t i = 0; i < size; ++i) strip.g[i] = sign * load(gradient[i]) + mu * x[i];
    else
#pragma omp simd
        for (std::int64_t i = 0; i < size; ++i) strip.g[i] = sign * load(gradient[i]);
}

// ---- The first pass

// P and M in Adam's metric. Returns 0, or NaN where some P is infinite: divided by it, every product is 0.
template <class S> INLINE S weigh(Strip<S> &strip) {
    const Scalars<S> c = strip.c;
    S total = 0;
#pragma omp simd reduction(+ : total)
    for (std::int64_t i = 0; i < strip.size; ++i) {
        const S g = strip.g[i], v = c.beta2 * strip.second_moment[i] + c.fresh * (g * g), p = c.a * std::sqrt(v) + c.b;
        strip.p[i] = p;
        strip.m[i] = 1 / (p * (1 + c.inertia * p));
        total += p;
    }
    return 0 * total;
}

// Products of one vector with COUNT of those from it on, weighted by M if Weighted, and by PM too if Pulled.
template <int COUNT, bool Weighted, bool Pulled, class S>
INLINE void products(const S *left, const S *const *right, const Strip<S> &strip, double *sums, double *pulled) {
    static_assert(COUNT >= 1 && COUNT <= 4);
    const S *r0 = right[0], *r1 = right[COUNT > 1 ? 1 : 0], *r2 = right[COUNT > 2 ? 2 : 0], *r3 = right[COUNT - 1];
    S s0 = 0, s1 = 0, s2 = 0, s3 = 0, t0 = 0, t1 = 0, t2 = 0, t3 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3, t0, t1, t2, t3)
    for (std::int64_t i = 0; i < strip.size; ++i) {
        const S w = Weighted ? strip.m[i] * left[i] : left[i], v = Pulled ? strip.p[i] * w : S(0);
        s0 += w * r0[i];
        if constexpr (Pulled) t0 += v * r0[i];
        if constexpr (COUNT > 1) s1 += w * r1[i];
        if constexpr (COUNT > 1 && Pulled) t1 += v * r1[i];
        if constexpr (COUNT > 2) s2 += w * r2[i];
        if constexpr (COUNT > 2 && Pulled) t2 += v * r2[i];
        if constexpr (COUNT > 3) s3 += w * r3[i];
        if constexpr (COUNT > 3 && Pulled) t3 += v * r3[i];
    }
    const S s[4] = {s0, s1, s2, s3}, t[4] = {t0, t1, t2, t3};
    for (int k = 0; k < COUNT; ++k) sums[k] += double(s[k]);
    if constexpr (Pulled)
        for (int k = 0; k < COUNT; ++k) pulled[k] += double(t[k]);
}

// Of one vector with all of `count` others.
template <bool Weighted, bool Pulled, class S>
INLINE void row(const S *left, const S *const *right, int count, const Strip<S> &strip, double *sums, double *pulled) {
    for (; count >= 4; count -= 4, right += 4, sums += 4, pulled += 4)
        products<4, Weighted, Pulled>(left, right, strip, sums, pulled);
    if (count == 3) products<3, Weighted, Pulled>(left, right, strip, sums, pulled);
    if (count == 2) products<2, Weighted, Pulled>(left, right, strip, sums, pulled);
    if (count == 1) products<1, Weighted, Pulled>(left, right, strip, sums, pulled);
}

// All products of any number of vectors, row by row.
template <bool Adam, bool Inertia, class S> INLINE void row_by_row(Strip<S> &strip, double *sums, double *pulled) {
    if constexpr (Adam) sums[0] += double(weigh(strip));
    for (int i = 0, k = 0; i < strip.vectors; k += strip.vectors - i, ++i)
        row<Adam, Adam && Inertia>(strip.u[i], strip.u + i, strip.vectors - i, strip, sums + k, pulled + k);
}

template <class S> INLINE void sum_up(Strip<S> &strip, bool with_x, double *sums) {
    const int vectors = strip.vectors, pairs = vectors * (vectors + 1) / 2;
    double *pulled = sums + pairs, *of_x = pulled + pairs;
    if (vectors <= FEW) {
        const Chosen how = {vectors, strip.adam, strip.inertia, with_x ? Reads::PRODUCTS : Reads::NO_X};
        measure_few(strip.arrays(), strip.of_g(), how, strip.size, sums);
        return;
    }
    choose([&](auto adam, auto inertia) FLAT {
        row_by_row<decltype(adam)::value, decltype(inertia)::value>(strip, sums, pulled);
    }, strip.adam, strip.adam && strip.inertia);
    if (with_x) row<false, false>(strip.x, strip.u, vectors, strip, of_x, of_x);
}

// ---- The second pass

// into <- Σ coefficient·u; what has no part is not read.
template <class S>
INLINE void combine(const double *coefficients, const S *const *u, int vectors, std::int64_t size, S *into) {
    for (std::int64_t i = 0; i < size; ++i) into[i] = 0;
    for (int k = 0; k < vectors; ++k) {
        const S c = S(coefficients[k]), *v = u[k];
        if (c == 0) continue;
#pragma omp simd
        for (std::int64_t i = 0; i < size; ++i) into[i] += c * v[i];
    }
}

// Second moment and x of a strip, and the new memory: in strip.m, which has the slope.
template <bool Adam, bool Inertia, class S> INLINE void advance(S scale, S shrink, Strip<S> &strip) {
    S *x = strip.x, *second_moment = strip.second_moment;
    const S *memory = strip.memory(1);
    const Scalars<S> c = strip.c;
#pragma omp simd
    for (std::int64_t i = 0; i < strip.size; ++i) {
        const S g = strip.g[i], d = memory[i];
        S p = 1, next = strip.m[i];
        if constexpr (Adam) {
            const S v = c.beta2 * second_moment[i] + c.fresh * (g * g);
            p = c.a * std::sqrt(v) + c.b;
            second_moment[i] = v;
        }
        if constexpr (Inertia) {
            const S held = c.inertia * p;
            next = (next + held * d) / (1 + held);
        }
        strip.m[i] = next;
        x[i] = shrink * x[i] - scale * (next / p);
    }
}

// All further memories of a strip, from what the vectors were before; `laid` has room for the combinations.
template <class S>
INLINE void turn(const Targets &targets, const double *combinations, const Strip<S> &strip, S (*laid)[STRIP]) {
    const std::int64_t further = strip.vectors - 2, size = strip.size;
    for (std::int64_t k = 0, n = 0; k < further; ++k)
        if (targets.becomes[k] == COMBINATION)
            combine(combinations + k * strip.vectors, strip.u, strip.vectors, size, laid[n++]);
    std::int64_t laid_aside = 0;
    for (std::int64_t k = further; k-- > 0;) { // from the end: a vector keeps one that stands before it
        S *m = strip.memory(k + 2);
        const S *g = strip.u[0], c = S(targets.coefficient[k]);
        if (targets.becomes[k] == AVERAGE)
#pragma omp simd
            for (std::int64_t i = 0; i < size; ++i) m[i] += c * (g[i] - m[i]);
        else if (targets.becomes[k] >= 0)
            std::memcpy(m, strip.u[targets.becomes[k]], std::size_t(size) * sizeof(S));
    }
    for (std::int64_t k = 0; k < further; ++k)
        if (targets.becomes[k] == COMBINATION)
            std::memcpy(strip.memory(k + 2), laid[laid_aside++], std::size_t(size) * sizeof(S));
}

template <class S>
INLINE void move_strip(const Targets &targets, const double *direction, const double *combinations,
                       const Rows<S> &rows, S scale, S shrink, Strip<S> &strip) {
    if (strip.vectors <= FEW) {
        const Chosen how = {strip.vectors, strip.adam, strip.inertia, Reads::NO_X};
        move_few(strip.arrays(), strip.of_g(), rows, scale, shrink, how, strip.size);
        return;
    }
    combine(direction, strip.u, strip.vectors, strip.size, strip.m);
    choose([&](auto adam, auto inertia) FLAT {
        advance<decltype(adam)::value, decltype(inertia)::value>(scale, shrink, strip);
    }, strip.adam, strip.inertia);
    S laid[MOST - 2][STRIP];
    turn(targets, combinations, strip, laid);
    std::memcpy(strip.memory(1), strip.m, std::size_t(strip.size) * sizeof(S));
}

// ---- What depends on the type of x and gradient is loading and storing; the rest has clones of its own

#define STRIPS_FOR(S)                                                                                                  \
    CLONES void strip_sums(Strip<S> &strip, bool with_x, double *sums) { sum_up(strip, with_x, sums); }                \
    CLONES void strip_move(const Targets &targets, const double *direction, const double *combinations,                \
                           const Rows<S> &rows, S scale, S shrink, Strip<S> &strip) {                                  \
        move_strip(targets, direction, combinations, rows, scale, shrink, strip);                                      \
    }

STRIPS_FOR(float)
STRIPS_FOR(double)

template <class X>
INLINE void measure_strip_by_strip(const Batch &batch, const Further &further, const Settings &s, const Piece &piece,
                                   double *sums) {
    const auto at = arrays_of<X>(batch, piece);
    Strip<StateOf<X>> strip;
    prepare(batch, further, s, piece, strip);
    for (std::int64_t start = 0; start < piece.size; start += STRIP) {
        load_strip(batch, further, at, piece, start, s.with_x, strip);
        strip_sums(strip, s.with_x, sums);
    }
    if (!s.a) scale_euclidean(s.inertia, further.pairs(), sums);
}

template <class X>
INLINE void move_strip_by_strip(const Batch &batch, const Further &further, const Settings &s, const Targets &targets,
                                const Piece &piece) {
    using S = StateOf<X>;
    const std::int64_t unit = batch.unit[piece.tensor], vectors = further.vectors();
    const auto at = arrays_of<X>(batch, piece);
    const double *direction = targets.direction + unit * vectors;
    const double *combinations = targets.combinations ? targets.combinations + unit * further.count * vectors : nullptr;
    const Rows<S> rows = vectors <= FEW ? rows_of<S>(targets, further, unit) : Rows<S>{};
    const S scale = S(targets.scale[unit]), shrink = S(targets.shrink[unit]);
    Strip<S> strip;
    prepare(batch, further, s, piece, strip);
    for (std::int64_t start = 0; start < piece.size; start += STRIP) {
        load_strip(batch, further, at, piece, start, true, strip);
        strip_move(targets, direction, combinations, rows, scale, shrink, strip);
        if constexpr (!std::is_same_v<X, S>) {
            X *x = at.x + start;
#pragma omp simd
            for (std::int64_t i = 0; i < strip.size; ++i) store(x[i], strip.x[i]);
        }
    }
}

#define VECTORS_FOR(X)                                                                                                 \
    CLONES void measure_strips_##X(const Batch &batch, const Further &further, const Settings &s, const Piece &piece,  \
                                   double *sums) {                                                                     \
        measure_strip_by_strip<X>(batch, further, s, piece, sums);                                                     \
    }                                                                                                                  \
    CLONES void move_strips_##X(const Batch &batch, const Further &further, const Settings &s, const Targets &targets, \
                                const Piece &piece) {                                                                  \
        move_strip_by_strip<X>(batch, further, s, targets, piece);                                                     \
    }

VECTORS_FOR(float)
VECTORS_FOR(double)
VECTORS_FOR(BFloat16)
VECTORS_FOR(Float16)

} // namespace
