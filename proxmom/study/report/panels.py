"""What every picture of a report shares: panels, axes, a style for each method, and SVG that a page can hold.

Text and axes take the page's text colour, and every method has one colour variable, dash and marker in all
pictures, so light and dark are the page's business. The variables are those of `palette_css`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from io import StringIO
from typing import Any
from urllib.parse import quote

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator

from proxmom.study.report.statistics import Array

INK = "#010203"  # stands for currentColor until the SVG is written
# Found by search: largest smallest distance of two colours, over normal and three kinds of impaired vision, among
# colours of enough contrast to the page.
_LIGHT = (
    *("#0c60f0", "#f05400", "#3ca884", "#6c3ca8", "#90480c", "#a884f0", "#186c6c"),
    *("#6c2400", "#004854", "#3c0078", "#9c60b4"),  # in such an order that like colours have unlike dashes
)
_DARK = (
    *("#60b4f0", "#e44824", "#9cfc84", "#9060f0", "#f09c30", "#f0e4fc", "#3aa898"),
    *("#a8cce4", "#48846c", "#9c48a8", "#d8c09c"),
)
_DASHES: tuple[object, ...] = ("-", (0, (5, 1.6)), (0, (6, 1.6, 1.4, 1.6)), (0, (1.6, 1.3)))
_MARKERS = "osD^vPX<>"
_PLAIN = 7  # so many lines can be told apart by colour and dash at a glance; those of further methods bear markers
_WIDE = 8  # inches: a wider figure takes the page's width
_RC: dict[Any, Any] = {"svg.fonttype": "none", "axes.linewidth": 0.7, "font.size": 8.5}


@dataclass(frozen=True)
class Style:
    """How one method looks in every picture."""

    index: int
    name: str

    @property
    def line(self) -> dict[str, Any]:
        """Keywords of `Axes.plot` for a line."""
        return {"color": _LIGHT[self.index % len(_LIGHT)], "linestyle": _DASHES[self.index % len(_DASHES)]}

    @property
    def marker(self) -> str:
        """The marker where single runs are shown."""
        return _MARKERS[self.index % len(_MARKERS)]

    @property
    def spots(self) -> dict[str, Any]:
        """Keywords of `Axes.plot` for the markers on a line; none for the first methods."""
        if self.index < _PLAIN:
            return {}
        places = (0.04 + 0.03 * (self.index % 5), 0.17)  # parts of the panel's diagonal
        return {"marker": self.marker, "markersize": 4, "markeredgewidth": 0, "markevery": places}


@dataclass(frozen=True)
class Picture:
    """An inline SVG with the heading it stands under; safe to put into a page as it is.

    alone: the same with a legend and colours of its own, for a file of this name. wide: whether it takes the
    page's width.
    """

    heading: str
    svg: str
    figure: Figure
    alone: str
    file: str
    wide: bool = False

    @property
    def link(self) -> str:
        """`alone` as an address that needs no network."""
        return "data:image/svg+xml," + quote(self.alone, safe=" \n/:;=,.()-_+*!?@'").replace("//", "%2F%2F").replace(
            "url(", "url%28"
        )


def palette_css(dark: bool) -> str:
    """The colour variables of the methods as CSS declarations."""
    return " ".join(f"--m{i}: {colour};" for i, colour in enumerate(_DARK if dark else _LIGHT))


def _sample(style: Style) -> Figure:
    figure = Figure(figsize=(0.5, 0.17))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0), xlim=(0, 1), ylim=(-1, 1))
    axes.set_axis_off()
    axes.plot([0.05, 0.95], [0, 0], linewidth=1.6, **style.line)
    axes.plot([0.5], [0], linestyle="", color=style.line["color"], marker=style.marker, markersize=4)
    return figure


def swatch(style: Style) -> str:
    """A small sample of a method's line and marker."""
    label = f"sample of the line of {style.name}"
    return _inline(*_sampled(style), label)


def panel(xlabel: str, ylabel: str, wide: bool = False) -> tuple[Figure, Axes]:
    """An empty figure with one pair of axes; wide: for the page's width, with room for names at the right."""
    figure = Figure(figsize=(11.4, 3.9) if wide else (3.7, 2.8))
    with mpl.rc_context(_RC):
        axes = figure.add_axes((0.05, 0.112, 0.70, 0.868) if wide else (0.155, 0.155, 0.825, 0.82))
    axes.set_xlabel(xlabel, color=INK)
    axes.set_ylabel(ylabel, color=INK)
    axes.tick_params(which="both", colors=INK, labelsize=8)
    axes.grid(True, which="major", color=INK, alpha=0.13, linewidth=0.6)
    axes.patch.set_visible(False)
    for side, spine in axes.spines.items():
        spine.set(color=INK, visible=side in ("left", "bottom"))
    return figure, axes


def plot_line(axes: Axes, style: Style, x: Array, y: Array, **keywords: Any) -> Line2D:
    """A method's line, which shows the method's name when pointed at."""
    look = {"linewidth": 1.5, **style.line, **(keywords if "marker" in keywords else {**style.spots, **keywords})}
    if not look["linewidth"]:
        look["linestyle"] = "none"  # Matplotlib before 3.11 refuses dashes of length 0
    (line,) = axes.plot(x, y, **look, gid=f"method{style.index}")
    return line


def plot_band(axes: Axes, style: Style, x: Array, low: Array, high: Array) -> None:
    """A method's interval around its line."""
    axes.fill_between(x, low, high, color=style.line["color"], alpha=0.16, linewidth=0, gid=f"method{style.index}")


def name_ends(axes: Axes, ends: Sequence[tuple[Style, float]]) -> None:
    """The names of lines at the right of the axes, each as near to the height where its line ends as others allow."""
    right, place_of = axes.get_xlim()[1], axes.transAxes.inverted().transform
    heights = [float(place_of(axes.transData.transform((right, end)))[1]) for _, end in ends]
    order = sorted(range(len(ends)), key=lambda i: (-heights[i], i))
    places = _apart([heights[i] for i in order], min(0.056, 1.04 / max(1, len(order))))
    for i, place in zip(order, places, strict=True):
        look: dict[str, Any] = {"color": ends[i][0].line["color"], "transform": axes.transAxes}
        axes.add_artist(Line2D([1.003, 1.018], [heights[i], place], linewidth=0.7, clip_on=False, **look))
        axes.text(1.022, place, ends[i][0].name, va="center", fontsize=8, parse_math=False, **look)


def _apart(heights: Sequence[float], gap: float) -> list[float]:
    """Descending heights, moved as little as keeps neighbours `gap` apart and the lowest above the foot."""
    places: list[float] = []
    for height in heights:
        places.append(min(height, places[-1] - gap) if places else height)
    foot = -0.02
    for i in range(len(places) - 1, -1, -1):
        places[i] = max(places[i], foot)
        foot = places[i] + gap
    return places


def level(axes: Axes, height: float) -> None:
    """A thin level line."""
    axes.axhline(height, color=INK, linewidth=0.7, alpha=0.6)


def span(axes: Axes, side: str, low: float, high: float) -> bool:
    """Ends and round ticks of an axis, which is made logarithmic, and True returned, if they are far apart."""
    if 0 < low < high / 8:
        axes.set(**{f"{side}scale": "log"})
        log_span(axes, side, low, high)
        return True
    axes.set(**{f"{side}lim": (low, high)})
    values = MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(low, high)
    ticks(axes, side, [value for value in values if low <= value <= high])
    return False


def log_span(axes: Axes, side: str, low: float, high: float) -> None:
    """Ends and round ticks of a log axis."""
    axes.set(**{f"{side}lim": (low, high)})
    ticks(axes, side, round_values(low, high))


def round_values(low: float, high: float) -> list[float]:
    """Powers of ten from low to high, not more than about ten; with 2 and 5 between them if that is a short way."""
    first, last = int(np.floor(np.log10(low))), int(np.floor(np.log10(high)))
    powers = range(first, last + 1, 1 + (last - first) // 10)
    values = [step * 10.0**power for power in powers for step in ((1, 2, 5) if high < 60 * low else (1,))]
    return [value for value in values if low <= value <= high]


def ticks(axes: Axes, side: str, values: Sequence[float], last: str = "") -> None:
    """Ticks with plain labels: parsing the usual powers as formulas is half the time of a picture."""
    labels = [
        f"{v:g}" if v == 0 or 0.001 <= abs(v) < 10_000 else f"{v:.0e}".replace("e-0", "e-").replace("e+0", "e")
        for v in values
    ]
    axis = axes.xaxis if side == "x" else axes.yaxis
    axis.set_ticks(list(values), [*labels[:-1], last or labels[-1]] if labels else [])
    axis.set_minor_locator(NullLocator())


def picture(figure: Figure, ident: str, heading: str, what: str, styles: Sequence[Style]) -> Picture:
    """The figure as a picture under a heading; ident: what its ids begin with, unique on a page."""
    box, inner = _drawn(figure, ident, styles)
    shown = [style for style in styles if f"<title>{escape(style.name)}</title>" in inner]
    label = f"{heading}: {what}"
    alone, wide = _alone(box, inner, label, shown), figure.get_size_inches()[0] > _WIDE
    return Picture(heading, _inline(box, inner, label), figure, alone, f"{ident}.svg", bool(wide))


def _drawn(figure: Figure, ident: str, styles: Sequence[Style]) -> tuple[str, str]:
    """The view box of the figure as SVG, and what is in it: nothing from outside, ids that start with `ident`."""
    figure.patch.set_visible(False)
    text = StringIO()
    with mpl.rc_context({**_RC, "svg.hashsalt": ident}):
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = text.getvalue()
    box = re.search(r'viewBox="([^"]+)"', svg)
    inner = svg[svg.index(">", svg.index("<svg")) + 1 :]
    inner = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", inner, flags=re.DOTALL)
    inner = re.sub(r'<g id="method(\d+)">', lambda m: _named_group(styles[int(m[1])].name), inner)
    inner = re.sub(r' id="[a-zA-Z0-9.]+_\d+"', "", inner)
    inner = re.sub(r'( id="|xlink:href="#|url\(#)', rf"\g<1>{ident}-", inner).replace("xlink:href", "href")
    inner = re.sub(r' (d|x|y)="[^"]*"', lambda m: re.sub(r"(\.\d\d)\d+", r"\1", m[0]), inner)
    return box[1] if box else "", re.sub(r"\s*\n\s*", "\n", inner)


def _inline(box: str, inner: str, label: str) -> str:
    """SVG for a page, colours as its variables."""
    for index, colour in enumerate(_LIGHT):
        inner = inner.replace(colour, f"var(--m{index})")
    title = escape(label)
    inner = inner.replace(INK, "currentColor")
    return f'<svg viewBox="{box}" role="img" aria-label="{title}"><title>{title}</title>{inner}'


def _alone(box: str, inner: str, label: str, styles: Sequence[Style]) -> str:
    """SVG for a file: light, with a legend below."""
    width, height = (float(length) for length in box.split()[2:])
    rows = [_legend_row(style, height + 6 + 14 * row) for row, style in enumerate(styles)]
    whole = height + 14 * len(styles) + 10
    drawn = inner.replace(INK, "#1c1f23").rstrip().removesuffix("</svg>")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}pt" height="{whole:g}pt" '
        f'viewBox="0 0 {width:g} {whole:g}" font-family="sans-serif" stroke-linejoin="round">'
        f"<title>{escape(label)}</title>"
        f'<rect width="100%" height="100%" fill="#ffffff"/>'
        f"{drawn}{''.join(rows)}</svg>"
    )


def _legend_row(style: Style, top: float) -> str:
    box, inner = _sampled(style)
    return (
        f'<svg x="8" y="{top:g}" width="36" height="12.2" viewBox="{box}">{inner}'
        f'<text x="50" y="{top + 9:g}" font-size="9" fill="#1c1f23">{escape(style.name)}</text>'
    )


@lru_cache
def _sampled(style: Style) -> tuple[str, str]:
    return _drawn(_sample(style), f"swatch{style.index}", [])


def _named_group(name: str) -> str:
    return f'<g class="method"><title>{escape(name)}</title>'
