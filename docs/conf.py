"""The configuration of `make docs`: Sphinx over the Markdown files of the whole repository.

The source folder is the repository's root, so that a link between two Markdown files works on
GitHub and in the pages alike, and is checked here.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import docstrings

project = "sde-diffusion"
copyright = "the authors of sde-diffusion, Apache-2.0"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
root_doc = "docs/index"
include_patterns = ["README.md", "docs/**.md", "experiments/**.md"]
exclude_patterns = [".venv*", ".git", "runs", "tests", "docs/_build", "**/.*"]

# Links to headings, such as runs.md#resuming, are checked down to the third level.
myst_heading_anchors = 3

html_theme = "furo"
html_title = "sde-diffusion"
html_show_copyright = False

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings give shapes and types
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False  # what a class has no docstring for is told at its base


def setup(app):
    app.connect("autodoc-process-docstring", docstrings.process)
    app.connect("autodoc-process-signature", docstrings.process_signature)
    app.connect("autodoc-skip-member", docstrings.skip)
