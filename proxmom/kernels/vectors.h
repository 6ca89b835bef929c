// The two passes for rules with further memories, up to MOST - 2 of them; `passes.cpp` includes this, and has what both
// share. The formulas are those there, for the vectors u = (g, memory, further memories).
//
// A tensor is worked on in strips that stay in the first cache: each vector comes from memory once in each pass.
// Three and four vectors are a loop each that is compiled for so many. For more, P and M of a strip are computed once
// and laid aside, and every pair of vectors is a short loop: the code does not grow with their number.

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
    const std::int64_t *becomes;              // (count,)
    const double *coefficient, *combinations; // of averages, (count,); (units, count, vectors), or null for none
};

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

// All products of 3 or 4 vectors in one loop, which waits for memory alone: few enough for the registers.
template <int COUNT, bool Adam, bool Inertia, class S>
INLINE void together(const Strip<S> &strip, double *sums, double *pulled) {
    static_assert(COUNT == 3 || COUNT == 4);
    const S *u0 = strip.u[0], *u1 = strip.u[1], *u2 = strip.u[2], *u3 = strip.u[COUNT - 1];
    const S *second_moment = strip.second_moment;
    const Scalars<S> c = strip.c;
    S s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0, s5 = 0, s6 = 0, s7 = 0, s8 = 0, s9 = 0, total = 0;
    S t0 = 0, t1 = 0, t2 = 0, t3 = 0, t4 = 0, t5 = 0, t6 = 0, t7 = 0, t8 = 0, t9 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, t0, t1, t2, t3, t4, t5, t6, t7, t8, t9, total)
    for (std::int64_t i = 0; i < strip.size; ++i) {
        const S a = u0[i], b = u1[i], d = u2[i], e = COUNT > 3 ? u3[i] : S(0);
        S m = 1, p = 1;
        if constexpr (Adam) {
            p = c.a * std::sqrt(c.beta2 * second_moment[i] + c.fresh * (a * a)) + c.b;
            m = 1 / (Inertia ? p * (1 + c.inertia * p) : p);
            total += p;
        }
        const S ma = m * a, mb = m * b, md = m * d, me = m * e, aa = ma * a, ab = ma * b, ad = ma * d, bb = mb * b;
        const S bd = mb * d, dd = md * d, ae = ma * e, be = mb * e, de = md * e, ee = me * e;
        s0 += aa, s1 += ab, s2 += ad, s3 += bb, s4 += bd, s5 += dd;
        if constexpr (COUNT > 3) s6 += ae, s7 += be, s8 += de, s9 += ee;
        if constexpr (Adam && Inertia) {
            t0 += p * aa, t1 += p * ab, t2 += p * ad, t3 += p * bb, t4 += p * bd, t5 += p * dd;
            if constexpr (COUNT > 3) t6 += p * ae, t7 += p * be, t8 += p * de, t9 += p * ee;
        }
    }
    const S s[10] = {s0 + 0 * total, s1, s2, s3, s4, s5, s6, s7, s8, s9}; // NaN where some P is infinite
    const S t[10] = {t0, t1, t2, t3, t4, t5, t6, t7, t8, t9};
    constexpr int PLACES[2][10] = {{0, 1, 2, 3, 4, 5}, {0, 1, 2, 4, 5, 7, 3, 6, 8, 9}}; // where the columns are
    for (int k = 0; k < COUNT * (COUNT + 1) / 2; ++k) {
        sums[PLACES[COUNT - 3][k]] += double(s[k]);
        pulled[PLACES[COUNT - 3][k]] += double(t[k]);
    }
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
    choose([&](auto adam, auto inertia) FLAT {
        constexpr bool Adam = decltype(adam)::value, Inertia = decltype(inertia)::value;
        if (vectors == 3)
            together<3, Adam, Inertia>(strip, sums, pulled);
        else if (vectors == 4)
            together<4, Adam, Inertia>(strip, sums, pulled);
        else
            row_by_row<Adam, Inertia>(strip, sums, pulled);
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

// What the slope, the first and the second further memory become, as coefficients of up to 4 vectors.
template <class S> struct Rows {
    S slope[4], first[4], second[4];
};

template <class S> INLINE void fill(const Turns &turns, const double *combinations, int vectors, int k, S *into) {
    const std::int64_t becomes = turns.becomes[k];
    for (int j = 0; j < vectors; ++j)
        into[j] = becomes == COMBINATION ? S(combinations[k * vectors + j]) : S(j == becomes ? 1 : 0);
    if (becomes == AVERAGE) into[0] = S(turns.coefficient[k]), into[k + 2] = S(1 - turns.coefficient[k]);
}

// Coefficients of u[0], u[1], ...; the vectors are g, d, e, f, as far as there are so many.
template <int COUNT, class S> INLINE S mixed(const S *coefficients, S g, S d, S e, S f) {
    const S three = coefficients[0] * g + coefficients[1] * d + coefficients[2] * e;
    return COUNT > 3 ? three + coefficients[3] * f : three;
}

// All of a move in one loop, for COUNT vectors, 3 or 4. With 0, memory and further memories are left alone: the new
// memory, made of the slope in strip.m, is laid aside there.
template <bool Adam, bool Inertia, int COUNT, class S>
INLINE void advance(const Coefficients<S> &to, const Rows<S> &rows, Strip<S> &strip) {
    static_assert(COUNT == 0 || COUNT == 3 || COUNT == 4);
    S *x = strip.x, *second_moment = strip.second_moment, *memory = strip.memory(1);
    S *first = strip.memory(2), *second = strip.memory(COUNT > 3 ? 3 : 2), *next_at = COUNT ? memory : strip.m;
    const Scalars<S> c = strip.c;
    const Rows<S> by = rows;
#pragma omp simd
    for (std::int64_t i = 0; i < strip.size; ++i) {
        const S g = strip.g[i], d = memory[i];
        S p = 1, next = COUNT ? S(0) : strip.m[i];
        if constexpr (Adam) {
            const S v = c.beta2 * second_moment[i] + c.fresh * (g * g);
            p = c.a * std::sqrt(v) + c.b;
            second_moment[i] = v;
        }
        if constexpr (COUNT > 0) {
            const S e = first[i], f = second[i];
            next = mixed<COUNT>(by.slope, g, d, e, f);
            first[i] = mixed<COUNT>(by.first, g, d, e, f);
            if constexpr (COUNT > 3) second[i] = mixed<COUNT>(by.second, g, d, e, f);
        }
        if constexpr (Inertia) {
            const S held = c.inertia * p;
            next = (next + held * d) / (1 + held);
        }
        next_at[i] = next;
        x[i] = to.shrink * x[i] - to.scale * (next / p);
    }
}

// All further memories of a strip, from what the vectors were before; `laid` has room for the combinations.
template <class S>
INLINE void turn(const Turns &turns, const double *combinations, const Strip<S> &strip, S (*laid)[STRIP]) {
    const std::int64_t further = strip.vectors - 2, size = strip.size;
    for (std::int64_t k = 0, n = 0; k < further; ++k)
        if (turns.becomes[k] == COMBINATION)
            combine(combinations + k * strip.vectors, strip.u, strip.vectors, size, laid[n++]);
    std::int64_t laid_aside = 0;
    for (std::int64_t k = further; k-- > 0;) { // from the end: a vector keeps one that stands before it
        S *m = strip.memory(k + 2);
        const S *g = strip.u[0], c = S(turns.coefficient[k]);
        if (turns.becomes[k] == AVERAGE)
#pragma omp simd
            for (std::int64_t i = 0; i < size; ++i) m[i] += c * (g[i] - m[i]);
        else if (turns.becomes[k] >= 0)
            std::memcpy(m, strip.u[turns.becomes[k]], std::size_t(size) * sizeof(S));
    }
    for (std::int64_t k = 0; k < further; ++k)
        if (turns.becomes[k] == COMBINATION)
            std::memcpy(strip.memory(k + 2), laid[laid_aside++], std::size_t(size) * sizeof(S));
}

template <class S>
INLINE void move_strip(const Coefficients<S> &to, const double *direction, const double *combinations,
                       const Turns &turns, Strip<S> &strip) {
    const int vectors = strip.vectors;
    Rows<S> rows = {};
    if (vectors <= 4) {
        for (int j = 0; j < vectors; ++j) rows.slope[j] = S(direction[j]);
        fill(turns, combinations, vectors, 0, rows.first);
        if (vectors == 4) fill(turns, combinations, vectors, 1, rows.second);
    } else {
        combine(direction, strip.u, vectors, strip.size, strip.m);
    }
    choose([&](auto adam, auto inertia) FLAT {
        constexpr bool Adam = decltype(adam)::value, Inertia = decltype(inertia)::value;
        if (vectors == 3)
            advance<Adam, Inertia, 3>(to, rows, strip);
        else if (vectors == 4)
            advance<Adam, Inertia, 4>(to, rows, strip);
        else
            advance<Adam, Inertia, 0>(to, rows, strip);
    }, strip.adam, strip.inertia);
    if (vectors <= 4) return;
    S laid[MOST - 2][STRIP];
    turn(turns, combinations, strip, laid);
    std::memcpy(strip.memory(1), strip.m, std::size_t(strip.size) * sizeof(S));
}

// ---- What depends on the type of x and gradient is loading and storing; the rest has clones of its own

#define STRIPS_FOR(S)                                                                                                  \
    CLONES void strip_sums(Strip<S> &strip, bool with_x, double *sums) { sum_up(strip, with_x, sums); }                \
    CLONES void strip_move(const Coefficients<S> &to, const double *direction, const double *combinations,             \
                           const Turns &turns, Strip<S> &strip) {                                                      \
        move_strip(to, direction, combinations, turns, strip);                                                         \
    }

STRIPS_FOR(float)
STRIPS_FOR(double)

template <class X>
INLINE void measure_vectors(const Batch &batch, const Further &further, const Settings &s, const Piece &piece,
                            double *sums) {
    const auto at = arrays_of<X>(batch, piece);
    Strip<StateOf<X>> strip;
    prepare(batch, further, s, piece, strip);
    for (std::int64_t start = 0; start < piece.size; start += STRIP) {
        load_strip(batch, further, at, piece, start, s.with_x, strip);
        strip_sums(strip, s.with_x, sums);
    }
    if (!s.a) scale_euclidean(s.inertia, strip.vectors * (strip.vectors + 1) / 2, sums);
}

template <class X>
INLINE void move_vectors(const Batch &batch, const Further &further, const Settings &s, const Targets &targets,
                         const Turns &turns, const Piece &piece) {
    using S = StateOf<X>;
    const std::int64_t unit = batch.unit[piece.tensor], vectors = further.vectors();
    const auto at = arrays_of<X>(batch, piece);
    const double *direction = targets.direction + unit * vectors;
    const double *combinations = turns.combinations ? turns.combinations + unit * further.count * vectors : nullptr;
    const Coefficients<S> to = {S(direction[0]), S(direction[1]), S(targets.scale[unit]), S(targets.shrink[unit])};
    Strip<S> strip;
    prepare(batch, further, s, piece, strip);
    for (std::int64_t start = 0; start < piece.size; start += STRIP) {
        load_strip(batch, further, at, piece, start, true, strip);
        strip_move(to, direction, combinations, turns, strip);
        if constexpr (!std::is_same_v<X, S>) {
            X *x = at.x + start;
#pragma omp simd
            for (std::int64_t i = 0; i < strip.size; ++i) store(x[i], strip.x[i]);
        }
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
        each(pieces, threads, [&](std::size_t k) {
            measure(batch, further, settings, pieces[k], &partial[k * width]);
        });
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
