"""The site: python -m sphinx -W -b html docs build/site (or any other folder)."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import generate  # noqa: E402

project = "ssl_runner"
author = "the authors of ssl_runner"
project_copyright = author
extensions = ["myst_parser"]
exclude_patterns = ["Thumbs.db", ".DS_Store"]
myst_enable_extensions = ["attrs_block"]
myst_heading_anchors = 4  # as on GitHub, so that [..](page.md#heading) works in both places

html_theme = "furo"  # all of its files are its own: the site works offline
html_title = "ssl_runner"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
pygments_style = "friendly"
pygments_dark_style = "github-dark"
nitpicky = True


def setup(app):
    """Write the pages that are made from conf/ and its classes before sources are looked for."""
    app.connect("builder-inited", lambda _: generate.write_reference())
