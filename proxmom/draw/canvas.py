"""What both pictures share: matplotlib when it is needed, colours, names of rules, and the file."""

from __future__ import annotations

from dataclasses import is_dataclass
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from proxmom.metrics import Metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Look = dict[str, Any]  # keywords of a drawing function

SUFFIXES = (".png", ".svg")
INK, FAINT = "#1a1a1a", "#8a8a8a"
BLUE, VERMILLION, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#a34d86"  # after Okabe and Ito
YELLOW, SAND = "#f0c808", "#f4d777"

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
}


def style() -> Any:
    """A context in which axes look like ours.

    Raises:
        ModuleNotFoundError: without matplotlib.
    """
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        message = "Drawing needs matplotlib, which is not installed. Get the study extra: pip install 'proxmom[study]'."
        raise ModuleNotFoundError(message, name="matplotlib") from error
    return matplotlib.rc_context(_STYLE)


def blank(width: float, height: float, gap: float = 0.02) -> Figure:
    """An empty figure, inches, whose parts keep clear of each other; gap is a part of their mean width."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.09, h_pad=0.09, wspace=gap))


def checked_path(out: Path) -> Path:
    """`out`, if it names a kind of picture we can write; ValueError otherwise."""
    out = Path(out)
    if out.suffix.lower() not in SUFFIXES:
        raise ValueError(f"out must end in {' or '.join(SUFFIXES)}, got {out.name!r}.")
    return out


def save(figure: Figure, out: Path) -> Path:
    """Write the picture, and the folder it goes to where that is missing."""
    out.parent.mkdir(parents=True, exist_ok=True)
    svg = out.suffix.lower() == ".svg"
    with style():
        figure.savefig(out, dpi=200, facecolor="white", metadata={"Date": None} if svg else None)
    return out


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
