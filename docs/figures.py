"""Pictures of the executed pages: a Figure as the last line of a cell, which pyplot knows nothing of."""

from typing import Any

from matplotlib.figure import Figure
from sphinx_gallery.scrapers import figure_rst


def shown(block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """The picture of such a Figure as reStructuredText; nothing where a cell ends with something else."""
    last = block_vars["example_globals"].get("___")
    if not isinstance(last, Figure) or hasattr(last, "in_gallery"):  # the latter is of an earlier cell
        return ""
    last.in_gallery = True  # type: ignore[attr-defined]
    path = next(block_vars["image_path_iterator"])
    last.savefig(path, dpi=150, facecolor="white")
    return str(figure_rst([path], gallery_conf["src_dir"]))
