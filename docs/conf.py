"""Sphinx: the pages, the API reference from docstrings, and the tutorials as they were executed."""

import re

import pyrovae

project = "pyrovae"
author = "The pyrovae developers"
release = version = pyrovae.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "myst_nb",
    "sphinx-mathjax-offline",
]
exclude_patterns = ["README.md"]

# `make tutorials` has executed them; their outputs are shown as they came.
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signatures hold them
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = "pyrovae"
default_role = "code"


def as_plain_text(app, what, name, obj, options, lines):
    """Docstrings are plain text with names in backticks: what reStructuredText would read as markup is escaped."""
    for place, line in enumerate(lines):
        if line.lstrip().startswith((">>>", "...")):
            continue
        parts = line.split("`")
        parts[::2] = [re.sub(r"([*|]|(?<=\w)_(?!\w))", r"\\\1", part) for part in parts[::2]]
        # A name may be followed by letters, as in a plural.
        parts[2::2] = ["\\ " + part if part[:1].isalnum() else part for part in parts[2::2]]
        lines[place] = "`".join(parts)


def setup(app):
    """Before napoleon reads the sections."""
    app.connect("autodoc-process-docstring", as_plain_text, priority=100)
