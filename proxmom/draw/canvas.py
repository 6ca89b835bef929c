"""What both pictures share: matplotlib when it is needed, colours, names of rules, and the file."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import is_dataclass
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from proxmom.metrics import Metric
from proxmom.notebook import import_matplotlib, shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Look = dict[str, Any]  # keywords of a drawing function

SUFFIXES = (".png", ".svg", ".pdf", ".pgf")
DPI = 200
TEX = ("xelatex", "lualatex", "pdflatex")  # what measures the text of a .pgf, the first that is there
INK, FAINT = "#1a1a1a", "#8a8a8a"
BLUE, VERMILLION, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#a34d86"  # after Okabe and Ito
YELLOW, SAND = "#f0c808", "#f4d777"
RULES = (BLUE, VERMILLION, GREEN, PURPLE, "#6b4c1e", "#56b4e9", INK)
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.3)), (0, (6, 1.5, 1.5, 1.5)))
MARKERS = "osD^vPX<>"

_STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.labelsize": 11,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "svg.hashsalt": "proxmom",  # the same picture gives the same file
    "svg.fonttype": "none",  # text stays text, here and in a PDF
    "pdf.fonttype": 42,
}


def style() -> Any:
    """A context in which axes look like ours.

    Raises:
        ModuleNotFoundError: without matplotlib.
    """
    try:
        matplotlib = import_matplotlib()
    except ModuleNotFoundError as error:
        message = "Drawing needs matplotlib, which is not installed. Get the study extra: pip install 'proxmom[study]'."
        raise ModuleNotFoundError(message, name="matplotlib") from error
    return matplotlib.rc_context(_STYLE)


def blank(width: float, height: float, gap: float = 0.02) -> Figure:
    """An empty figure, inches, whose parts keep clear of each other; gap is a part of their mean width."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.09, h_pad=0.09, wspace=gap)
    return shown(Figure(figsize=(width, height), layout=layout))  # type: ignore[no-any-return]


def check_out(out: str | Path | None, dpi: float = DPI, suffixes: Iterable[str] = SUFFIXES) -> None:
    """Whether this is a kind of picture we can write here, and a resolution; ValueError otherwise. None: no file."""
    suffix = "" if out is None else Path(out).suffix.lower()
    if out is not None and suffix not in (known := tuple(suffixes)):
        raise ValueError(f"out must end in {', '.join(known[:-1])} or {known[-1]}, got {Path(out).name!r}.")
    if not 10 <= dpi <= 2400:
        raise ValueError(f"dpi must be from 10 to 2400, got {dpi}: 200 suits a screen, 600 a journal.")
    if suffix == ".pgf" and not _tex():
        raise ValueError(f"out: a .pgf takes LaTeX, and none of {', '.join(TEX)} is here. Install it, or take .pdf.")


def save(figure: Figure, out: str | Path | None, dpi: float = DPI) -> Figure:
    """Write the picture, unless `out` is None, and the folder it goes to where that is missing."""
    if out is None:
        return figure
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    with style(), _measuring(out):
        figure.savefig(out, dpi=dpi, facecolor="white", metadata=undated.get(out.suffix.lower()))
    return figure


def line_of(number: int) -> Look:
    """The colour and dash of the rule of this number among several: 28 of them differ."""
    return {"color": RULES[number % len(RULES)], "linestyle": DASHES[number % len(DASHES)]}


def _tex() -> str:
    return next(filter(shutil.which, TEX), "")


def _measuring(out: Path) -> Any:
    import matplotlib

    return matplotlib.rc_context({"pgf.texsystem": _tex()} if out.suffix.lower() == ".pgf" else {})


def name_of(rule: object) -> str:
    """A rule or metric as one would write it; only its class where it has no such form."""
    text = repr(rule) if is_dataclass(rule) else type(rule).__name__
    return fill(text.replace("$", r"\$"), 90)


def settings(
    lr: float, metric: Metric | None, inertia: float, weight_decay: float = 0.0, *, default_lr: bool = False
) -> str:
    """The settings that are not at rest, for a title."""
    words = [f"lr = {lr:g}" + (" (default)" if default_lr else "")]
    words += [] if metric is None else [name_of(metric)]
    words += [f"inertia = {inertia:g}"] if inertia else []
    words += [f"weight decay = {weight_decay:g}, proximal"] if weight_decay else []
    return ", ".join(words)
