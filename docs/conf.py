"""How Sphinx builds the documentation: `make docs`."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from docutils.nodes import Element
    from sphinx.application import Sphinx

project = "rocketry-otel"
release = metadata.version("rocketry-otel")
version = release

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
]
# The few objects of other projects that our pages refer to, as text: no network is needed.
intersphinx_mapping = {
    "python": ("https://docs.python.org/3", "_inventories/python.inv"),
    "opentelemetry": (
        "https://opentelemetry-python.readthedocs.io/en/stable",
        "_inventories/opentelemetry.inv",
    ),
}
# Signatures as in the code.
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False

# Headings up to this level are targets of links, by the names that code hosts give them.
myst_heading_anchors = 4
suppress_warnings: list[str] = []
exclude_patterns = ["_*"]

html_theme = "furo"
html_title = "rocketry-otel"
html_static_path = ["_static"]
html_css_files = ["site.css"]
# The pages are read from the disk as well: without a server, and without a network.
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_use_index = True

# Annotations name types as our modules import them.
_FULL_NAMES = {
    "LogRecord": "opentelemetry._logs.LogRecord",
    "LoggerProvider": "opentelemetry._logs.LoggerProvider",
    "MeterProvider": "opentelemetry.metrics.MeterProvider",
    "ReadableSpan": "opentelemetry.sdk.trace.ReadableSpan",
    "Sampler": "opentelemetry.sdk.trace.sampling.Sampler",
    "TracerProvider": "opentelemetry.trace.TracerProvider",
    "datetime": "datetime.datetime",
}
# Types without a page: those of Rocketry and Red Bird, and ours that a text describes.
_WITHOUT_PAGE = {"Application", "BaseRepo", "Enrich", "NameSpan", "Retention", "Session"}


def _find(_app: Sphinx, _env: Any, node: Element, content: Element) -> Element | None:
    """Complete the name of a type for intersphinx, or show it without a link."""
    name = node.get("reftarget", "")
    if name.rpartition(".")[2] in _WITHOUT_PAGE:
        return content
    node["reftarget"] = _FULL_NAMES.get(name, name)
    return None


# What the theme leaves out for people with a screen reader or without a mouse; axe finds it.
_ACCESSIBLE = (
    (r'(<p class="caption" role="heading")>', r'\1 aria-level="2">'),
    (r"<pre>", '<pre tabindex="0">'),
    (r'(<aside class="sidebar-drawer")>', r'\1 aria-label="Pages">'),
    (r'(<aside class="toc-drawer[^"]*")>', r'\1 aria-label="On this page">'),
    # A table of names and values has no heading, though Markdown demands one.
    (r"<thead>\s*<tr[^>]*>(?:<th[^>]*>(?:<p></p>)?</th>\s*)+</tr>\s*</thead>", ""),
    (r"<th([^>]*)>(?:<p></p>)?</th>", r"<td\1></td>"),
    (r'(<div id="search-results">)', r"<h1>Search</h1>\1"),
)


def _make_accessible(app: Sphinx, error: Exception | None) -> None:
    """Complete the pages that were built."""
    if error is not None or app.builder.format != "html":
        return
    for page in Path(app.outdir).rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        for pattern, better in _ACCESSIBLE:
            text = re.sub(pattern, better, text)
        page.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> None:
    """Look for types before intersphinx does, whose priority is 500; and complete the pages."""
    app.connect("missing-reference", _find, priority=400)
    app.connect("build-finished", _make_accessible)
