// The two passes over memory of a step, for tensors given by address: `measure` sums inner products, `move` writes.
//
// Per element, in the type S of memory (X is the type of x and gradient):
//     g  = sign·gradient + mu·x
//     v' = beta2·v + (1 - beta2)·g·g,  P = a·sqrt(v') + b      (Adam; Euclidean: P = 1)
//     r  = 1/(1 + inertia·P),  M = r/P,  P·M = r
// Sums run in S over RUN elements and in double from there. A tensor is cut into pieces of PIECE elements whose sums
// are added in their order, so that the result does not depend on the number of threads.

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
constexpr int SUMS = 8;                    // <g,Mg> <g,Md> <d,Md> <g,PMg> <g,PMd> <d,PMd> <g,x> <d,x>

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

struct Settings {
    double sign;
    const double *coupled, *a, *b; // per unit, or null
    double beta2, inertia;
    bool with_x;
};

struct Targets {
    const double *direction, *scale, *shrink; // per unit; direction: of gradient, of memory
};

struct Piece {
    std::int64_t tensor, start, size;
};

template <class X> struct Arrays {
    X *x;
    const X *gradient;
    StateOf<X> *memory, *second_moment;
};

template <class X> INLINE Arrays<X> arrays_of(const Batch &batch, const Piece &piece) {
    using S = StateOf<X>;
    const std::int64_t t = piece.tensor;
    const auto at = [&](const std::uint64_t *addresses, auto *type) FLAT {
        using T = std::remove_pointer_t<decltype(type)>;
        return addresses ? reinterpret_cast<T *>(static_cast<std::uintptr_t>(addresses[t])) + piece.start : nullptr;
    };
    return {at(batch.x, static_cast<X *>(nullptr)), at(batch.gradient, static_cast<X *>(nullptr)),
            at(batch.memory, static_cast<S *>(nullptr)), at(batch.second_moment, static_cast<S *>(nullptr))};
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

// Sums of one run. In the Euclidean metric M and PM are one number, by which `scale_euclidean` multiplies afterwards.
template <bool Adam, bool Inertia, bool Coupled, bool WithX, class X, class S>
INLINE void measure_run(const Arrays<X> &at, const Scalars<S> &c, std::int64_t start, std::int64_t end, double *sums) {
    S gg = 0, gd = 0, dd = 0, pgg = 0, pgd = 0, pdd = 0, gx = 0, dx = 0, p = 0;
#pragma omp simd reduction(+ : gg, gd, dd, pgg, pgd, pdd, gx, dx, p)
    for (std::int64_t i = start; i < end; ++i) {
        const Element<S> e = element<Adam, Coupled>(at, c, i);
        const S g = e.g, d = at.memory[i];
        if constexpr (Adam && Inertia) {
            // One division: M = 1 / (P·(1 + inertia·P)), and PM is P times that.
            const S m = 1 / (e.p * (1 + c.inertia * e.p)), mgg = m * g * g, mgd = m * g * d, mdd = m * d * d;
            gg += mgg, gd += mgd, dd += mdd;
            pgg += e.p * mgg, pgd += e.p * mgd, pdd += e.p * mdd;
        } else if constexpr (Adam) {
            const S inverse = 1 / e.p, mg = inverse * g;
            gg += mg * g, gd += mg * d, dd += inverse * d * d;
        } else {
            gg += g * g, gd += g * d, dd += d * d;
        }
        if constexpr (Adam) p += e.p;
        if constexpr (WithX) {
            const S x = load(at.x[i]);
            gx += g * x, dx += d * x;
        }
    }
    gg += 0 * p; // NaN where some P is infinite: divided by it, every product is 0
    const S run[SUMS] = {gg, gd, dd, pgg, pgd, pdd, gx, dx};
    for (int k = 0; k < SUMS; ++k) sums[k] += double(run[k]);
}

void scale_euclidean(double inertia, int pairs, double *sums) {
    const double r = 1 / (1 + inertia);
    for (int k = 0; k < pairs; ++k) {
        sums[k] *= r;
        sums[k + pairs] = inertia != 0 ? sums[k] : 0;
    }
}

template <class S> struct Coefficients {
    S gradient, memory, scale, shrink;
};

template <bool Adam, bool Inertia, bool Coupled, class X, class S>
INLINE void move_all(const Arrays<X> &at, const Scalars<S> &c, const Coefficients<S> &to, std::int64_t size) {
#pragma omp simd
    for (std::int64_t i = 0; i < size; ++i) {
        const Element<S> e = element<Adam, Coupled>(at, c, i);
        const S d = at.memory[i];
        S next = to.gradient * e.g + to.memory * d;
        if constexpr (Inertia) {
            const S held = c.inertia * e.p;
            next = (next + held * d) / (1 + held);
        }
        if constexpr (Adam) at.second_moment[i] = e.v;
        at.memory[i] = next;
        store(at.x[i], to.shrink * load(at.x[i]) - to.scale * (next / e.p));
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

template <class X> INLINE void measure_piece(const Batch &batch, const Settings &s, const Piece &piece, double *sums) {
    const auto at = arrays_of<X>(batch, piece);
    const auto c = scalars_of<StateOf<X>>(s, batch.unit[piece.tensor]);
    const auto f = [&](auto adam, auto inertia, auto coupled, auto with_x) FLAT {
        for (std::int64_t i = 0; i < piece.size; i += RUN) {
            const std::int64_t end = piece.size - i < RUN ? piece.size : i + RUN;
            measure_run<decltype(adam)::value, decltype(inertia)::value, decltype(coupled)::value,
                        decltype(with_x)::value>(at, c, i, end, sums);
        }
    };
    choose(f, s.a != nullptr, s.a && s.inertia != 0, c.mu != 0, s.with_x);
    if (!s.a) scale_euclidean(s.inertia, 3, sums);
}

template <class X>
INLINE void move_piece(const Batch &batch, const Settings &s, const Targets &targets, const Piece &piece) {
    using S = StateOf<X>;
    const std::int64_t u = batch.unit[piece.tensor];
    const auto at = arrays_of<X>(batch, piece);
    const auto c = scalars_of<S>(s, u);
    const Coefficients<S> to = {S(targets.direction[2 * u]), S(targets.direction[2 * u + 1]), S(targets.scale[u]),
                                S(targets.shrink[u])};
    const auto f = [&](auto adam, auto inertia, auto coupled) FLAT {
        move_all<decltype(adam)::value, decltype(inertia)::value, decltype(coupled)::value>(at, c, to, piece.size);
    };
    choose(f, s.a != nullptr, s.inertia != 0, c.mu != 0);
}

// Templates cannot have clones: a plain pair of functions for each type.
#define PASSES_FOR(X)                                                                                                  \
    CLONES void measure_##X(const Batch &batch, const Settings &s, const Piece &piece, double *sums) {                 \
        measure_piece<X>(batch, s, piece, sums);                                                                       \
    }                                                                                                                  \
    CLONES void move_##X(const Batch &batch, const Settings &s, const Targets &targets, const Piece &piece) {          \
        move_piece<X>(batch, s, targets, piece);                                                                       \
    }

PASSES_FOR(float)
PASSES_FOR(double)
PASSES_FOR(BFloat16)
PASSES_FOR(Float16)

using Measure = void (*)(const Batch &, const Settings &, const Piece &, double *);
using Move = void (*)(const Batch &, const Settings &, const Targets &, const Piece &);

struct Passes {
    Measure measure;
    Move move;
};

// The order is that of TYPES in batch.py.
Passes passes_for(int type) {
    switch (type) {
    case 0: return {measure_float, move_float};
    case 1: return {measure_double, move_double};
    case 2: return {measure_BFloat16, move_BFloat16};
    case 3: return {measure_Float16, move_Float16};
    default: return {nullptr, nullptr};
    }
}

// ---- Pieces and threads

bool sound(const Batch &batch, std::int64_t units) {
    for (std::int64_t t = 0; t < batch.tensors; ++t)
        if (batch.size[t] < 0 || batch.unit[t] < 0 || batch.unit[t] >= units) return false;
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

EXPORT const char *proxmom_fingerprint() { return PROXMOM_FINGERPRINT; }

#define BATCH_AND_SETTINGS                                                                                             \
    int type, std::int64_t tensors, const std::int64_t *size, const std::int64_t *unit, const std::uint64_t *x,        \
        const std::uint64_t *gradient, const std::uint64_t *memory, const std::uint64_t *second_moment,                \
        std::int64_t units, double sign, const double *coupled, const double *a, const double *b, double beta2,        \
        double inertia

// sums: (units, 8), zeroed by the caller.
EXPORT int proxmom_measure(BATCH_AND_SETTINGS, int with_x, int threads, double *sums) {
    return guarded([&]() -> int {
        const Batch batch{tensors, size, unit, x, gradient, memory, second_moment};
        const Settings settings{sign, coupled, a, b, beta2, inertia, with_x != 0};
        const Measure measure = passes_for(type).measure;
        if (!measure) return BAD_TYPE;
        if (!sound(batch, units)) return BAD_INDEX;
        const std::vector<Piece> pieces = pieces_of(batch);
        std::vector<double> partial(pieces.size() * SUMS, 0.0);
        each(pieces, threads, [&](std::size_t k) { measure(batch, settings, pieces[k], &partial[k * SUMS]); });
        for (std::size_t k = 0; k < pieces.size(); ++k)
            for (int j = 0; j < SUMS; ++j) sums[unit[pieces[k].tensor] * SUMS + j] += partial[k * SUMS + j];
        return OK;
    });
}

EXPORT int proxmom_move(BATCH_AND_SETTINGS, const double *direction, const double *scale, const double *shrink,
                        int threads) {
    return guarded([&]() -> int {
        const Batch batch{tensors, size, unit, x, gradient, memory, second_moment};
        const Settings settings{sign, coupled, a, b, beta2, inertia, false};
        const Targets targets{direction, scale, shrink};
        const Move move = passes_for(type).move;
        if (!move) return BAD_TYPE;
        if (!sound(batch, units)) return BAD_INDEX;
        const std::vector<Piece> pieces = pieces_of(batch);
        // From the end: what pass 1 read last is still in cache.
        const std::size_t last = pieces.size() - 1;
        each(pieces, threads, [&](std::size_t k) { move(batch, settings, targets, pieces[last - k]); });
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
#include "vectors.h"
