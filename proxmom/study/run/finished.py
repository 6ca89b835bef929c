"""What `run_study` returns: the folder of the results, which knows what is in it."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxmom.notebook import Text, html_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    _Path = Path
else:
    _Path = type(Path())  # what Path is on this system; before Python 3.12 only that has subclasses


class StudyFolder(_Path):
    """The folder of a study's results, a path, with its table, its runs and its pictures.

    Nothing is kept in memory: every call reads the folder as it is.
    """

    def __truediv__(self, name: str | os.PathLike[str]) -> Path:  # type: ignore[override]
        return Path(self).joinpath(name)

    @property
    def table(self) -> Text:
        """The verdicts on the study's claim and the results as text, as `proxmom report` prints them.

        Raises ValueError if no run is finished.
        """
        from proxmom.study.report.write import terminal_table

        return Text(terminal_table([self]))

    @property
    def runs(self) -> Any:
        """A row for each finished run: a pandas DataFrame where pandas is installed, else a list of dicts.

        Raises ValueError as `table` does.
        """
        from proxmom.study.report.export import table

        return _frame(table([self]))

    @property
    def curves(self) -> Any:
        """A row for each record of each run, as `runs`.

        Raises ValueError as `table` does, and if nothing was recorded.
        """
        from proxmom.study.report.export import curves

        return _frame(curves([self]))

    def figure(self, kind: str | None = None, problem: str | None = None) -> Figure:
        """One picture of the report as a matplotlib Figure with a legend.

        Args:
            kind: "convergence" of studies that count evaluations, "validation" or "train" of those that train; "lr",
                "momentum" or "profile" of both. Default: the first of these that the study has.
            problem: its name; default: the first. A profile is of all problems.

        Raises:
            ValueError: for a kind or problem that is not there, or if there is nothing to draw.
        """
        from proxmom.study.report.figures import figure

        return figure(self, kind, problem)

    def report(self, out: str | Path | None = None) -> Path:
        """Write the page about the runs, and return its path; out: a file or folder, default: report.html here."""
        from proxmom.study.report.write import write_report

        return write_report([self], out)

    def _repr_html_(self) -> str:
        try:
            return html_of(f"{self}\n\n{self.table}")
        except (ValueError, OSError) as error:
            return html_of(f"{self}\n\n{error}")


def _frame(rows: list[dict[str, Any]]) -> Any:
    try:
        pandas = importlib.import_module("pandas")
    except ImportError:
        return rows
    return pandas.DataFrame(rows)
