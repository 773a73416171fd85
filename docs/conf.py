"""Settings of the documentation. Examples are executed in a short form: fewer runs and draws, said on their page."""

import os
import sys
from pathlib import Path
from typing import Any
from weakref import WeakSet

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
os.environ.setdefault("UQMS_EXAMPLES_SHORT", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

from matplotlib.figure import Figure  # noqa: E402
from sphinx_gallery.scrapers import figure_rst  # noqa: E402

import uqms  # noqa: E402

project = "uqms"
author = "The uqms developers"
copyright = author
version = release = uqms.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",
    "sphinx.ext.viewcode",
    "numpydoc",
    "myst_parser",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "gallery/*.ipynb", "gallery/*.py.md5"]
templates_path = ["_templates"]

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_typehints = "none"  # types stand in the docstrings' parameter lists
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

shown: WeakSet[Figure] = WeakSet()


def figures_of_no_window(
    block: Any, block_vars: dict[str, Any], conf: dict[str, Any]
) -> str:
    """Show the figures that a block made with `uq.plots`, which pyplot does not know of."""
    values = [
        each
        for value in block_vars["example_globals"].values()
        for each in (value.values() if isinstance(value, dict) else (value,))
    ]
    paths = []
    for figure in values:
        if (
            isinstance(figure, Figure)
            and not hasattr(figure, "number")
            and figure not in shown
        ):
            shown.add(figure)
            paths.append(next(block_vars["image_path_iterator"]))
            figure.savefig(paths[-1])
    return str(figure_rst(paths, conf["src_dir"]))


sphinx_gallery_conf = {
    "image_scrapers": ("matplotlib", figures_of_no_window),
    "examples_dirs": str(HERE.parent / "examples"),
    "gallery_dirs": "gallery",
    # Every example is executed, and one that fails fails the build; but those that need a cluster.
    "filename_pattern": r"examples/[^/]*\.py$",
    "ignore_pattern": r"(^|/)_",
    "abort_on_example_error": False,
    "only_warn_on_example_error": False,
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "write_computation_times": False,
    "remove_config_comments": True,
    "within_subsection_order": "FileNameSortKey",
    # Progress bars are for terminals.
    "capture_repr": ("_repr_html_", "__repr__"),
}
suppress_warnings = ["config.cache"]  # sphinx-gallery's settings hold a callable

html_theme = "pydata_sphinx_theme"
html_title = "uqms"
html_static_path = ["_static"]
html_css_files = ["uqms.css"]
html_show_sourcelink = False
html_context = {
    "default_mode": "auto"
}  # of light and dark; without it the theme warns in the browser's console
html_theme_options = {
    "show_prev_next": True,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "navbar_align": "left",
    "show_toc_level": 2,
    "pygments_light_style": "tango",
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {
    "index": [],
    "getting_started": [],
    "glossary": [],
    "architecture": [],
    "changelog": [],
}


def setup(app: Any) -> None:
    """Draw formulas without a network: sphinx-mathjax-offline has copied MathJax into the pages.

    It takes the version with fonts, which Firefox refuses to load for pages that are opened as files. The SVG version
    has no fonts. A setting of this file would come too early, since the extension overwrites it.
    """
    app.config.mathjax_path = "mathjax/tex-svg.js"
