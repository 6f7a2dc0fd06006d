"""How Sphinx builds this documentation."""

import tomllib
from pathlib import Path

_project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]

project = "twisted_ws"
author = "the twisted_ws developers"
project_copyright = "2026, the twisted_ws developers"
version = release = _project["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"twisted_ws {release}"
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
default_role = "code"
nitpicky = True
nitpick_ignore_regex = [
    # Types of other projects, whose inventories a build without a network cannot read.
    (r"py:.*", r"(twisted|zope|autobahn|OpenSSL|collections|typing|pathlib|ipaddress|enum)\..*"),
    (r"py:.*", r"(Any|Deferred|Callable|Iterable|Iterator|Mapping|Collection|IProtocolFactory|IListeningPort|Certificate|Certificate.*)"),
]
