// The two passes for rules with further memories, any number of them up to MOST - 2; `passes.cpp` includes this, and has
// what both share. The formulas are those there, for the vectors u = (g, memory, further memories).
//
// A tensor is worked on in strips that stay in the first cache: g, P and M of a strip are computed once and laid aside,
// and then every pair of vectors is a short loop over them. So each vector comes from memory once in each pass, and the
// code does not grow with the number of vectors.

#pragma once

namespace {

constexpr std::int64_t STRIP = 512; // elements, summed in S; short, so that float keeps its digits
constexpr int MOST = 16;            // vectors, the gradient included

// What a further memory becomes: the vector of that number as it was, or one of these.
enum Becomes : std::int64_t { AVERAGE = -1, COMBINATION = -2 };

struct Further {
    std::int64_t count;
    const std::uint64_t *at; // (count, tensors), addresses
    int vectors() const { return int(count) + 2; }
    int sums() const { return vectors() * (vectors() + 1) + vectors(); }
};

struct Turns {
    const std::int64_t *becomes;               // (count,)
    const double *coefficient, *combinations;  // of averages, (count,); (units, count, vectors), or null for none
};

template <class S> struct Strip {
    S g[STRIP], x[STRIP], p[STRIP], m[STRIP]; // m: M in the first pass, the new memory in the second
};

// Where g and x of a strip are; X is converted only if it is not S.
template <class X, class S>
INLINE const S *loaded(const Arrays<X> &at, const Scalars<S> &c, std::int64_t start, std::int64_t size, bool with_x,
                       Strip<S> &strip) {
    const X *gradient = at.gradient + start, *from = at.x + start;
    const S *x = strip.x;
    if constexpr (std::is_same_v<X, S>)
        x = from;
    else if (with_x || c.mu != 0)
#pragma omp simd
        for (std::int64_t i = 0; i < size; ++i) strip.x[i] = load(from[i]);
    if (c.mu != 0)
#pragma omp simd
        for (std::int64_t i = 0; i < size; ++i) strip.g[i] = c.sign * load(gradient[i]) + c.mu * x[i];
    else
#pragma omp simd
        for (std::int64_t i = 0; i < size; ++i) strip.g[i] = c.sign * load(gradient[i]);
    return x;
}

// P and M in Adam's metric. Returns 0, or NaN where some P is infinite: divided by it, every product is 0.
template <class S>
INLINE S weigh(const S *second_moment, const Scalars<S> &c, std::int64_t size, Strip<S> &strip) {
    S total = 0;
#pragma omp simd reduction(+ : total)
    for (std::int64_t i = 0; i < size; ++i) {
        const S g = strip.g[i], v = c.beta2 * second_moment[i] + c.fresh * (g * g), p = c.a * std::sqrt(v) + c.b;
        strip.p[i] = p;
        strip.m[i] = 1 / (p * (1 + c.inertia * p));
        total += p;
    }
    return 0 * total;
}

// Products of one vector with COUNT of those from it on, weighted by M if Weighted, and by PM too if Pulled.
template <int COUNT, bool Weighted, bool Pulled, class S>
INLINE void products(const S *left, const S *const *right, const Strip<S> &strip, std::int64_t size, double *sums,
                     double *pulled) {
    static_assert(COUNT >= 1 && COUNT <= 4);
    const S *r0 = right[0], *r1 = right[COUNT > 1 ? 1 : 0], *r2 = right[COUNT > 2 ? 2 : 0], *r3 = right[COUNT - 1];
    S s0 = 0, s1 = 0, s2 = 0, s3 = 0, t0 = 0, t1 = 0, t2 = 0, t3 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3, t0, t1, t2, t3)
    for (std::int64_t i = 0; i < size; ++i) {
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
INLINE void row(const S *left, const S *const *right, int count, const Strip<S> &strip, std::int64_t size, double *sums,
                double *pulled) {
    for (; count >= 4; count -= 4, right += 4, sums += 4, pulled += 4)
        products<4, Weighted, Pulled>(left, right, strip, size, sums, pulled);
    if (count == 3) products<3, Weighted, Pulled>(left, right, strip, size, sums, pulled);
    if (count == 2) products<2, Weighted, Pulled>(left, right, strip, size, sums, pulled);
    if (count == 1) products<1, Weighted, Pulled>(left, right, strip, size, sums, pulled);
}

template <class X> INLINE const StateOf<X> *further_at(const Further &further, const Batch &batch, const Piece &piece,
                                                       std::int64_t k) {
    const std::uint64_t address = further.at[k * batch.tensors + piece.tensor];
    return reinterpret_cast<const StateOf<X> *>(static_cast<std::uintptr_t>(address)) + piece.start;
}

// Where the vectors of a strip are, g in the strip itself.
template <class X, class S>
INLINE void vectors_at(const Further &further, const Batch &batch, const Piece &piece, const Arrays<X> &at,
                       std::int64_t start, const Strip<S> &strip, const S **u) {
    u[0] = strip.g;
    u[1] = at.memory + start;
    for (std::int64_t k = 0; k < further.count; ++k) u[k + 2] = further_at<X>(further, batch, piece, k) + start;
}

template <class X>
INLINE void measure_vectors(const Batch &batch, const Further &further, const Settings &s, const Piece &piece,
                            double *sums) {
    using S = StateOf<X>;
    const auto at = arrays_of<X>(batch, piece);
    const auto c = scalars_of<S>(s, batch.unit[piece.tensor]);
    const int vectors = further.vectors(), pairs = vectors * (vectors + 1) / 2;
    double *pulled = sums + pairs, *with_x = pulled + pairs;
    Strip<S> strip;
    const S *u[MOST];
    for (std::int64_t start = 0; start < piece.size; start += STRIP) {
        const std::int64_t size = piece.size - start < STRIP ? piece.size - start : STRIP;
        const S *x = loaded(at, c, start, size, s.with_x, strip);
        vectors_at(further, batch, piece, at, start, strip, u);
        if (s.a) sums[0] += double(weigh(at.second_moment + start, c, size, strip));
        for (int i = 0, k = 0; i < vectors; k += vectors - i, ++i) {
            if (!s.a)
                row<false, false>(u[i], u + i, vectors - i, strip, size, sums + k, pulled + k);
            else if (s.inertia != 0)
                row<true, true>(u[i], u + i, vectors - i, strip, size, sums + k, pulled + k);
            else
                row<true, false>(u[i], u + i, vectors - i, strip, size, sums + k, pulled + k);
        }
        if (s.with_x) row<false, false>(x, u, vectors, strip, size, with_x, with_x);
    }
    if (!s.a) scale_euclidean(s.inertia, pairs, sums);
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

// The new second moment, and from the slope in strip.m the new memory, which is laid aside there, and x.
template <bool Adam, bool Inertia, class X, class S>
INLINE void advance(const Arrays<X> &at, const Scalars<S> &c, const Coefficients<S> &to, std::int64_t start,
                    std::int64_t size, Strip<S> &strip) {
    X *to_x = at.x + start;
    S *second_moment = at.second_moment + (Adam ? start : 0);
    const S *memory = at.memory + start;
#pragma omp simd
    for (std::int64_t i = 0; i < size; ++i) {
        const S g = strip.g[i];
        S p = 1, next = strip.m[i];
        if constexpr (Adam) {
            const S v = c.beta2 * second_moment[i] + c.fresh * (g * g);
            p = c.a * std::sqrt(v) + c.b;
            second_moment[i] = v;
        }
        if constexpr (Inertia) {
            const S held = c.inertia * p;
            next = (next + held * memory[i]) / (1 + held);
        }
        strip.m[i] = next;
        store(to_x[i], to.shrink * load(to_x[i]) - to.scale * (next / p));
    }
}

// All further memories of a strip, from what the vectors were before; `laid` has room for the combinations.
template <class S>
INLINE void turn(const Further &further, const Turns &turns, const double *combinations, const S *const *u,
                 std::int64_t size, S (*laid)[STRIP]) {
    for (std::int64_t k = 0, n = 0; k < further.count; ++k)
        if (turns.becomes[k] == COMBINATION)
            combine(combinations + k * further.vectors(), u, further.vectors(), size, laid[n++]);
    std::int64_t laid_aside = 0;
    for (std::int64_t k = further.count; k-- > 0;) { // from the end: a vector keeps one that stands before it
        S *m = const_cast<S *>(u[k + 2]);
        const S *g = u[0], c = S(turns.coefficient[k]);
        if (turns.becomes[k] == AVERAGE)
#pragma omp simd
            for (std::int64_t i = 0; i < size; ++i) m[i] += c * (g[i] - m[i]);
        else if (turns.becomes[k] >= 0)
            std::memcpy(m, u[turns.becomes[k]], std::size_t(size) * sizeof(S));
    }
    for (std::int64_t k = 0; k < further.count; ++k)
        if (turns.becomes[k] == COMBINATION)
            std::memcpy(const_cast<S *>(u[k + 2]), laid[laid_aside++], std::size_t(size) * sizeof(S));
}

template <class X>
INLINE void move_vectors(const Batch &batch, const Further &further, const Settings &s, const Targets &targets,
                         const Turns &turns, const Piece &piece) {
    using S = StateOf<X>;
    const std::int64_t unit = batch.unit[piece.tensor], vectors = further.vectors();
    const auto at = arrays_of<X>(batch, piece);
    const auto c = scalars_of<S>(s, unit);
    const double *direction = targets.direction + unit * vectors;
    const double *combinations = turns.combinations + (turns.combinations ? unit * further.count * vectors : 0);
    const Coefficients<S> to = {S(direction[0]), S(direction[1]), S(targets.scale[unit]), S(targets.shrink[unit])};
    Strip<S> strip;
    S laid[MOST - 2][STRIP];
    const S *u[MOST];
    for (std::int64_t start = 0; start < piece.size; start += STRIP) {
        const std::int64_t size = piece.size - start < STRIP ? piece.size - start : STRIP;
        loaded(at, c, start, size, false, strip);
        vectors_at(further, batch, piece, at, start, strip, u);
        combine(direction, u, int(vectors), size, strip.m);
        choose([&](auto adam, auto inertia) FLAT {
            advance<decltype(adam)::value, decltype(inertia)::value>(at, c, to, start, size, strip);
        }, s.a != nullptr, s.inertia != 0);
        turn(further, turns, combinations, u, size, laid);
        std::memcpy(at.memory + start, strip.m, std::size_t(size) * sizeof(S));
    }
}

#define VECTORS_FOR(X)                                                                                                 \
    CLONES void measure_vectors_##X(const Batch &batch, const Further &further, const Settings &s, const Piece &piece, \
                                    double *sums) {                                                                    \
        measure_vectors<X>(batch, further, s, piece, sums);                                                            \
    }                                                                                                                  \
    CLONES void move_vectors_##X(const Batch &batch, const Further &further, const Settings &s, const Targets &to,     \
                                 const Turns &turns, const Piece &piece) {                                             \
        move_vectors<X>(batch, further, s, to, turns, piece);                                                          \
    }

VECTORS_FOR(float)
VECTORS_FOR(double)
VECTORS_FOR(BFloat16)
VECTORS_FOR(Float16)

struct VectorPasses {
    void (*measure)(const Batch &, const Further &, const Settings &, const Piece &, double *);
    void (*move)(const Batch &, const Further &, const Settings &, const Targets &, const Turns &, const Piece &);
};

// The order is that of TYPES in batch.py.
VectorPasses vector_passes_for(int type) {
    switch (type) {
    case 0: return {measure_vectors_float, move_vectors_float};
    case 1: return {measure_vectors_double, move_vectors_double};
    case 2: return {measure_vectors_BFloat16, move_vectors_BFloat16};
    case 3: return {measure_vectors_Float16, move_vectors_Float16};
    default: return {nullptr, nullptr};
    }
}

bool sound(const Further &further, const Turns &turns) {
    if (further.count < 1 || further.count > MOST - 2) return false;
    for (std::int64_t k = 0; k < further.count; ++k)
        if (turns.becomes[k] < COMBINATION || turns.becomes[k] > k + 1 ||
            (turns.becomes[k] == COMBINATION && !turns.combinations))
            return false;
    return true;
}

} // namespace

// further: (count, tensors) addresses; sums: (units, B(B + 1) + B), B = count + 2, zeroed by the caller.
EXPORT int proxmom_measure_vectors(BATCH_AND_SETTINGS, std::int64_t count, const std::uint64_t *at, int with_x,
                                   int threads, double *sums) {
    return guarded([&]() -> int {
        const Batch batch{tensors, size, unit, x, gradient, memory, second_moment};
        const Settings settings{sign, coupled, a, b, beta2, inertia, with_x != 0};
        const Further further{count, at};
        const auto measure = vector_passes_for(type).measure;
        if (!measure) return BAD_TYPE;
        if (!sound(batch, units) || count < 1 || count > MOST - 2) return BAD_INDEX;
        const std::vector<Piece> pieces = pieces_of(batch);
        const std::size_t width = std::size_t(further.sums());
        std::vector<double> partial(pieces.size() * width, 0.0);
        each(pieces, threads, [&](std::size_t k) { measure(batch, further, settings, pieces[k], &partial[k * width]); });
        for (std::size_t k = 0; k < pieces.size(); ++k)
            for (std::size_t j = 0; j < width; ++j)
                sums[std::size_t(unit[pieces[k].tensor]) * width + j] += partial[k * width + j];
        return OK;
    });
}

// direction: (units, B); becomes, coefficient, combinations: see Turns.
EXPORT int proxmom_move_vectors(BATCH_AND_SETTINGS, std::int64_t count, const std::uint64_t *at,
                                const double *direction, const double *scale, const double *shrink,
                                const std::int64_t *becomes, const double *coefficient, const double *combinations,
                                int threads) {
    return guarded([&]() -> int {
        const Batch batch{tensors, size, unit, x, gradient, memory, second_moment};
        const Settings settings{sign, coupled, a, b, beta2, inertia, false};
        const Further further{count, at};
        const Targets targets{direction, scale, shrink};
        const Turns turns{becomes, coefficient, combinations};
        const auto move = vector_passes_for(type).move;
        if (!move) return BAD_TYPE;
        if (!sound(batch, units) || !sound(further, turns)) return BAD_INDEX;
        const std::vector<Piece> pieces = pieces_of(batch);
        // From the end: what pass 1 read last is still in cache.
        const std::size_t last = pieces.size() - 1;
        each(pieces, threads, [&](std::size_t k) { move(batch, further, settings, targets, turns, pieces[last - k]); });
        return OK;
    });
}
