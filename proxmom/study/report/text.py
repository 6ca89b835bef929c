"""Numbers as people write them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from proxmom.study.report.compare import Comparison
from proxmom.study.report.results import Results
from proxmom.study.report.statistics import FEWEST, Interval

_FAR = 1000.0  # a bound of a ratio this many times off its mean says no more than that


def number_text(value: float) -> str:
    """Two or three digits, from a million on as a power of ten; "" for nan."""
    if np.isnan(value):
        return ""
    size = abs(value)
    if size < 0.0995 or size >= 999_999.5:
        return _power(f"{value + 0.0:.2g}")
    return f"{value:.0f}" if size >= 99.95 else f"{value:.1f}" if size >= 9.995 else f"{value:.2f}"


def count_text(count: float) -> str:
    """Evaluations as a whole number; "miss" for inf, "" for nan."""
    return "" if np.isnan(count) else "miss" if np.isinf(count) else f"{count:.0f}"


def loss_text(value: float) -> str:
    """Four digits, for losses are compared in the third, below 0.001 three: "1.234", "1.23e-4"; "" for nan."""
    if np.isnan(value):
        return ""
    return _power(f"{value:.2e}") if 0 < abs(value) < 1e-3 else f"{value + 0.0:#.4g}".rstrip(".")


def value_text(results: Results, value: float) -> str:
    """What a run came to."""
    return count_text(value) if results.exact else loss_text(value)


def interval_text(interval: Interval, text: Callable[[float], str] = number_text) -> str:
    """The mean and its interval, as in "0.46 [0.31, 0.70]"; the mean alone where there is no spread, or no interval."""
    bounds = f" [{text(interval.low)}, {text(interval.high)}]"
    return text(interval.mean) + (bounds if interval.low < interval.high else "")


def few_text(results: Results) -> str:
    """Why intervals are missing, where there are too few problems or seeds for them; "" elsewhere."""
    sizes = {"problems": len(results.problems), "seeds": len(results.seeds)}
    if results.exact:
        del sizes["seeds"]
    elif sizes["problems"] == 1:
        del sizes["problems"]
    few = [name for name, size in sizes.items() if size < FEWEST]
    return f"Means over fewer than {FEWEST} {' or '.join(few)} have no interval." if few else ""


def ratio_text(ratio: Interval, exact: bool = False) -> str:
    """A ratio and its interval; of losses, which are not exact and differ by little, three decimals below 10.

    A bound further from the mean than a factor of a thousand is not worth digits: "22.0 [<0.022, >22000]".
    """

    def text(value: float) -> str:
        return f"{value:.3f}" if not exact and 0.1 <= value < 9.995 else number_text(value)

    def bound(value: float) -> str:
        if value > _FAR * ratio.mean:
            return f">{text(_FAR * ratio.mean)}"
        return f"<{text(ratio.mean / _FAR)}" if value < ratio.mean / _FAR else text(value)

    ends = f" [{bound(ratio.low)}, {bound(ratio.high)}]"
    return text(ratio.mean) + (ends if ratio.low < ratio.high else "")


def difference_text(interval: Interval) -> str:
    """A difference with its sign and interval, two digits of the latter's width: "-0.0112 [-0.0203, -0.0021]".

    What rounds to zero has no sign.
    """
    ends = [interval.mean, interval.low, interval.high] if interval.low < interval.high else [interval.mean]
    width = (interval.high - interval.low) / 2 if len(ends) > 1 else abs(interval.mean)
    if np.isnan(interval.mean) or width == 0:
        return "" if np.isnan(interval.mean) else "0"
    decimals = max(0, 1 - int(np.floor(np.log10(width))))
    texts = [_signed(f"{end:+.{decimals}f}") if decimals < 6 else _power(_signed(f"{end:+.1e}")) for end in ends]
    return texts[0] + (f" [{texts[1]}, {texts[2]}]" if len(ends) > 1 else "")


def comparison_text(pair: Comparison) -> str:
    """A difference with its sign, or a ratio with a multiplication sign, and its interval."""
    if not pair.factor:
        return difference_text(pair.interval)
    return "" if np.isnan(pair.interval.mean) else f"×{ratio_text(pair.interval)}"


def _signed(text: str) -> str:
    """The number without its sign if it shows as zero."""
    return text if float(text) else text[1:]


def _power(text: str) -> str:
    """A power of ten without the plus and the zero that Python writes."""
    return text.replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
