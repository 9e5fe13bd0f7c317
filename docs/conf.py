"""How Sphinx builds the documentation: `make docs`."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from docutils.nodes import Element
    from sphinx.application import Sphinx

project = "rocketry-otel"
release = metadata.version("rocketry-otel")
version = release
# Nobody's name and no year: LICENSE has them.
copyright = "under the MIT licence"  # noqa: A001  # the name is Sphinx's

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


def setup(app: Sphinx) -> None:
    """Look for types before intersphinx does, whose priority is 500."""
    app.connect("missing-reference", _find, priority=400)
