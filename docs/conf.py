"""Sphinx: the idea, the API, and the derivations, which run while the pages are built."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "theory"))

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
autodoc_typehints = "description"
autodoc_member_order = "bysource"
default_role = "code"
sphinx_gallery_conf = {
    "examples_dirs": [str(ROOT / "theory")],
    "gallery_dirs": ["gallery"],
    "filename_pattern": r"/\d\d\w?_",
    "ignore_pattern": r"(?:^|/)(?!\d\d)[^/]*\.py$",
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "show_signature": False,
    "abort_on_example_error": True,
}
