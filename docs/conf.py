"""Builds the site from the Markdown in this folder, which is also readable as it is: see tools/docs."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

project = "md5s3stash"
author = "the contributors of md5s3stash"
version = release = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_enable_extensions = ["colon_fence"]
# Headings can be linked to as on a code host.
myst_heading_anchors = 4
# A block without a language is terminal output: no colours are better than wrong ones.
highlight_language = "text"
# In a docstring `name` is code, as in the Markdown.
default_role = "code"
nitpicky = True
# Types of the standard library and of others, whose documentation cannot be reached from everywhere.
nitpick_ignore_regex = [("py:.*", r"(?!md5s3stash).*")]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"

html_theme = "furo"
html_title = "md5s3stash"
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"sidebar_hide_name": False}
# Written by hand and by tools; nothing of the site is fetched from elsewhere.
pygments_style = "default"
pygments_dark_style = "github-dark"


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", _indented_is_literal)


def _indented_is_literal(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """An indented block of a docstring is a picture or code, as in Markdown; reStructuredText would make it a quote."""
    for index in reversed(range(1, len(lines))):
        if lines[index].startswith("    ") and not lines[index - 1].strip() and not lines[index].isspace():
            start = next((line for line in reversed(lines[:index]) if line.strip()), "")
            if not start.startswith("    "):
                lines[index:index] = ["::", ""]
