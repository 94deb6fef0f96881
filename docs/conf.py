"""Sphinx: the pages, the API reference from docstrings, and the tutorials as they were executed."""

import importlib
import inspect
import re

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

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


class Parts(SphinxDirective):
    """`.. parts:: package`: each public name of a package, and what the first paragraph of its docstring says."""

    required_arguments = 1

    def run(self):
        package = importlib.import_module(self.arguments[0])
        self.env.note_dependency(package.__file__)
        lines = []
        for name in package.__all__:
            said = [" ".join(inspect.getdoc(getattr(package, name)).split("\n\n")[0].split())]
            as_plain_text(self.env.app, None, name, None, None, said)
            lines.append(f"- :obj:`~{package.__name__}.{name}`: {said[0]}")
        held = nodes.Element()
        self.state.nested_parse(StringList(lines, __file__), 0, held)
        return held.children


def setup(app):
    app.add_directive("parts", Parts)
    # Before napoleon reads the sections.
    app.connect("autodoc-process-docstring", as_plain_text, priority=100)
