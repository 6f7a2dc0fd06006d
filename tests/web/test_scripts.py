from __future__ import annotations

import re

import pytest

from twisted_ws.web.scripts import CLIENT, resource


def test_module() -> None:
    """The module is the source without its comments and indentation, and nothing else is missing."""
    source = resource("twisted-ws.mjs").decode()
    lines = [line.partition(" // ")[0].strip() for line in source.splitlines()]
    wanted = [line for line in lines if line and not line.startswith("//")]
    assert CLIENT["twisted-ws.mjs"].decode().splitlines() == wanted
    assert not re.search(r"""(["`'])[^"`'\n]* // [^"`'\n]*\1""", "\n".join(lines))
    assert "`\n" not in re.sub(r"`[^`\n]*`", "", source)  # a text of several lines would lose what it is indented by


def test_script() -> None:
    """The plain script has the module's text in a scope of its own, and puts its names into the global one."""
    script = CLIENT["twisted-ws.js"].decode()
    exported = "{ TwistedWS, TwistedWSError };"
    body = CLIENT["twisted-ws.mjs"].decode().replace(f"export {exported}", f"Object.assign(globalThis, {exported[:-1]});")
    assert script == f'"use strict";\n(() => {{\n{body}}})();\n'
    assert "export" not in script


@pytest.mark.parametrize("name", ["twisted-ws.js", "twisted-ws.mjs"])
def test_noMore(name: str) -> None:
    """Nothing but the names of the client is left to the page, and nothing is loaded from elsewhere."""
    text = CLIENT[name].decode()
    assert "import" not in text
    assert set(re.findall(r"https?:\S+", text)) <= {'http").replace(/^ws/,'}
