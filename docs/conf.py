"""How Sphinx builds the documentation: `make docs`."""

from __future__ import annotations

from importlib import metadata

project = "rocketry-otel"
release = metadata.version("rocketry-otel")
version = release
# Nobody's name and no year: LICENSE has them.
copyright = "under the MIT licence"  # noqa: A001  # the name is Sphinx's

extensions = ["myst_parser"]
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
