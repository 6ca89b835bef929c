// The two passes over memory of a step, for tensors given by address: `measure` sums inner products, `move` writes.
//
// Per element, in the type S of memories (X is the type of x and gradient), for the vectors (g, memory, further ones):
//     g  = sign·gradient + mu·x
//     v' = beta2·v + (1 - beta2)·g·g,  P = a·sqrt(v') + b      (Adam; Euclidean: P = 1)
//     r  = 1/(1 + inertia·P),  M = r/P,  P·M = r
// Sums run in S over RUN elements and in double from there. A tensor is cut into pieces of PIECE elements whose sums
// are added in their order, so that the result does not depend on the number of threads.
// For few vectors each pass is one loop, compiled for so many; `vectors.h` serves more of them.

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <system_error>
#include <thread>
#include <type_traits>
#include <vector>

#ifdef __linux__
#include <dlfcn.h>
#endif

#define FLAT __attribute__((always_inline))
#define INLINE FLAT inline
#define EXPORT extern "C" __attribute__((visibility("default")))

// The best clone is chosen when the library loads; all that a clone calls must be inlined to be compiled for it.
#if defined(PROXMOM_NO_CLONES) || !defined(__x86_64__) || !defined(__linux__) || defined(__clang__)
#define CLONES
#elif __GNUC__ >= 12
#define CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define CLONES __attribute__((target_clones("default", "avx2", "avx512f")))
#endif

namespace {

constexpr std::int64_t RUN = 2048;         // elements summed in S; short, so that float keeps its digits
constexpr std::int64_t PIECE = 1 << 16;    // elements of one task
constexpr std::int64_t THREADED = 1 << 18; // elements below which a thread costs more than it saves
constexpr int FEW = 4;                     // vectors of which a pass is one loop
constexpr int MOST = 16;                   // vectors, the gradient included

enum Status : int { OK = 0, OUT_OF_MEMORY = 1, BAD_INDEX = 2, BAD_TYPE = 3, TOO_MANY = 4 };

// ---- Types: load to S, store from S, rounded to nearest even; integer arithmetic, which every compiler vectorises

struct BFloat16 {
    std::uint16_t bits;
};
struct Float16 {
    std::uint16_t bits;
};

template <class To, class From> INLINE To bits_of(From value) {
    static_assert(sizeof(To) == sizeof(From));
    To result;
    std::memcpy(&result, &value, sizeof(To));
    return result;
}

INLINE double load(double value) { return value; }
INLINE float load(float value) { return value; }
INLINE float load(BFloat16 value) { return bits_of<float>(std::uint32_t(value.bits) << 16); }
INLINE float load(Float16 value) {
    const std::uint32_t magnitude = value.bits & 0x7fffu, sign = std::uint32_t(value.bits & 0x8000u) << 16;
    const std::uint32_t tiny = bits_of<std::uint32_t>(float(std::int32_t(magnitude)) * 0x1p-24f);
    const std::uint32_t normal = (magnitude << 13) + (112u << 23), huge = (magnitude << 13) | 0x7f800000u;
    const std::uint32_t finite = magnitude < 0x0400u ? tiny : normal;
    return bits_of<float>(sign | (magnitude >= 0x7c00u ? huge : finite));
}

INLINE void store(double &to, double value) { to = value; }
INLINE void store(float &to, float value) { to = value; }
INLINE void store(BFloat16 &to, float value) {
    const std::uint32_t bits = bits_of<std::uint32_t>(value);
    const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16, quiet = (bits >> 16) | 0x40u;
    to.bits = std::uint16_t((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}
INLINE void store(Float16 &to, float value) {
    const std::uint32_t bits = bits_of<std::uint32_t>(value), magnitude = bits & 0x7fffffffu, half = 126u << 23;
    // Below 2^-14 the spacing is 2^-24, that of floats in [0.5, 1): the addition rounds.
    const std::uint32_t tiny = bits_of<std::uint32_t>(bits_of<float>(magnitude) + 0.5f) - half;
    const std::uint32_t normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    const std::uint32_t finite = magnitude < (113u << 23) ? tiny : normal;
    const std::uint32_t huge = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
    to.bits = std::uint16_t((bits >> 16 & 0x8000u) | (magnitude >= (143u << 23) ? huge : finite));
}

template <class X> using StateOf = decltype(load(X{}));

// ---- What a call is about

struct Batch {
    std::int64_t tensors;
    const std::int64_t *size, *unit;
    const std::uint64_t *x, *gradient, *memory, *second_moment;
};

struct Further { // memories beside the first
    std::int64_t count = 0;
    const std::uint64_t *at = nullptr; // (count, tensors), addresses
    int vectors() const { return int(count) + 2; }
    int pairs() const { return vectors() * (vectors() + 1) / 2; }
    int sums() const { return 2 * pairs() + vectors(); } // products by M, by PM, and with x
};

struct Settings {
    double sign;
    const double *coupled, *a, *b; // per unit, or null
    double beta2, inertia;
    bool with_x;
};

// What a further memory becomes: the vector of that number as it was, or one of these.
enum Becomes : std::int64_t { AVERAGE = -1, COMBINATION = -2 };

struct Targets {
    const double *direction, *scale, *shrink; // per unit; direction: of all vectors
    const std::int64_t *becomes;              // (count,)
    const double *coefficient, *combinations; // of averages, (count,); (units, count, vectors), or null for none
};

struct Piece {
    std::int64_t tensor, start, size;
};

template <class X> struct Arrays {
    X *x;
    const X *gradient;
    StateOf<X> *memory, *second_moment, *first, *second; // the last two: further memories
};

template <class X>
INLINE Arrays<X> arrays_of(const Batch &batch, const Piece &piece, const Further &further = {}) {
    using S = StateOf<X>;
    const std::int64_t t = piece.tensor;
    const auto at = [&](const std::uint64_t *addresses, auto *type) FLAT {
        using T = std::remove_pointer_t<decltype(type)>;
        return addresses ? reinterpret_cast<T *>(static_cast<std::uintptr_t>(addresses[t])) + piece.start : nullptr;
    };
    return {at(batch.x, static_cast<X *>(nullptr)), at(batch.gradient, static_cast<X *>(nullptr)),
            at(batch.memory, static_cast<S *>(nullptr)), at(batch.second_moment, static_cast<S *>(nullptr)),
            at(further.count > 0 ? further.at : nullptr, static_cast<S *>(nullptr)),
            at(further.count > 1 ? further.at + batch.tensors : nullptr, static_cast<S *>(nullptr))};
}

// ---- The formulas

template <class S> struct Scalars {
    S sign, mu, a, b, beta2, fresh, inertia; // fresh = 1 - beta2
};

template <class S> Scalars<S> scalars_of(const Settings &s, std::int64_t unit) {
    const auto of = [&](const double *values) { return values ? S(values[unit]) : S(0); };
    return {S(s.sign), of(s.coupled), of(s.a), of(s.b), S(s.beta2), S(1 - s.beta2), S(s.inertia)};
}

template <class S> struct Element {
    S g, v, p; // gradient, new second moment, diagonal of the metric
};

template <bool Adam, bool Coupled, class X, class S>
INLINE Element<S> element(const Arrays<X> &at, const Scalars<S> &c, std::int64_t i) {
    S g = c.sign * load(at.gradient[i]);
    if constexpr (Coupled) g += c.mu * load(at.x[i]);
    if constexpr (!Adam) return {g, S(0), S(1)};
    const S v = c.beta2 * at.second_moment[i] + c.fresh * (g * g); // overflows where the other backends do
    return {g, v, c.a * std::sqrt(v) + c.b};
}

// What the first pass reads x for: nothing, the gradient, or products too.
enum class Reads { NO_X, DECAY, PRODUCTS };

// Sums of one run over g and d: all products, row by row, by M and by PM, and those with x. In the Euclidean metric M and
// PM are one number, by which `scale_euclidean` multiplies afterwards.
template <bool Adam, bool Inertia, Reads READS, class X, class S>
INLINE void measure_two(const Arrays<X> &at, const Scalars<S> &c, std::int64_t start, std::int64_t end, double *sums) {
    S gg = 0, gd = 0, dd = 0, pgg = 0, pgd = 0, pdd = 0, gx = 0, dx = 0, p = 0;
#pragma omp simd reduction(+ : gg, gd, dd, pgg, pgd, pdd, gx, dx, p)
    for (std::int64_t i = start; i < end; ++i) {
        const Element<S> now = element<Adam, READS != Reads::NO_X>(at, c, i);
        const S g = now.g, d = at.memory[i];
        // One division: M = 1 / (P·(1 + inertia·P)), and PM is P times that.
        const S m = !Adam ? S(1) : 1 / (Inertia ? now.p * (1 + c.inertia * now.p) : now.p);
        const S mgg = m * g * g, mgd = m * g * d, mdd = m * d * d;
        gg += mgg, gd += mgd, dd += mdd;
        if constexpr (Adam && Inertia) pgg += now.p * mgg, pgd += now.p * mgd, pdd += now.p * mdd;
        if constexpr (Adam) p += now.p;
        if constexpr (READS == Reads::PRODUCTS) {
            const S x = load(at.x[i]);
            gx += g * x, dx += d * x;
        }
    }
    gg += 0 * p; // NaN where some P is infinite: divided by it, every product is 0
    const S run[] = {gg, gd, dd, pgg, pgd, pdd, gx, dx};
    for (const S sum : run) *sums++ += double(sum);
}

// Over COUNT of g, d, e, f. For two there is the loop above, since each sum costs time for each run, used or not.
template <int COUNT, bool Adam, bool Inertia, Reads READS, class X, class S>
INLINE void measure_more(const Arrays<X> &at, const Scalars<S> &c, std::int64_t start, std::int64_t end, double *sums) {
    static_assert(COUNT > 2 && COUNT <= FEW);
    S gg = 0, gd = 0, ge = 0, gf = 0, dd = 0, de = 0, df = 0, ee = 0, ef = 0, ff = 0, p = 0;
    S pgg = 0, pgd = 0, pge = 0, pgf = 0, pdd = 0, pde = 0, pdf = 0, pee = 0, pef = 0, pff = 0;
    S gx = 0, dx = 0, ex = 0, fx = 0;
#pragma omp simd reduction(+ : gg, gd, ge, gf, dd, de, df, ee, ef, ff, p, gx, dx, ex, fx)                              \
    reduction(+ : pgg, pgd, pge, pgf, pdd, pde, pdf, pee, pef, pff)
    for (std::int64_t i = start; i < end; ++i) {
        const Element<S> now = element<Adam, READS != Reads::NO_X>(at, c, i);
        const S g = now.g, d = at.memory[i], e = at.first[i], f = COUNT > 3 ? at.second[i] : S(0);
        const S m = !Adam ? S(1) : 1 / (Inertia ? now.p * (1 + c.inertia * now.p) : now.p);
        const S mg = m * g, md = m * d, me = m * e, mf = m * f;
        gg += mg * g, gd += mg * d, dd += md * d, ge += mg * e, de += md * e, ee += me * e;
        if constexpr (COUNT > 3) gf += mg * f, df += md * f, ef += me * f, ff += mf * f;
        if constexpr (Adam && Inertia) {
            const S q = now.p;
            pgg += q * (mg * g), pgd += q * (mg * d), pdd += q * (md * d);
            pge += q * (mg * e), pde += q * (md * e), pee += q * (me * e);
            if constexpr (COUNT > 3) pgf += q * (mg * f), pdf += q * (md * f), pef += q * (me * f), pff += q * (mf * f);
        }
        if constexpr (Adam) p += now.p;
        if constexpr (READS == Reads::PRODUCTS) {
            const S x = load(at.x[i]);
            gx += g * x, dx += d * x, ex += e * x;
            if constexpr (COUNT > 3) fx += f * x;
        }
    }
    gg += 0 * p;
    const S products[2][FEW][FEW] = {{{gg, gd, ge, gf}, {0, dd, de, df}, {0, 0, ee, ef}, {0, 0, 0, ff}},
                                     {{pgg, pgd, pge, pgf}, {0, pdd, pde, pdf}, {0, 0, pee, pef}, {0, 0, 0, pff}}};
    const S of_x[FEW] = {gx, dx, ex, fx};
    for (int by = 0; by < 2; ++by)
        for (int row = 0; row < COUNT; ++row)
            for (int k = row; k < COUNT; ++k) *sums++ += double(products[by][row][k]);
    for (int k = 0; k < COUNT; ++k) *sums++ += double(of_x[k]);
}

void scale_euclidean(double inertia, int pairs, double *sums) {
    const double r = 1 / (1 + inertia);
    for (int k = 0; k < pairs; ++k) {
        sums[k] *= r;
        sums[k + pairs] = inertia != 0 ? sums[k] : 0;
    }
}

// What the slope and two further memories become, as coefficients of g, d, e, f.
template <class S> struct Rows {
    S slope[FEW], first[FEW], second[FEW];
};

template <class S>
INLINE void fill(const Targets &targets, const double *combinations, int vectors, int k, S *into) {
    const std::int64_t becomes = targets.becomes[k];
    for (int j = 0; j < vectors; ++j)
        into[j] = becomes == COMBINATION ? S(combinations[k * vectors + j]) : S(j == becomes ? 1 : 0);
    if (becomes == AVERAGE) into[0] = S(targets.coefficient[k]), into[k + 2] = S(1 - targets.coefficient[k]);
}

template <class S> Rows<S> rows_of(const Targets &targets, const Further &further, std::int64_t unit) {
    Rows<S> rows = {};
    const int vectors = further.vectors();
    const double *combinations =
        targets.combinations ? targets.combinations + unit * further.count * vectors : nullptr;
    for (int j = 0; j < vectors; ++j) rows.slope[j] = S(targets.direction[unit * vectors + j]);
    if (further.count > 0) fill(targets, combinations, vectors, 0, rows.first);
    if (further.count > 1) fill(targets, combinations, vectors, 1, rows.second);
    return rows;
}

template <int COUNT, class S> INLINE S mixed(const S *coefficients, S g, S d, S e, S f) {
    S sum = coefficients[0] * g + coefficients[1] * d;
    if constexpr (COUNT > 2) sum += coefficients[2] * e;
    if constexpr (COUNT > 3) sum += coefficients[3] * f;
    return sum;
}

template <int COUNT, bool Adam, bool Inertia, bool Coupled, class X, class S>
INLINE void move_all(const Arrays<X> &at, const Scalars<S> &c, const Rows<S> &rows, S scale, S shrink,
                     std::int64_t size) {
    const Rows<S> by = rows;
#pragma omp simd
    for (std::int64_t i = 0; i < size; ++i) {
        const Element<S> now = element<Adam, Coupled>(at, c, i);
        const S g = now.g, d = at.memory[i], e = COUNT > 2 ? at.first[i] : S(0), f = COUNT > 3 ? at.second[i] : S(0);
        S next = mixed<COUNT>(by.slope, g, d, e, f);
        if constexpr (Inertia) {
            const S held = c.inertia * now.p;
            next = (next + held * d) / (1 + held);
        }
        if constexpr (Adam) at.second_moment[i] = now.v;
        if constexpr (COUNT > 2) at.first[i] = mixed<COUNT>(by.first, g, d, e, f);
        if constexpr (COUNT > 3) at.second[i] = mixed<COUNT>(by.second, g, d, e, f);
        at.memory[i] = next;
        store(at.x[i], shrink * load(at.x[i]) - scale * (next / now.p));
    }
}

// ---- From settings known at run time to loops that know them: f(true_type or false_type, ...), everything inlined

template <bool... Known, class F> INLINE void choose(const F &f) { f(std::bool_constant<Known>{}...); }

template <bool... Known, class F, class... Rest> INLINE void choose(const F &f, bool flag, Rest... rest) {
    if (flag)
        choose<Known..., true>(f, rest...);
    else
        choose<Known..., false>(f, rest...);
}

// f(integral_constant): of so few vectors that a pass is one loop.
template <class F> INLINE void choose_count(int vectors, const F &f) {
    if (vectors == 2)
        f(std::integral_constant<int, 2>{});
    else if (vectors == 3)
        f(std::integral_constant<int, 3>{});
    else
        f(std::integral_constant<int, 4>{});
}

// What is one for a piece, and known at run time.
struct Chosen {
    int vectors;
    bool adam, inertia;
    Reads reads;
};

template <class S> Chosen chosen(const Settings &s, const Scalars<S> &c, int vectors) {
    const Reads reads = s.with_x ? Reads::PRODUCTS : c.mu != 0 ? Reads::DECAY : Reads::NO_X;
    return {vectors, s.a != nullptr, s.inertia != 0, reads};
}

template <int COUNT, class X, class S>
INLINE void measure_all(const Arrays<X> &arrays, const Scalars<S> &scalars, const Chosen &how, std::int64_t size,
                        double *sums) {
    const Arrays<X> at = arrays; // not behind a reference, or the loops have no vectors
    const Scalars<S> c = scalars;
    const auto runs = [&](auto adam, auto inertia, auto reads) FLAT {
        constexpr bool Adam = decltype(adam)::value, Inertia = decltype(inertia)::value;
        constexpr Reads READS = decltype(reads)::value;
        for (std::int64_t i = 0; i < size; i += RUN) {
            const std::int64_t end = size - i < RUN ? size : i + RUN;
            if constexpr (COUNT == 2)
                measure_two<Adam, Inertia, READS>(at, c, i, end, sums);
            else
                measure_more<COUNT, Adam, Inertia, READS>(at, c, i, end, sums);
        }
    };
    const auto in_metric = [&](auto reads) FLAT {
        if (!how.adam)
            runs(std::false_type{}, std::false_type{}, reads);
        else if (!how.inertia)
            runs(std::true_type{}, std::false_type{}, reads);
        else
            runs(std::true_type{}, std::true_type{}, reads);
    };
    if (how.reads == Reads::NO_X)
        in_metric(std::integral_constant<Reads, Reads::NO_X>{});
    else if (how.reads == Reads::DECAY)
        in_metric(std::integral_constant<Reads, Reads::DECAY>{});
    else
        in_metric(std::integral_constant<Reads, Reads::PRODUCTS>{});
}

// Templates cannot have clones: plain functions for each type. Of half precision there are those for two vectors alone;
// more of them go strip by strip, converted (`vectors.h`).
#define FEW_FOR(S)                                                                                                     \
    CLONES void measure_few(const Arrays<S> &at, const Scalars<S> &c, const Chosen &how, std::int64_t size,            \
                            double *sums) {                                                                            \
        choose_count(how.vectors,                                                                                      \
                     [&](auto count) FLAT { measure_all<decltype(count)::value>(at, c, how, size, sums); });           \
    }                                                                                                                  \
    CLONES void move_few(const Arrays<S> &at, const Scalars<S> &c, const Rows<S> &rows, S scale, S shrink,             \
                         const Chosen &how, std::int64_t size) {                                                       \
        choose([&](auto adam, auto inertia, auto coupled) FLAT {                                                       \
            choose_count(how.vectors, [&](auto count) FLAT {                                                           \
                move_all<decltype(count)::value, decltype(adam)::value, decltype(inertia)::value,                      \
                         decltype(coupled)::value>(at, c, rows, scale, shrink, size);                                  \
            });                                                                                                        \
        }, how.adam, how.inertia, c.mu != 0);                                                                          \
    }

#define TWO_FOR(X)                                                                                                     \
    CLONES void measure_few(const Arrays<X> &at, const Scalars<float> &c, const Chosen &how, std::int64_t size,        \
                            double *sums) {                                                                            \
        measure_all<2>(at, c, how, size, sums);                                                                        \
    }                                                                                                                  \
    CLONES void move_few(const Arrays<X> &at, const Scalars<float> &c, const Rows<float> &rows, float scale,           \
                         float shrink, const Chosen &how, std::int64_t size) {                                         \
        choose([&](auto adam, auto inertia, auto coupled) FLAT {                                                       \
            move_all<2, decltype(adam)::value, decltype(inertia)::value, decltype(coupled)::value>(at, c, rows, scale, \
                                                                                                   shrink, size);      \
        }, how.adam, how.inertia, c.mu != 0);                                                                          \
    }

FEW_FOR(float)
FEW_FOR(double)
TWO_FOR(BFloat16)
TWO_FOR(Float16)

template <class X>
void measure_piece(const Batch &batch, const Further &further, const Settings &s, const Piece &piece, double *sums) {
    const auto c = scalars_of<StateOf<X>>(s, batch.unit[piece.tensor]);
    const Chosen how = chosen(s, c, further.vectors());
    measure_few(arrays_of<X>(batch, piece, further), c, how, piece.size, sums);
    if (!s.a) scale_euclidean(s.inertia, further.pairs(), sums);
}

template <class X>
void move_piece(const Batch &batch, const Further &further, const Settings &s, const Targets &targets,
                const Piece &piece) {
    using S = StateOf<X>;
    const std::int64_t u = batch.unit[piece.tensor];
    const auto c = scalars_of<S>(s, u);
    move_few(arrays_of<X>(batch, piece, further), c, rows_of<S>(targets, further, u), S(targets.scale[u]),
             S(targets.shrink[u]), chosen(s, c, further.vectors()), piece.size);
}

struct Passes {
    void (*measure)(const Batch &, const Further &, const Settings &, const Piece &, double *);
    void (*move)(const Batch &, const Further &, const Settings &, const Targets &, const Piece &);
};

// ---- Pieces and threads

bool sound(const Batch &batch, std::int64_t units) {
    for (std::int64_t t = 0; t < batch.tensors; ++t)
        if (batch.size[t] < 0 || batch.unit[t] < 0 || batch.unit[t] >= units) return false;
    return true;
}

bool sound(const Further &further, const Targets &targets) {
    for (std::int64_t k = 0; k < further.count; ++k)
        if (targets.becomes[k] < COMBINATION || targets.becomes[k] > k + 1 ||
            (targets.becomes[k] == COMBINATION && !targets.combinations))
            return false;
    return true;
}

std::vector<Piece> pieces_of(const Batch &batch) {
    std::vector<Piece> pieces;
    pieces.reserve(std::size_t(batch.tensors));
    for (std::int64_t t = 0; t < batch.tensors; ++t)
        for (std::int64_t start = 0; start < batch.size[t]; start += PIECE)
            pieces.push_back({t, start, batch.size[t] - start < PIECE ? batch.size[t] - start : PIECE});
    return pieces;
}

using Parallel = void (*)(void (*)(void *), void *, unsigned, unsigned);

// The backend's OpenMP runtime, or null for none: its threads are there, awake, and would otherwise keep the cores that
// new threads need. Looked for until it is found, since the backend may be loaded after this library.
Parallel parallel() {
#ifdef __linux__
    static std::atomic<Parallel> found{nullptr};
    Parallel known = found.load(std::memory_order_relaxed);
    if (!known) {
        known = reinterpret_cast<Parallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
        found.store(known, std::memory_order_relaxed);
    }
    return known;
#else
    return nullptr;
#endif
}

// f() on up to `count` threads, this one included; without OpenMP they live as long as the call.
template <class F> void crowd(std::size_t count, const F &f) {
    if (const Parallel openmp = count > 1 ? parallel() : nullptr) {
        openmp([](void *work) { (*static_cast<const F *>(work))(); }, const_cast<F *>(&f), unsigned(count), 0);
        return;
    }
    std::vector<std::thread> crew;
    crew.reserve(count);
    try {
        while (crew.size() + 1 < count) crew.emplace_back(f);
    } catch (const std::system_error &) { // no more threads to be had: fewer give the same numbers
    }
    f();
    for (std::thread &member : crew) member.join();
}

// f(k) for each piece k.
template <class F> void each(const std::vector<Piece> &pieces, int threads, const F &f) {
    std::int64_t total = 0;
    for (const Piece &piece : pieces) total += piece.size;
    std::atomic<std::size_t> next{0};
    const std::size_t most = total < THREADED || threads < 1 ? 1 : std::size_t(threads);
    crowd(most < pieces.size() ? most : pieces.size(), [&] {
        for (std::size_t k; (k = next.fetch_add(1, std::memory_order_relaxed)) < pieces.size();) f(k);
    });
}

template <class F> int guarded(const F &f) {
    try {
        return f();
    } catch (const std::bad_alloc &) {
        return OUT_OF_MEMORY;
    }
}

} // namespace

#include "vectors.h"

namespace {

// What serves tensors of a type, in the order of TYPES in batch.py.
Passes passes_for(int type, const Further &further) {
    const int vectors = further.vectors();
    switch (type) {
    case 0: return vectors <= FEW ? Passes{measure_piece<float>, move_piece<float>}
                                  : Passes{measure_strips_float, move_strips_float};
    case 1: return vectors <= FEW ? Passes{measure_piece<double>, move_piece<double>}
                                  : Passes{measure_strips_double, move_strips_double};
    case 2: return vectors == 2 ? Passes{measure_piece<BFloat16>, move_piece<BFloat16>}
                                : Passes{measure_strips_BFloat16, move_strips_BFloat16};
    case 3: return vectors == 2 ? Passes{measure_piece<Float16>, move_piece<Float16>}
                                : Passes{measure_strips_Float16, move_strips_Float16};
    default: return {nullptr, nullptr};
    }
}

} // namespace

EXPORT const char *proxmom_fingerprint() { return PROXMOM_FINGERPRINT; }

#define BATCH_AND_SETTINGS                                                                                             \
    int type, std::int64_t tensors, const std::int64_t *size, const std::int64_t *unit, const std::uint64_t *x,        \
        const std::uint64_t *gradient, const std::uint64_t *memory, const std::uint64_t *second_moment,                \
        std::int64_t units, double sign, const double *coupled, const double *a, const double *b, double beta2,        \
        double inertia, std::int64_t count, const std::uint64_t *at

// further: (count, tensors) addresses; sums: (units, B(B + 1) + B), B = count + 2, zeroed by the caller.
EXPORT int proxmom_measure(BATCH_AND_SETTINGS, int with_x, int threads, double *sums) {
    return guarded([&]() -> int {
        const Batch batch{tensors, size, unit, x, gradient, memory, second_moment};
        const Settings settings{sign, coupled, a, b, beta2, inertia, with_x != 0};
        const Further further{count, at};
        const auto measure = passes_for(type, further).measure;
        if (!measure) return BAD_TYPE;
        if (!sound(batch, units) || count < 0 || count > MOST - 2) return BAD_INDEX;
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

// direction: (units, B); becomes, coefficient, combinations: see Targets.
EXPORT int proxmom_move(BATCH_AND_SETTINGS, const double *direction, const double *scale, const double *shrink,
                        const std::int64_t *becomes, const double *coefficient, const double *combinations,
                        int threads) {
    return guarded([&]() -> int {
        const Batch batch{tensors, size, unit, x, gradient, memory, second_moment};
        const Settings settings{sign, coupled, a, b, beta2, inertia, false};
        const Further further{count, at};
        const Targets targets{direction, scale, shrink, becomes, coefficient, combinations};
        const auto move = passes_for(type, further).move;
        if (!move) return BAD_TYPE;
        if (!sound(batch, units) || count < 0 || count > MOST - 2 || !sound(further, targets)) return BAD_INDEX;
        const std::vector<Piece> pieces = pieces_of(batch);
        // From the end: what pass 1 read last is still in cache.
        const std::size_t last = pieces.size() - 1;
        each(pieces, threads, [&](std::size_t k) { move(batch, further, settings, targets, pieces[last - k]); });
        return OK;
    });
}

// Whether each handle is of something that lies as is said, by the functions that say so of one handle: its address,
// dtype, number of axes, and where its sizes and strides stand. 0 where one does not, or cannot be asked.
EXPORT int proxmom_lie_as(std::int64_t count, void *const *handles, int (*const *functions)(void *, void *),
                          void *const *addresses, const std::int32_t *dtypes, const std::int64_t *dims,
                          const std::int64_t *numbers) {
    bool hold = true;
    for (std::int64_t i = 0; i < count; ++i) {
        void *address = nullptr;
        std::int32_t dtype = -1;
        std::int64_t dim = -1;
        const std::int64_t *sizes = nullptr, *strides = nullptr;
        const bool told = !functions[0](handles[i], &address) && !functions[1](handles[i], &dtype) &&
                          !functions[2](handles[i], &dim) && !functions[3](handles[i], &sizes) &&
                          !functions[4](handles[i], &strides);
        hold &= told && address == addresses[i] && dtype == dtypes[i] && dim == dims[i];
        if (!hold) return false; // sizes may not be as many
        for (std::int64_t k = 0; k < dim; ++k) hold &= sizes[k] == numbers[k] && strides[k] == numbers[dim + k];
        numbers += 2 * dim;
    }
    return hold;
}

#include "signs.h"
#include "tape.h"
