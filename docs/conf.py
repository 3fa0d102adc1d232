"""Configure Sphinx, which reads the pages that ``python -m docs`` writes, and imports the library for its API."""

from __future__ import annotations

from typing import Protocol

from docs import docstrings

project = "unwedged"
author = "the unwedged developers"
copyright = author  # noqa: A001 (Sphinx's name for it)
extensions = ["myst_parser", "sphinx.ext.autodoc"]

myst_enable_extensions = ["attrs_inline"]
myst_heading_anchors = 5

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
add_module_names = False

html_theme = "furo"
html_title = "unwedged"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_show_copyright = False
html_use_index = False
html_domain_indices = False
html_theme_options = {"navigation_with_keys": False}


class Sphinx(Protocol):
    """The part of Sphinx that is used here."""

    def connect(self, event: str, callback: object) -> int:
        """Register a callback for an event."""


def setup(app: Sphinx) -> None:
    """Register the rewriting of docstrings."""
    app.connect("autodoc-process-docstring", _process)


def _process(_app: Sphinx, _what: str, name: str, _obj: object, _options: object, lines: list[str]) -> None:
    lines[:] = docstrings.rewritten(name, lines)
