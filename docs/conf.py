"""Sphinx: the idea, how-to pages, the API, and the derivations, which run while the pages are built."""

import re
import sys
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.errors import ExtensionError

from proxmom.cli import main

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "theory"), str(ROOT / "docs")]

project = "proxmom"
author = "the proxmom developers"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",  # formulas without a request to anywhere
    "sphinx_gallery.gen_gallery",
]
myst_enable_extensions = ["dollarmath"]
exclude_patterns = ["_build", "benchmarks/*", "conformance/*"]  # pieces of pages
html_theme = "furo"
html_title = "proxmom"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_show_copyright = False
autodoc_typehints = "description"
autodoc_member_order = "bysource"
default_role = "code"
sphinx_gallery_conf = {
    "examples_dirs": [str(ROOT / "theory"), str(ROOT / "docs" / "tutorials" / "notebook")],
    "gallery_dirs": ["gallery", "tutorials/executed"],
    "image_scrapers": ("matplotlib", "figures.shown"),
    "ignore_repr_types": r"matplotlib",
    "filename_pattern": r"/\d\d\w?_",
    "ignore_pattern": r"(?:^|/)(?!\d\d)[^/]*\.py$",
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,  # its page asks three servers for scripts
    "abort_on_example_error": True,
}


class Command(Directive):
    """What `proxmom COMMAND --help` says, or `proxmom --help` without an argument, under a heading."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        words = [*self.arguments, "--help"]
        text = CliRunner().invoke(main, words, prog_name="proxmom", terminal_width=78).output
        block = nodes.literal_block(text, text, language="text")
        if not self.arguments:
            return [block]
        section = nodes.section(ids=[f"proxmom-{self.arguments[0]}"], names=[f"proxmom {self.arguments[0]}"])
        section += [nodes.title(text=f"proxmom {self.arguments[0]}"), block]
        return [section]


def itemise(app: Any, kind: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """A paragraph of lines like "name, other: what they are", with what is further in below, becomes a list."""
    item, blank = False, True
    for number, line in enumerate(lines):
        head = re.match(r"([a-z_]\w*(?:\([\w, ]*\))?(?:, [a-z_]\w*)*): ", line)
        if head and (item or blank):
            item, lines[number] = True, f"* **{head[1]}**: {line[head.end() :]}"
        elif item and line.startswith("    "):
            lines[number] = f"  {line.strip()}"
        else:
            item = False
        blank = not line.strip()


def plain(app: Any, kind: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text: `Plane`s and |x| shall not mean what reStructuredText makes of them."""
    for number, line in enumerate(lines):
        parts = re.split(r"(`[^`]*`)", line)  # what stands in backticks stays
        parts[::2] = [part.replace("|", r"\|") for part in parts[::2]]
        parts[2::2] = [rf"\ {part}" if re.match(r"\w", part) else part for part in parts[2::2]]
        lines[number] = "".join(parts)


def offline(app: Any, error: Exception | None) -> None:
    """Pages open without a network: one that asks another server for a script, a style or a picture is an error."""
    asks = re.compile(r"""<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=["']((?:https?:)?//[^"']+)""")
    for page in [] if error else sorted(Path(app.outdir).rglob("*.html")):  # an error before this one says more
        if found := asks.search(page.read_text(encoding="utf-8")):
            name = page.relative_to(app.outdir)
            raise ExtensionError(f"{name} asks for {found[1]}. Pages of an older build go with make clean.")


def setup(app: Any) -> None:
    app.connect("build-finished", offline)
    app.add_directive("command", Command)
    app.connect("autodoc-process-docstring", itemise, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", plain, priority=600)  # after it
