"""Numbers as people write them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from proxmom.study.report.compare import Comparison
from proxmom.study.report.results import Results
from proxmom.study.report.statistics import Interval


def number_text(value: float) -> str:
    """Two or three digits; "" for nan."""
    if np.isnan(value):
        return ""
    if value < 0.0995:
        return f"{value:.2g}"
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def count_text(count: float) -> str:
    """Evaluations as a whole number; "miss" for inf, "" for nan."""
    return "" if np.isnan(count) else "miss" if np.isinf(count) else f"{count:.0f}"


def loss_text(value: float) -> str:
    """Four digits, for losses are compared in the third, below 0.001 three: "1.234", "1.23e-4"; "" for nan."""
    if np.isnan(value):
        return ""
    return _power(f"{value:.2e}") if 0 < abs(value) < 1e-3 else f"{value:#.4g}".rstrip(".")


def value_text(results: Results, value: float) -> str:
    """What a run came to."""
    return count_text(value) if results.exact else loss_text(value)


def interval_text(interval: Interval, text: Callable[[float], str] = number_text) -> str:
    """The mean and its interval, as in "0.46 [0.31, 0.70]"; the mean alone where there is no spread."""
    bounds = f" [{text(interval.low)}, {text(interval.high)}]"
    return text(interval.mean) + (bounds if interval.low < interval.high else "")


def ratio_text(ratio: Interval, exact: bool = False) -> str:
    """A ratio and its interval; of losses, which are not exact and differ by little, three decimals below 10."""
    if exact:
        return interval_text(ratio)
    return interval_text(ratio, lambda value: f"{value:.3f}" if 0.1 <= value < 9.995 else number_text(value))


def difference_text(interval: Interval) -> str:
    """A difference with its sign and interval, two digits of the latter's width: "-0.0112 [-0.0203, -0.0021]"."""
    ends = [interval.mean, interval.low, interval.high] if interval.low < interval.high else [interval.mean]
    width = (interval.high - interval.low) / 2 if len(ends) > 1 else abs(interval.mean)
    if np.isnan(interval.mean) or width == 0:
        return "" if np.isnan(interval.mean) else "0"
    decimals = max(0, 1 - int(np.floor(np.log10(width))))
    texts = [f"{end:+.{decimals}f}" if decimals < 6 else _power(f"{end:+.1e}") for end in ends]
    return texts[0] + (f" [{texts[1]}, {texts[2]}]" if len(ends) > 1 else "")


def comparison_text(pair: Comparison) -> str:
    """A difference with its sign, or a ratio with a multiplication sign, and its interval."""
    if not pair.factor:
        return difference_text(pair.interval)
    return "" if np.isnan(pair.interval.mean) else f"×{ratio_text(pair.interval)}"


def _power(text: str) -> str:
    return text.replace("e-0", "e-")
