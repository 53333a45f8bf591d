# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""The documentation as HTML, and lcsync-protocol(7): make docs, make man."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from lcsync import __version__  # noqa: E402

project = "lcsync"
author = "the lcsync project"
release = __version__
html_title = f"lcsync {__version__}"
html_theme = "furo"
html_show_copyright = False
html_show_sphinx = False
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinxarg.ext"]
myst_heading_anchors = 3
nitpicky = True  # a link inside the documentation that leads nowhere is an error
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # signatures have them
today_fmt = "%Y-%m-%d"
man_pages = [("protocol", "lcsync-protocol", "what lcsync sends on the wire", [], 7)]
