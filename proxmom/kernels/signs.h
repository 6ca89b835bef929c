// The passes of a hard step in the maximum norm, whose directions are signs; `passes.cpp` includes this, and has what
// both share.
//
// Per element, in the type S of memory: g as in `passes.cpp`, d the memory, and t = a·g + b·d for a slope (a, b), which
// pulls Σ sign(t)·g and Σ sign(t)·d. Between two slopes few elements change sign: `focus` sets these aside, and sums the
// others once. From then on a slope between the two is a matter of the few. Which two is told by `glance`, which looks at
// a sample.

#pragma once

namespace {

constexpr std::int64_t SPAN = 512;    // elements at once, summed in S; short, so that float keeps its digits
constexpr int MEASURED = 6;           // <g,v> <d,v> <g,x> <d,x>, v the direction that memory recalls, and pulls of g
constexpr int GLANCED = 3;            // of the elements looked at: how many, Σ w, Σ w², w the change of t or 0
constexpr std::size_t TASK = 64;      // spans that are glanced at by one thread
constexpr std::int64_t WINDOW = 8;    // of so many elements one may be set aside
constexpr std::int64_t ALWAYS = 4096; // and in any case so many of each piece

struct SignSettings {
    double sign;
    const double *coupled; // per unit, or null
    double faint;
};

struct Mixture {
    const double *direction, *scale, *shrink; // per unit; direction: of gradient, of memory
    const double *parts;                      // per unit, `count` times: slope (a, b) and share
    int count;
};

template <class S> INLINE S sign_of(S t) { return t > 0 ? S(1) : t < 0 ? S(-1) : S(0); }

template <class S> struct Slope {
    S a, b;
};

template <class S> Slope<S> slope_at(const double *slopes, std::int64_t k) {
    return {S(slopes[2 * k]), S(slopes[2 * k + 1])};
}

template <class S> INLINE S along(const Slope<S> &slope, S g, S d) { return slope.a * g + slope.b * d; }

template <class S> struct Signed {
    S sign, mu;
};

template <class S> Signed<S> signed_of(const SignSettings &s, std::int64_t unit) {
    return {S(s.sign), s.coupled ? S(s.coupled[unit]) : S(0)};
}

template <bool Coupled, class X, class S>
INLINE S gradient_of(const Arrays<X> &at, const Signed<S> &c, std::int64_t i) {
    S g = c.sign * load(at.gradient[i]);
    if constexpr (Coupled) g += c.mu * load(at.x[i]);
    return g;
}

// ---- The formulas, for the elements from start to end, at most SPAN of them

template <bool Coupled, bool WithX, class X, class S>
INLINE void recall_span(const Arrays<X> &at, const Signed<S> &c, S inverse, std::int64_t start, std::int64_t end,
                        double *sums) {
    S gv = 0, dv = 0, gx = 0, dx = 0, gg = 0, gd = 0;
#pragma omp simd reduction(+ : gv, dv, gx, dx, gg, gd)
    for (std::int64_t i = start; i < end; ++i) {
        const S g = gradient_of<Coupled>(at, c, i), d = at.memory[i], s = sign_of(g);
        const S far = d * inverse, v = far > 1 ? S(1) : far < -1 ? S(-1) : far;
        gv += g * v, dv += d * v;
        gg += std::fabs(g), gd += s * d;
        if constexpr (WithX) {
            const S x = load(at.x[i]);
            gx += g * x, dx += d * x;
        }
    }
    const S all[MEASURED] = {gv, dv, gx, dx, gg, gd};
    for (int k = 0; k < MEASURED; ++k) sums[k] += double(all[k]);
}

// By what the pull changes on the way from one slope to another, in equal parts of the way: table (bins, 2). A guide to
// where to ask: rounding may put an element into a part beside its own.
template <bool Coupled, class X, class S>
INLINE void glance_span(const Arrays<X> &at, const Signed<S> &c, const Slope<S> &from, const Slope<S> &to, int bins,
                        std::int64_t start, std::int64_t end, double *table, double *seen) {
    std::int32_t bin[SPAN];
    S change[SPAN], gradient[SPAN];
    const S count = S(bins), tiny = std::numeric_limits<S>::min();
    S total = 0, squares = 0;
#pragma omp simd reduction(+ : total, squares)
    for (std::int64_t i = start; i < end; ++i) {
        const S g = gradient_of<Coupled>(at, c, i), d = at.memory[i], t0 = along(from, g, d), t1 = along(to, g, d);
        const S by = sign_of(t1) - sign_of(t0), size = std::fabs(t0) + std::fabs(t1);
        const S place = count * (std::fabs(t0) / (size > tiny ? size : tiny));
        bin[i - start] = std::int32_t(place < count ? place : count - 1); // also where it is not finite
        change[i - start] = by;
        gradient[i - start] = g;
        const S w = by != 0 ? size : S(0);
        total += w, squares += w * w;
    }
    seen[0] += double(end - start), seen[1] += double(total), seen[2] += double(squares);
    for (std::int64_t i = start; i < end; ++i) {
        const S by = change[i - start];
        double *at_bin = table + 2 * bin[i - start];
        at_bin[0] += double(by * gradient[i - start]);
        at_bin[1] += double(by * at.memory[i]);
    }
}

template <bool Coupled, class X, class S>
INLINE void pull_span(const Arrays<X> &at, const Signed<S> &c, const Slope<S> &slope, std::int64_t start,
                      std::int64_t end, double *sums) {
    S pull_g = 0, pull_d = 0;
#pragma omp simd reduction(+ : pull_g, pull_d)
    for (std::int64_t i = start; i < end; ++i) {
        const S g = gradient_of<Coupled>(at, c, i), d = at.memory[i], s = sign_of(along(slope, g, d));
        pull_g += s * g, pull_d += s * d;
    }
    sums[0] += double(pull_g), sums[1] += double(pull_d);
}

// 64 bytes that are 0 or 1 as bits; the product brings those of 8 to the top.
INLINE std::uint64_t mask_of(const std::uint8_t *flags) {
    std::uint64_t mask = 0, eight;
    for (int k = 0; k < 8; ++k) {
        std::memcpy(&eight, flags + 8 * k, sizeof eight);
        mask |= eight * 0x0102040810204080u >> 56 << (8 * k);
    }
    return mask;
}

// Sums of the elements whose sign is the same at both slopes; the others are appended to `aside`, (g, d) each.
template <bool Coupled, class X, class S>
INLINE void focus_span(const Arrays<X> &at, const Signed<S> &c, const Slope<S> &low, const Slope<S> &high,
                       std::int64_t start, std::int64_t end, double *sums, std::vector<S> &aside) {
    using Bits = std::conditional_t<sizeof(S) == 4, std::uint32_t, std::uint64_t>; // compilers vectorise it with S
    constexpr int TOP = 8 * sizeof(S) - 1;
    Bits apart[SPAN];
    std::uint8_t flags[SPAN];
    S pull_g = 0, pull_d = 0;
    const S *memory = at.memory + start;
#pragma omp simd reduction(+ : pull_g, pull_d)
    for (std::int64_t i = 0; i < end - start; ++i) {
        const S g = gradient_of<Coupled>(at, c, start + i), d = memory[i];
        const Bits t0 = bits_of<Bits>(along(low, g, d)), t1 = bits_of<Bits>(along(high, g, d));
        // Only zero, of either sign, has another sign once 1 is subtracted; where g and d are zero nothing is there.
        const Bits level = (t0 ^ (t0 - 1)) | (t1 ^ (t1 - 1)), size = (bits_of<Bits>(g) | bits_of<Bits>(d)) << 1;
        const Bits differ = ((t0 ^ t1) | (level & (size | (0 - size)))) >> TOP;
        const Bits kept = differ - 1, negative = t0 >> TOP << TOP; // all ones where the signs are the same
        pull_g += bits_of<S>((bits_of<Bits>(g) ^ negative) & kept);
        pull_d += bits_of<S>((bits_of<Bits>(d) ^ negative) & kept);
        apart[i] = differ;
    }
    sums[0] += double(pull_g), sums[1] += double(pull_d);
    for (std::int64_t i = end - start; i < SPAN; ++i) apart[i] = 0;
#pragma omp simd
    for (std::int64_t i = 0; i < SPAN; ++i) flags[i] = std::uint8_t(apart[i]);
    S found[2 * SPAN];
    std::size_t count = 0;
    for (std::int64_t block = 0; block < end - start; block += 64)
        for (std::uint64_t mask = mask_of(flags + block); mask; mask &= mask - 1) {
            const std::int64_t i = start + block + __builtin_ctzll(mask);
            found[count++] = gradient_of<Coupled>(at, c, i);
            found[count++] = at.memory[i];
        }
    aside.insert(aside.end(), found, found + count);
}

template <class S> struct Coefficients {
    S gradient, memory, scale, shrink;
};

// Memory keeps the direction: where that is no sign, it is `faint` times the direction, and elsewhere not below that.
template <bool Coupled, class X, class S>
INLINE void mix_span(const Arrays<X> &at, const Signed<S> &c, const Coefficients<S> &to, const double *parts, int count,
                     S faint, std::int64_t start, std::int64_t end) {
    S step[SPAN] = {};
    for (int k = 0; k < count; ++k) {
        const Slope<S> slope = {S(parts[3 * k]), S(parts[3 * k + 1])};
        const S share = S(parts[3 * k + 2]);
        if (share == 0) continue;
#pragma omp simd
        for (std::int64_t i = start; i < end; ++i) {
            const S g = gradient_of<Coupled>(at, c, i);
            step[i - start] += share * sign_of(along(slope, g, at.memory[i]));
        }
    }
#pragma omp simd
    for (std::int64_t i = start; i < end; ++i) {
        const S g = gradient_of<Coupled>(at, c, i), v = step[i - start], next = to.gradient * g + to.memory * at.memory[i];
        const S size = std::fabs(next), kept = size < faint ? faint : size;
        at.memory[i] = v * (std::fabs(v) < 1 ? faint : kept);
        store(at.x[i], to.shrink * load(at.x[i]) - to.scale * v);
    }
}

// ---- A piece, from settings known at run time to loops that know them

template <class F> INLINE void spans(std::int64_t size, const F &f) {
    for (std::int64_t i = 0; i < size; i += SPAN) f(i, size - i < SPAN ? size : i + SPAN);
}

template <class X>
INLINE void recall_piece(const Batch &batch, const SignSettings &s, const Piece &piece, bool with_x, double *sums) {
    using S = StateOf<X>;
    const auto at = arrays_of<X>(batch, piece);
    const auto c = signed_of<S>(s, batch.unit[piece.tensor]);
    const auto f = [&](auto coupled, auto x) FLAT {
        spans(piece.size, [&](std::int64_t start, std::int64_t end) FLAT {
            recall_span<decltype(coupled)::value, decltype(x)::value>(at, c, S(1 / s.faint), start, end, sums);
        });
    };
    choose(f, c.mu != 0, with_x);
}

template <class X>
INLINE void glance_piece(const Batch &batch, const SignSettings &s, const Piece &piece, const double *slopes, int bins,
                         double *table, double *seen) {
    using S = StateOf<X>;
    const std::int64_t unit = batch.unit[piece.tensor];
    const auto at = arrays_of<X>(batch, piece);
    const auto c = signed_of<S>(s, unit);
    const auto from = slope_at<S>(slopes, 2 * unit), to = slope_at<S>(slopes, 2 * unit + 1);
    const auto f = [&](auto coupled) FLAT {
        glance_span<decltype(coupled)::value>(at, c, from, to, bins, 0, piece.size, table, seen);
    };
    choose(f, c.mu != 0);
}

template <class X>
INLINE void pull_piece(const Batch &batch, const SignSettings &s, const Piece &piece, const double *slopes,
                       double *sums) {
    using S = StateOf<X>;
    const std::int64_t unit = batch.unit[piece.tensor];
    const auto at = arrays_of<X>(batch, piece);
    const auto c = signed_of<S>(s, unit);
    const auto slope = slope_at<S>(slopes, unit);
    const auto f = [&](auto coupled) FLAT {
        spans(piece.size, [&](std::int64_t start, std::int64_t end) FLAT {
            pull_span<decltype(coupled)::value>(at, c, slope, start, end, sums);
        });
    };
    choose(f, c.mu != 0);
}

// false where too many elements change sign.
template <class X>
INLINE bool focus_piece(const Batch &batch, const SignSettings &s, const Piece &piece, const double *slopes,
                        double *sums, std::vector<StateOf<X>> &aside) {
    using S = StateOf<X>;
    const std::int64_t unit = batch.unit[piece.tensor];
    const std::size_t most = std::size_t(2 * (piece.size / WINDOW + ALWAYS));
    const auto at = arrays_of<X>(batch, piece);
    const auto c = signed_of<S>(s, unit);
    const auto low = slope_at<S>(slopes, 2 * unit), high = slope_at<S>(slopes, 2 * unit + 1);
    bool few = true;
    const auto f = [&](auto coupled) FLAT {
        spans(piece.size, [&](std::int64_t start, std::int64_t end) FLAT {
            if (few) focus_span<decltype(coupled)::value>(at, c, low, high, start, end, sums, aside);
            few = aside.size() <= most;
        });
    };
    choose(f, c.mu != 0);
    return few;
}

template <class X>
INLINE void mix_piece(const Batch &batch, const SignSettings &s, const Piece &piece, const Mixture &m) {
    using S = StateOf<X>;
    const std::int64_t u = batch.unit[piece.tensor];
    const auto at = arrays_of<X>(batch, piece);
    const auto c = signed_of<S>(s, u);
    const Coefficients<S> to = {S(m.direction[2 * u]), S(m.direction[2 * u + 1]), S(m.scale[u]), S(m.shrink[u])};
    const auto f = [&](auto coupled) FLAT {
        spans(piece.size, [&](std::int64_t start, std::int64_t end) FLAT {
            mix_span<decltype(coupled)::value>(at, c, to, m.parts + 3 * m.count * u, m.count, S(s.faint), start, end);
        });
    };
    choose(f, c.mu != 0);
}

// What `aside` pulls.
template <class S> INLINE void pull_aside(const std::vector<S> &aside, const Slope<S> &slope, double *sums) {
    const S *pairs = aside.data();
    spans(std::int64_t(aside.size() / 2), [&](std::int64_t start, std::int64_t end) FLAT {
        S pull_g = 0, pull_d = 0;
#pragma omp simd reduction(+ : pull_g, pull_d)
        for (std::int64_t i = start; i < end; ++i) {
            const S g = pairs[2 * i], d = pairs[2 * i + 1], s = sign_of(along(slope, g, d));
            pull_g += s * g, pull_d += s * d;
        }
        sums[0] += double(pull_g), sums[1] += double(pull_d);
    });
}

#define SIGNS_FOR(X)                                                                                                   \
    CLONES void recall_##X(const Batch &batch, const SignSettings &s, const Piece &piece, bool with_x, double *sums) { \
        recall_piece<X>(batch, s, piece, with_x, sums);                                                                \
    }                                                                                                                  \
    CLONES void glance_##X(const Batch &batch, const SignSettings &s, const Piece &piece, const double *slopes,        \
                           int bins, double *table, double *seen) {                                                    \
        glance_piece<X>(batch, s, piece, slopes, bins, table, seen);                                                   \
    }                                                                                                                  \
    CLONES void pull_##X(const Batch &batch, const SignSettings &s, const Piece &piece, const double *slopes,          \
                         double *sums) {                                                                               \
        pull_piece<X>(batch, s, piece, slopes, sums);                                                                  \
    }                                                                                                                  \
    CLONES bool focus_##X(const Batch &batch, const SignSettings &s, const Piece &piece, const double *slopes,         \
                          double *sums, std::vector<StateOf<X>> &aside) {                                              \
        return focus_piece<X>(batch, s, piece, slopes, sums, aside);                                                   \
    }                                                                                                                  \
    CLONES void mix_##X(const Batch &batch, const SignSettings &s, const Piece &piece, const Mixture &m) {             \
        mix_piece<X>(batch, s, piece, m);                                                                              \
    }

SIGNS_FOR(float)
SIGNS_FOR(double)
SIGNS_FOR(BFloat16)
SIGNS_FOR(Float16)

CLONES void again_float(const std::vector<float> &aside, const double *slope, double *sums) {
    pull_aside(aside, slope_at<float>(slope, 0), sums);
}
CLONES void again_double(const std::vector<double> &aside, const double *slope, double *sums) {
    pull_aside(aside, slope_at<double>(slope, 0), sums);
}

template <class S> struct SignPasses {
    void (*recall)(const Batch &, const SignSettings &, const Piece &, bool, double *);
    void (*glance)(const Batch &, const SignSettings &, const Piece &, const double *, int, double *, double *);
    void (*pull)(const Batch &, const SignSettings &, const Piece &, const double *, double *);
    bool (*focus)(const Batch &, const SignSettings &, const Piece &, const double *, double *, std::vector<S> &);
    void (*mix)(const Batch &, const SignSettings &, const Piece &, const Mixture &);
};

#define SIGN_PASSES(X) {recall_##X, glance_##X, pull_##X, focus_##X, mix_##X}

// f(passes) for a type; the order is that of TYPES in batch.py.
template <class F> int with_signs(int type, const F &f) {
    switch (type) {
    case 0: return f(SignPasses<float> SIGN_PASSES(float));
    case 1: return f(SignPasses<double> SIGN_PASSES(double));
    case 2: return f(SignPasses<float> SIGN_PASSES(BFloat16));
    case 3: return f(SignPasses<float> SIGN_PASSES(Float16));
    default: return BAD_TYPE;
    }
}

// ---- Which elements are glanced at, and those that were set aside

// Of each unit one span of every `stride`, in tasks of one unit.
struct Sample {
    std::vector<std::vector<Piece>> tasks;
    std::vector<std::int64_t> unit; // of each task
};

inline Sample sample_of(const Batch &batch, std::int64_t units, const std::int64_t *stride) {
    Sample sample;
    std::vector<std::vector<Piece>> chosen(std::size_t(units), std::vector<Piece>{});
    std::vector<std::int64_t> before(std::size_t(units), 0); // spans of the unit so far
    for (std::int64_t t = 0; t < batch.tensors; ++t) {
        const std::int64_t u = batch.unit[t], every = stride[u] > 1 ? stride[u] : 1;
        const std::int64_t count = (batch.size[t] + SPAN - 1) / SPAN, seen = before[std::size_t(u)] % every;
        for (std::int64_t k = seen ? every - seen : 0; k < count; k += every) {
            const std::int64_t start = k * SPAN, rest = batch.size[t] - start;
            chosen[std::size_t(u)].push_back({t, start, rest < SPAN ? rest : SPAN});
        }
        before[std::size_t(u)] += count;
    }
    for (std::int64_t u = 0; u < units; ++u) {
        const std::vector<Piece> &all = chosen[std::size_t(u)];
        for (std::size_t k = 0; k < all.size(); k += TASK) {
            const std::size_t end = all.size() - k < TASK ? all.size() : k + TASK;
            sample.tasks.emplace_back(all.begin() + std::ptrdiff_t(k), all.begin() + std::ptrdiff_t(end));
            sample.unit.push_back(u);
        }
    }
    return sample;
}

struct Aside {
    virtual ~Aside() = default;
    virtual void pull(const double *slopes, int threads, double *sums) const = 0;
};

// Sums of pieces in their order, `width` each, into those of their units.
inline void add_up(const std::vector<std::int64_t> &unit, const std::vector<double> &partial, std::size_t width,
                   double *sums) {
    for (std::size_t k = 0; k < unit.size(); ++k)
        for (std::size_t j = 0; j < width; ++j) sums[std::size_t(unit[k]) * width + j] += partial[k * width + j];
}

inline std::vector<std::int64_t> units_of(const Batch &batch, const std::vector<Piece> &pieces) {
    std::vector<std::int64_t> unit;
    unit.reserve(pieces.size());
    for (const Piece &piece : pieces) unit.push_back(batch.unit[piece.tensor]);
    return unit;
}

inline void pull_few(const std::vector<float> &few, const double *slope, double *sums) { again_float(few, slope, sums); }
inline void pull_few(const std::vector<double> &few, const double *slope, double *sums) {
    again_double(few, slope, sums);
}

template <class S> struct AsideOf : Aside {
    std::vector<std::int64_t> unit;   // of each piece
    std::vector<std::vector<S>> few;  // of each piece, (g, d) each
    std::vector<Piece> sizes;         // for `each`

    void pull(const double *slopes, int threads, double *sums) const override {
        std::vector<double> partial(few.size() * 2, 0.0);
        each(sizes, threads, [&](std::size_t k) { pull_few(few[k], slopes + 2 * unit[k], &partial[k * 2]); });
        add_up(unit, partial, 2, sums);
    }
};

template <class S> AsideOf<S> *few_for(const SignPasses<S> &) { return new AsideOf<S>; }

// OK, OUT_OF_MEMORY, or TOO_MANY elements.
template <class S>
int set_aside(const SignPasses<S> &passes, const Batch &batch, const SignSettings &s, const double *slopes, int threads,
              double *sums, AsideOf<S> &to) {
    const std::vector<Piece> pieces = pieces_of(batch);
    to.unit = units_of(batch, pieces);
    to.few.resize(pieces.size());
    std::vector<double> partial(pieces.size() * 2, 0.0);
    std::atomic<int> status{OK};
    const std::size_t last = pieces.size() - 1; // from the end: what was read last is still in cache
    each(pieces, threads, [&](std::size_t place) {
        const std::size_t k = last - place;
        if (status != OK) return;
        try { // nothing may be thrown out of a thread
            if (!passes.focus(batch, s, pieces[k], slopes, &partial[k * 2], to.few[k])) status = TOO_MANY;
        } catch (const std::bad_alloc &) {
            status = OUT_OF_MEMORY;
        }
    });
    for (std::size_t k = 0; k < pieces.size(); ++k)
        to.sizes.push_back({std::int64_t(k), 0, std::int64_t(to.few[k].size() / 2)});
    if (status == OK) add_up(to.unit, partial, 2, sums);
    return status;
}

} // namespace

#define BATCH_ARGUMENTS                                                                                                \
    int type, std::int64_t tensors, const std::int64_t *size, const std::int64_t *unit, const std::uint64_t *x,        \
        const std::uint64_t *gradient, const std::uint64_t *memory, std::int64_t units, double sign,                   \
        const double *coupled, double faint, int threads

// f(passes, batch, settings), if all is as it should be.
#define WITH_SIGNS(...)                                                                                                \
    return guarded([&]() -> int {                                                                                      \
        const Batch batch{tensors, size, unit, x, gradient, memory, nullptr};                                          \
        const SignSettings settings{sign, coupled, faint};                                                             \
        if (!sound(batch, units)) return BAD_INDEX;                                                                    \
        return with_signs(type, [&](const auto &passes) -> int { __VA_ARGS__ });                                       \
    })

// sums: (units, 6), zeroed by the caller.
EXPORT int proxmom_recall(BATCH_ARGUMENTS, int with_x, double *sums) {
    WITH_SIGNS({
        const std::vector<Piece> pieces = pieces_of(batch);
        std::vector<double> partial(pieces.size() * MEASURED, 0.0);
        each(pieces, threads, [&](std::size_t k) {
            passes.recall(batch, settings, pieces[k], with_x != 0, &partial[k * MEASURED]);
        });
        add_up(units_of(batch, pieces), partial, MEASURED, sums);
        return OK;
    });
}

// slopes: (units, 2, 2); table: (units, bins, 2); seen: (units, 3), both zeroed by the caller.
EXPORT int proxmom_glance(BATCH_ARGUMENTS, const std::int64_t *stride, const double *slopes, int bins, double *table,
                          double *seen) {
    WITH_SIGNS({
        const Sample sample = sample_of(batch, units, stride);
        const std::size_t width = std::size_t(2 * bins);
        std::vector<double> tables(sample.tasks.size() * width, 0.0), glanced(sample.tasks.size() * GLANCED, 0.0);
        std::vector<Piece> sizes;
        for (const std::vector<Piece> &task : sample.tasks) sizes.push_back({0, 0, SPAN * std::int64_t(task.size())});
        each(sizes, threads, [&](std::size_t k) {
            for (const Piece &piece : sample.tasks[k])
                passes.glance(batch, settings, piece, slopes, bins, &tables[k * width], &glanced[k * GLANCED]);
        });
        add_up(sample.unit, tables, width, table);
        add_up(sample.unit, glanced, GLANCED, seen);
        return OK;
    });
}

// Of the units that are wanted; slopes, sums: (units, 2), the latter zeroed by the caller.
EXPORT int proxmom_pull(BATCH_ARGUMENTS, const std::uint8_t *wanted, const double *slopes, double *sums) {
    WITH_SIGNS({
        std::vector<Piece> pieces;
        for (const Piece &piece : pieces_of(batch))
            if (wanted[unit[piece.tensor]]) pieces.push_back(piece);
        std::vector<double> partial(pieces.size() * 2, 0.0);
        each(pieces, threads,
             [&](std::size_t k) { passes.pull(batch, settings, pieces[k], slopes, &partial[k * 2]); });
        add_up(units_of(batch, pieces), partial, 2, sums);
        return OK;
    });
}

// slopes: (units, 2, 2); sums: (units, 2), of what is not set aside, zeroed by the caller; aside: what is, for
// proxmom_pull_aside, to be given to proxmom_forget at the end; null where that is too much.
EXPORT int proxmom_focus(BATCH_ARGUMENTS, const double *slopes, double *sums, void **aside) {
    *aside = nullptr;
    const auto make = [&](const auto &passes, const Batch &batch, const SignSettings &settings, auto *set) -> int {
        std::unique_ptr<std::remove_pointer_t<decltype(set)>> owner(set);
        const int status = set_aside(passes, batch, settings, slopes, threads, sums, *set);
        if (status == OK) *aside = static_cast<Aside *>(owner.release());
        return status == TOO_MANY ? int(OK) : status;
    };
    WITH_SIGNS({ return make(passes, batch, settings, few_for(passes)); });
}

EXPORT int proxmom_pull_aside(const void *aside, const double *slopes, int threads, double *sums) {
    return guarded([&]() -> int {
        static_cast<const Aside *>(aside)->pull(slopes, threads, sums);
        return OK;
    });
}

EXPORT void proxmom_forget(void *aside) { delete static_cast<Aside *>(aside); }

// direction: (units, 2); scale, shrink: (units,); parts: (units, count, 3), slopes and shares.
EXPORT int proxmom_mix(BATCH_ARGUMENTS, const double *direction, const double *scale, const double *shrink,
                       const double *parts, int count, int backwards) {
    WITH_SIGNS({
        const Mixture mixture{direction, scale, shrink, parts, count};
        const std::vector<Piece> pieces = pieces_of(batch);
        const std::size_t last = pieces.size() - 1; // not from where the pass before has begun
        each(pieces, threads, [&](std::size_t k) {
            passes.mix(batch, settings, pieces[backwards ? last - k : k], mixture);
        });
        return OK;
    });
}
