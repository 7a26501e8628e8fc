"""Settings of Sphinx for the documentation site.

    pip install -e '.[docs]' && sphinx-build -W --keep-going docs build/site

builds it without a network. Pages are Markdown (MyST), so that they can also be read where the
repository is. The theme is Furo: it brings its own fonts and scripts, and is readable on a phone.
"""

from pathlib import Path

from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

import mtseg

ROOT = Path(__file__).parents[1]

project = "mtseg"
author = "The mtseg authors"
copyright = author
version = release = mtseg.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_argparse_cli",
]
nitpicky = True

html_theme = "furo"
html_title = f"mtseg {release}"
html_copy_source = False
html_show_sphinx = False

myst_heading_anchors = 3
highlight_language = "text"

# In docstrings, `name` is code; most names are those of modules that this site does not list.
default_role = "code"
# The docstrings say types, shapes and units; the annotations name private aliases.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_use_ivar = True
napoleon_attr_annotations = False
napoleon_use_rtype = False

PAGES_OF_FILES = {
    "README": "index",
    "CHANGELOG": "background/changelog",
    "mtseg/models/packaged/README": "reference/model-card",
}
"""Markdown files of the repository, without their ending -> the pages that show them."""


class LinkPages(SphinxTransform):
    """Turns links to Markdown files outside of `docs/` into links to pages of the site.

    Links to other files of the repository need nothing: copies of these files are put beside the
    pages.
    """

    default_priority = 5

    def apply(self, **_: object) -> None:
        """Changes the links of one page."""
        for link in self.document.findall(pending_xref):
            file = Path(link["reftarget"])
            if link["refdomain"] == "doc" and file.is_relative_to(ROOT):
                page = PAGES_OF_FILES.get(str(file.relative_to(ROOT)))
                link["reftarget"] = page or link["reftarget"]


def setup(app: Sphinx) -> None:
    """Registers what is defined here."""
    app.add_transform(LinkPages)
