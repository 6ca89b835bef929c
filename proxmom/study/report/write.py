"""Finished runs as a page that needs nothing but itself to be read, and as a table in the terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

from proxmom.study.record.store import write_atomically
from proxmom.study.report.page import render
from proxmom.study.report.sources import Source, merge, read_source, unfinished
from proxmom.study.report.terminal import WIDTH, tables
from proxmom.study.report.verdict_text import verdict_lines
from proxmom.study.report.verdicts import verdicts


def write_report(
    directories: Sequence[str | Path], out: str | Path | None = None, reference: str | None = None
) -> Path:
    """Write one page about all runs of the given results directories.

    Args:
        directories: what `run_study` returned; at least one.
        reference: the method that ratios are to; default: the first study's.
        out: a file, or a folder for report.html; default: the directory if there is one, else here.

    Returns:
        The path of the page.

    Raises:
        ValueError: if a directory has no study or no finished run, or if the directories cannot stand in one
            table: another target or budget, another schedule or number of search seeds, training studies beside
            others, or one name for two methods or problems.
    """
    sources = [read_source(directory) for directory in directories]
    page = render(sources, merge(sources, reference), reference or sources[0].reference)
    file = _out(directories, out)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, page)
    return file


def terminal_table(directories: Sequence[str | Path], reference: str | None = None) -> str:
    """The verdicts and results as text, at most 100 columns wide where names allow it; bold only on a terminal.

    reference: the method that ratios are to; default: the first study's.

    Raises ValueError as `write_report` does.
    """
    sources = [read_source(directory) for directory in directories]
    results = merge(sources, reference)
    bold = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    verdict = [line for source in sources for line in _verdict(source, bold)]
    lacking = [fill(text, WIDTH) for source in sources for text in unfinished(source)]
    shown = tables(results, reference or sources[0].reference, bold)
    return "\n".join([*verdict, *shown, *([""] if lacking else []), *lacking])


def _verdict(source: Source, bold: bool) -> list[str]:
    """Lines of what becomes of a study's claim, and an empty one; none where its file decides nothing."""
    lines = verdict_lines(verdicts(source), WIDTH, bold)
    return [*lines, ""] if lines else []


def _out(directories: Sequence[str | Path], out: str | Path | None) -> Path:
    if out is None:
        return (Path(directories[0]) if len(directories) == 1 else Path()) / "report.html"
    return Path(out) / "report.html" if Path(out).is_dir() else Path(out)
