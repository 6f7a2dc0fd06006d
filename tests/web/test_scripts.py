from __future__ import annotations

import re

import pytest

from twisted_ws.closecodes import BROWSER
from twisted_ws.web.scripts import CLIENT, resource


def _made(name: str) -> str:
    """Return a file of the client without its first line, which says what it is made from."""
    first, rest = CLIENT[name].decode().split("\n", 1)
    assert first == "// Made from twisted_ws/web/static: change that, then run tools/js."
    return rest


def test_module() -> None:
    """The module is the source without its comments and indentation, and with the close codes filled in; no more is missing."""
    source = resource("twisted-ws.mjs").decode()
    lines = [line.partition(" // ")[0].strip() for line in source.splitlines()]
    wanted = [line for line in lines if line and not line.startswith("//")]
    codes = f"const COME_BACK = {[int(code) for code in BROWSER]};"
    assert _made("twisted-ws.mjs").splitlines() == [codes if line == "const COME_BACK = [];" else line for line in wanted]
    assert codes in _made("twisted-ws.mjs")
    assert not re.search(r"""(["`'])[^"`'\n]* // [^"`'\n]*\1""", "\n".join(lines))
    assert "`\n" not in re.sub(r"`[^`\n]*`", "", source)  # a text of several lines would lose what it is indented by


def test_script() -> None:
    """The plain script has the module's text in a scope of its own, and puts its names into the global one."""
    script = _made("twisted-ws.js")
    exported = "{ TwistedWS, TwistedWSError };"
    body = _made("twisted-ws.mjs").replace(f"export {exported}", f"Object.assign(globalThis, {exported[:-1]});")
    assert script == f'"use strict";\n(() => {{\n{body}}})();\n'
    assert "export" not in script


@pytest.mark.parametrize("name", ["twisted-ws.js", "twisted-ws.mjs"])
def test_noMore(name: str) -> None:
    """The script adds only the client's names to the page, and loads nothing from elsewhere."""
    text = CLIENT[name].decode()
    assert "import" not in text
    assert set(re.findall(r"https?:\S+", text)) <= {'http").replace(/^ws/,'}
