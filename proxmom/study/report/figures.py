"""The pictures of a report as figures of Matplotlib: for a notebook, or for a paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.lines import Line2D

from proxmom.notebook import shown
from proxmom.study.report import pictures
from proxmom.study.report.panels import Picture, Style
from proxmom.study.report.results import Counts, Losses, Results
from proxmom.study.report.sources import merge, read_source

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Drawn = Callable[[Results, Sequence[Style]], list[Picture]]


def kinds_of(results: Results) -> dict[str, Drawn]:
    """What can be drawn of these results, the most telling first; each a picture for every problem, or one for all."""
    own: dict[str, Drawn]
    if isinstance(results, Losses):
        own = {name: lambda r, styles, name=name: pictures.losses(r, styles, name) for name in ("validation", "train")}  # type: ignore[misc]
    else:
        assert isinstance(results, Counts)
        own = {"convergence": pictures.convergence}  # type: ignore[dict-item]
    return own | {
        "lr": pictures.lr_sensitivity,
        "momentum": pictures.momentum,
        "profile": lambda r, styles: [pictures.profile(r, styles)],
    }


def figure(directory: str | Path, kind: str | None = None, problem: str | None = None) -> Figure:
    """One picture of the runs of a results directory, with a legend.

    Args:
        directory: what `run_study` returned.
        kind: "convergence" of studies that count evaluations, "validation" or "train" of those that train; "lr",
            "momentum" or "profile" of both. Default: the first of these that the study has.
        problem: its name; default: the first. A profile is of all problems.

    Raises:
        ValueError: for a kind or problem that is not there, or if there is nothing to draw.
    """
    results = merge([read_source(directory)], None).without_variants()
    kinds = kinds_of(results)
    kind = next(iter(kinds)) if kind is None else kind
    if kind not in kinds:
        raise ValueError(f"kind must be one of {', '.join(map(repr, kinds))}, got {kind!r}.")
    if problem is not None and problem not in results.problems:
        raise ValueError(f"problem must be one of {', '.join(map(repr, results.problems))}, got {problem!r}.")
    styles = [Style(index, method) for index, method in enumerate(results.methods)]
    found = [each for each in kinds[kind](results, styles) if kind == "profile" or problem in (None, each.heading)]
    if not found:
        raise ValueError(f"kind {kind!r} has nothing to show of {problem or directory}: take another one.")
    return finished(found[0], styles)


def finished(picture: Picture, styles: Sequence[Style]) -> Figure:
    """The panel with its heading, a legend of what it shows, and a ground."""
    axes = picture.figure.axes[0]
    names = {artist.get_gid() for artist in axes.get_children()}
    marked = [style for style in styles if f"method{style.index}" in names]
    handles = [Line2D([], [], **(style.line | style.spots), label=style.name) for style in marked]
    axes.legend(handles=handles, fontsize=7, frameon=False)
    picture.figure.set_size_inches(6.4, 4.8)
    axes.set_position((0.12, 0.12, 0.85, 0.79))
    axes.set_title(picture.heading, fontsize=10)
    picture.figure.patch.set_visible(True)
    picture.figure.patch.set_facecolor("white")
    return shown(picture.figure)  # type: ignore[no-any-return]
