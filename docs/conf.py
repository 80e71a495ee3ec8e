"""Sphinx configuration."""

import sys
from pathlib import Path

import funcgrad

sys.path.insert(0, str(Path(__file__).parent))

project = "funcgrad"
author = "The funcgrad authors"
copyright = "The funcgrad authors"
version = release = funcgrad.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_mock_imports = ["safetensors", "torch"]
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = "funcgrad"


def setup(app):
    import generate_rules

    app.connect("builder-inited", lambda app: generate_rules.write(Path(app.srcdir)))
