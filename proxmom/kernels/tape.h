// Plays a tape: a straight line of instructions on columns of numbers, one for each unit or each scope.
//
// The order of the instructions is that of `INSTRUCTIONS` in proxmom/tape/record.py. Every instruction is one loop, so
// that nothing is contracted or reordered: the numbers are those of NumPy's functions, but for power, exp, log
// and their like, whose last bit is the C library's. Truth values are 0 and 1.

#pragma once

namespace {

enum Operation : std::int32_t {
    LOAD, STORE, TOTAL, LEAST, SPREAD, ADD, SUBTRACT, MULTIPLY, DIVIDE, POWER, MAXIMUM, MINIMUM, LESS, LESS_EQUAL,
    EQUAL, AND, OR, NOT, NEGATIVE, ABS, SQRT, EXP, LOG, ISFINITE, WHERE, SINGLE, FLOOR, REMAINDER, SIN, COS,
    TANH, LOG1P, EXPM1, OPERATIONS
};

// name; whether one for each scope; register written; three registers read; column of what is given or returned
struct Instruction {
    std::int32_t name, scope, target, a, b, c, column;
};

struct Column {
    double *data;
    std::int64_t stride; // in numbers
};

struct Player {
    std::int64_t units, scopes, length; // length: of a register, at least both
    const std::int64_t *scope_of;
    const Column *given, *returned;
    double *registers;

    double *at(std::int32_t number) const { return registers + std::int64_t(number) * length; }

    template <class F> void each(std::int64_t count, double *__restrict target, F f) const {
        for (std::int64_t i = 0; i < count; ++i) target[i] = f(i);
    }

    // With the sign of b, as NumPy's.
    static double remainder(double a, double b) {
        const double rest = std::fmod(a, b);
        if (rest == 0) return std::copysign(0.0, b);
        return (rest < 0) != (b < 0) ? rest + b : rest;
    }

    // Numbers `first` to `first + count` of what there is one of for each unit (or scope).
    void play(const Instruction &step, std::int64_t first, std::int64_t count) const;
};

inline void Player::play(const Instruction &step, std::int64_t first, std::int64_t count) const {
    double *t = at(step.target);
    const double *a = at(step.a), *b = at(step.b), *c = at(step.c);
    switch (step.name) {
    case LOAD: {
        const Column from = given[step.column];
        return each(count, t, [&](std::int64_t i) { return from.data[(first + i) * from.stride]; });
    }
    case STORE: {
        const Column to = returned[step.column];
        for (std::int64_t i = 0; i < count; ++i) to.data[(first + i) * to.stride] = a[i];
        return;
    }
    case TOTAL:
        for (std::int64_t s = 0; s < scopes; ++s) t[s] = 0;
        for (std::int64_t u = 0; u < units; ++u) t[scope_of[u]] += a[u];
        return;
    case LEAST:
        for (std::int64_t s = 0; s < scopes; ++s) t[s] = HUGE_VAL;
        for (std::int64_t u = 0; u < units; ++u) {
            double &least = t[scope_of[u]];
            least = least < a[u] || least != least ? least : a[u];
        }
        return;
    case SPREAD: return each(units, t, [&](std::int64_t i) { return a[scope_of[i]]; });
    case ADD: return each(count, t, [&](std::int64_t i) { return a[i] + b[i]; });
    case SUBTRACT: return each(count, t, [&](std::int64_t i) { return a[i] - b[i]; });
    case MULTIPLY: return each(count, t, [&](std::int64_t i) { return a[i] * b[i]; });
    case DIVIDE: return each(count, t, [&](std::int64_t i) { return a[i] / b[i]; });
    case POWER: return each(count, t, [&](std::int64_t i) { return std::pow(a[i], b[i]); });
    case MAXIMUM: return each(count, t, [&](std::int64_t i) { return a[i] > b[i] || a[i] != a[i] ? a[i] : b[i]; });
    case MINIMUM: return each(count, t, [&](std::int64_t i) { return a[i] < b[i] || a[i] != a[i] ? a[i] : b[i]; });
    case LESS: return each(count, t, [&](std::int64_t i) { return double(a[i] < b[i]); });
    case LESS_EQUAL: return each(count, t, [&](std::int64_t i) { return double(a[i] <= b[i]); });
    case EQUAL: return each(count, t, [&](std::int64_t i) { return double(a[i] == b[i]); });
    case AND: return each(count, t, [&](std::int64_t i) { return double((a[i] != 0) & (b[i] != 0)); });
    case OR: return each(count, t, [&](std::int64_t i) { return double((a[i] != 0) | (b[i] != 0)); });
    case NOT: return each(count, t, [&](std::int64_t i) { return double(a[i] == 0); });
    case NEGATIVE: return each(count, t, [&](std::int64_t i) { return -a[i]; });
    case ABS: return each(count, t, [&](std::int64_t i) { return std::fabs(a[i]); });
    case SQRT: return each(count, t, [&](std::int64_t i) { return std::sqrt(a[i]); });
    case EXP: return each(count, t, [&](std::int64_t i) { return std::exp(a[i]); });
    case LOG: return each(count, t, [&](std::int64_t i) { return std::log(a[i]); });
    case ISFINITE: return each(count, t, [&](std::int64_t i) { return double(std::fabs(a[i]) < HUGE_VAL); });
    case WHERE: return each(count, t, [&](std::int64_t i) { return a[i] != 0 ? b[i] : c[i]; });
    case SINGLE: return each(count, t, [&](std::int64_t i) { return double(float(a[i])); });
    case FLOOR: return each(count, t, [&](std::int64_t i) { return std::floor(a[i]); });
    case REMAINDER: return each(count, t, [&](std::int64_t i) { return remainder(a[i], b[i]); });
    case SIN: return each(count, t, [&](std::int64_t i) { return std::sin(a[i]); });
    case COS: return each(count, t, [&](std::int64_t i) { return std::cos(a[i]); });
    case TANH: return each(count, t, [&](std::int64_t i) { return std::tanh(a[i]); });
    case LOG1P: return each(count, t, [&](std::int64_t i) { return std::log1p(a[i]); });
    case EXPM1: return each(count, t, [&](std::int64_t i) { return std::expm1(a[i]); });
    default: return;
    }
}

} // namespace

// instructions: (steps, 7); constants: what the first registers hold; scope_of: (units,), or null where units are scopes
// of their own; given, returned: columns, two numbers of 8 bytes each. Tapes without sums go through blocks of units.
EXPORT int proxmom_play(std::int64_t steps, const Instruction *instructions, std::int64_t numbers,
                        const double *constants, std::int64_t registers, std::int64_t units, std::int64_t scopes,
                        const std::int64_t *scope_of, const Column *given, const Column *returned) {
    return guarded([&]() -> int {
        constexpr std::int64_t BLOCK = 128;
        for (std::int64_t u = 0; scope_of && u < units; ++u)
            if (scope_of[u] < 0 || scope_of[u] >= scopes) return BAD_INDEX;
        for (std::int64_t k = 0; k < steps; ++k)
            if (instructions[k].name < 0 || instructions[k].name >= OPERATIONS) return BAD_TYPE;
        const std::int64_t most = units > scopes ? units : scopes;
        const std::int64_t length = scope_of || most < BLOCK ? most : BLOCK;
        std::vector<double> memory(std::size_t(registers * length));
        const Player player{units, scopes, length, scope_of, given, returned, memory.data()};
        for (std::int64_t n = 0; n < numbers; ++n)
            for (std::int64_t i = 0; i < length; ++i) memory[std::size_t(n * length + i)] = constants[n];
        for (std::int64_t first = 0; first < most; first += length)
            for (std::int64_t k = 0; k < steps; ++k) {
                const std::int64_t end = instructions[k].scope ? scopes : units, left = end - first;
                player.play(instructions[k], first, left < length ? left : length);
            }
        return OK;
    });
}
