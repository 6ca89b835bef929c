"""Figures as people write them."""

from __future__ import annotations

from collections.abc import Sequence

from proxmom.bench.ratios import ratio


def ms(seconds: float) -> str:
    """Milliseconds, three digits: steps of small sets take little."""
    return f"{1e3 * seconds:.0f}" if seconds >= 0.1 else f"{1e3 * seconds:#.3g}"


def number(value: float) -> str:
    """As people write ratios: two decimals, fewer for large numbers."""
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def amount(value: int) -> str:
    """With a letter for thousands, millions or billions."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return str(value)


def beside(times: Sequence[float], peer: Sequence[float]) -> str:
    """A ratio of medians with its interval; see `ratio`."""
    found = ratio(times, peer)
    ends = f" [{number(found.low)}, {number(found.high)}]" if found.low <= found.high else ""
    return number(found.value) + ends
