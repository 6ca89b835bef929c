"""What a notebook shows of our objects and while they work, and pictures where a notebook's settings were inherited."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from functools import partial
from html import escape
from io import BytesIO
from typing import Any


class Text(str):
    """A text that shows as it reads, and not in quotes, as the last line of a cell."""

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return html_of(str(self))


def html_of(text: str) -> str:
    """The text as a block of HTML, in columns as it is."""
    return f"<pre>{escape(text)}</pre>"


def shown(figure: Any) -> Any:
    """The matplotlib Figure, which a notebook now shows without pyplot and without a magic command."""
    figure._repr_png_ = partial(_png, figure)
    return figure


def cell_output() -> Callable[[str], None] | None:
    """A place below the running cell of a notebook, for a text that every call replaces; None outside of notebooks.

    IPython is asked only where it is running already, and needs no widgets for this.
    """
    running = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if not hasattr(running, "kernel"):  # IPython in a terminal has none
        return None
    display = importlib.import_module("IPython.display")
    handle = display.display(display.HTML(html_of("")), display_id=True)
    return lambda text: handle.update(display.HTML(html_of(text)))


def import_matplotlib() -> Any:
    """The module matplotlib, whatever MPLBACKEND says.

    A command that a notebook starts inherits the notebook's backend. In an environment without that one Matplotlib
    refuses to be imported, although nothing here takes a window. ModuleNotFoundError without matplotlib.
    """
    try:
        return importlib.import_module("matplotlib")
    except ValueError:
        if "MPLBACKEND" not in os.environ:
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        del sys.modules[name]  # half of it is there
    asked = os.environ.pop("MPLBACKEND")
    try:
        return importlib.import_module("matplotlib")
    finally:
        os.environ["MPLBACKEND"] = asked


def _png(figure: Any) -> bytes:
    stream = BytesIO()
    figure.savefig(stream, format="png", dpi=100, facecolor="white")
    return stream.getvalue()
