"""What axe-core, which looks for what keeps people from using a page, has to say of one."""

from __future__ import annotations

from functools import cache
from typing import Any

from tests.browser.node import installed

AXE = "4.14.1"


@cache
def _script() -> str:
    return (installed("axe-core", AXE) / "axe.min.js").read_text()


def violations(tab: Any) -> list[Any]:
    """Return which rule is broken by which elements of a browser's page; what axe cannot decide is not among them."""
    if not tab.run("typeof axe === 'object'"):
        tab.run(f"(() => {{ {_script()} }})()")
    # It spares itself the description of what passes.
    found = tab.run(
        "axe.run({ resultTypes: ['violations'] })"
        ".then(({ violations }) => violations.map(each => [each.id, each.nodes.map(node => node.html)]))"
    )
    return list(found)
