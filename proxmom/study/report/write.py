"""Finished runs as a page that needs nothing but itself to be read, and as a table in the terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from textwrap import fill

from proxmom.study.record.store import write_atomically
from proxmom.study.report import counts_page, finals_page, finals_terminal, summary
from proxmom.study.report.sources import merge, merge_trained, read_source, trained, unfinished
from proxmom.study.report.terminal import WIDTH, memory_table, notes, text_table, variants_table


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
            table: another target or budget, another schedule of training, training studies beside others, or one
            name for two methods or problems.
    """
    sources = [read_source(directory) for directory in directories]
    if trained(sources):
        page = finals_page.render(sources, merge_trained(sources, reference), reference or sources[0].reference)
    else:
        page = counts_page.render(sources, merge(sources, reference), reference or sources[0].reference)
    file = _out(directories, out)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, page)
    return file


def terminal_table(directories: Sequence[str | Path], reference: str | None = None) -> str:
    """The results as text, at most 100 columns wide where names allow it; bold only on a terminal.

    reference: the method that ratios are to; default: the first study's.

    Raises ValueError as `write_report` does.
    """
    sources = [read_source(directory) for directory in directories]
    bold = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    texts = [text for source in sources for text in unfinished(source)]
    missing = [line for text in ["", *texts] for line in fill(text, WIDTH).splitlines() or [""]] if texts else []
    if trained(sources):
        results_of_training = merge_trained(sources, reference)
        told = finals_terminal.lines(results_of_training, reference or sources[0].reference, bold)
        return "\n".join([*told, *missing])
    results, reference = merge(sources, reference), reference or sources[0].reference
    main = [*text_table(results, reference, bold), "", *notes(results, reference, sources[0].target)]
    more = [["", *lines] for lines in (variants_table(results), memory_table(summary.memory(results))) if lines]
    return "\n".join([*main, *chain.from_iterable(more), *missing])


def _out(directories: Sequence[str | Path], out: str | Path | None) -> Path:
    if out is None:
        return (Path(directories[0]) if len(directories) == 1 else Path()) / "report.html"
    return Path(out) / "report.html" if Path(out).is_dir() else Path(out)
