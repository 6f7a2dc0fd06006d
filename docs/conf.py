"""How Sphinx builds this documentation."""

import sys
import tomllib
from pathlib import Path

_here = Path(__file__).parent
_project = tomllib.loads((_here.parent / "pyproject.toml").read_text())["project"]
sys.path[:0] = [str(_here), str(_here.parent)]  # for _tables, and the benchmark that it reads

project = "twisted_ws"
author = "the twisted_ws developers"
project_copyright = "2026, the twisted_ws developers"
version = release = _project["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "_tables"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"twisted_ws {release}"
html_static_path = ["_static", "../js/twisted-ws.js"]  # the demo of the landing page has the real client
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_theme_options = {"top_of_page_buttons": []}  # the sources are in the repository
html_favicon = "../twisted_ws/web/static/favicon.svg"
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
default_role = "code"
nitpicky = True
nitpick_ignore_regex = [
    # Types of other projects, whose inventories a build without a network cannot read.
    (r"py:.*", r"(twisted|zope|autobahn|OpenSSL|collections|typing|pathlib|ipaddress|enum|os)\..*"),
    # What signatures name and users never hold.
    (r"py:class", r"twisted_ws\.service\._Handler|twisted_ws\.wire\.(frontdoor\.FrontDoorFactory|websocket\.runtime\.Runtime)"),
    (r"py:class", r"twisted_ws\.access\.asking\.exchange\.(Question|Answer)|(twisted_ws\.dispatch\.interceptors\.)?Interceptor"),
    (r"py:class", r"(twisted_ws\.engines\.replay\.)?Replay|Wheel|twisted_ws\.engines\.contract\.HistoryLimits|msgspec\.Raw"),
    (r"py:class", r"twisted_ws\.(client\.(client|sync)|engines\.contract|testing\.(client|server))\._T"),
    (
        r"py:.*",
        r"(Any|Deferred|Callable|Iterable|Iterator|Mapping|Collection|IProtocolFactory|IListeningPort|Certificate.*)",
    ),
]
