"""Sphinx settings: MyST pages, API from the docstrings, warnings are errors (``-W``)."""

from __future__ import annotations

import hepdask_ml

project = "hepdask-ml"
author = "The hepdask-ml developers"
project_copyright = "2026, the hepdask-ml developers"
release = hepdask_ml.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"
default_role = "code"
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True

html_theme = "furo"
html_title = f"hepdask-ml {release}"
html_copy_source = False
