"""The browser client as it is served and published: the module and the plain script are made of one source."""

from __future__ import annotations

import re
from importlib.resources import files

from twisted_ws.closecodes import BROWSER

# Comments, and what lines are indented by. The source has no text that goes over several lines, and none with " // " in it.
_SPARE = re.compile(rb"(?m)^ *//.*\n|^ +|^\n| // .*$")
_MADE = b"// Made from twisted_ws/web/static: change that, then run tools/js.\n"
_EXPORT = re.compile(rb"(?m)^export \{ (.+) \};\n")


def resource(name: str) -> bytes:
    """Return a file that is served as it is, or from which what is served is made."""
    return files("twisted_ws.web").joinpath("static", name).read_bytes()


def _module() -> bytes:
    codes = ", ".join(str(int(code)) for code in BROWSER).encode()
    return _SPARE.sub(b"", resource("twisted-ws.mjs")).replace(b"COME_BACK = []", b"COME_BACK = [%b]" % codes, 1)


def _script(module: bytes) -> bytes:
    """Return a script that does what a module does, but puts what the module exports into the global scope."""
    return b'"use strict";\n(() => {\n' + _EXPORT.sub(rb"Object.assign(globalThis, { \1 });\n", module) + b"})();\n"


def _client() -> dict[str, bytes]:
    module, types = _module(), resource("twisted-ws.d.ts")
    return {"twisted-ws.js": _MADE + _script(module), "twisted-ws.mjs": _MADE + module, "twisted-ws.d.ts": _MADE + types}


# The files of the client, by name.
CLIENT = _client()
