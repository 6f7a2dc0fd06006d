"""Install the Autobahn|Testsuite, and convert it to Python 3.

Its last release on PyPI is Python 2 source. It is installed unchanged into its own virtual environment, and converted there:
by fissix (lib2to3, which Python no longer has), then by the edits below. Nothing of the suite itself is in this file.

In its cases, a `str` is a string of octets. So its source is read as Latin-1, a payload stays a `str` whose characters represent
octets, and only between a case and Autobahn are they converted to bytes and back. The cases need no individual edits.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["install"]

SUITE = "autobahntestsuite==25.10.1"
# The suite uses its own Autobahn, older than the server's: if both had the same bug, it would not show.
NEEDS = (
    "autobahn==24.4.2",
    "Twisted==24.11.0",
    "txaio==26.6.1",
    "wsaccel==0.6.7",
    "pyOpenSSL==26.4.0",
    "service-identity==26.1.0",
    "setuptools==80.9.0",  # the suite imports pkg_resources, which later versions lack
    "fissix==24.4.24",
)

# Added to the package: it converts between the octet strings of the cases and bytes.
BRIDGE = '''\
"""Convert between the cases' octet strings and Autobahn's bytes."""

import binascii


def octets(s):
    return s.encode("latin-1") if isinstance(s, str) else bytes(s)


def chars(b):
    return b if isinstance(b, str) else bytes(b).decode("latin-1")


def hexlify(s):
    return binascii.hexlify(octets(s)).decode("ascii")


def binLog(data, maxlen=64):
    cut = len(data) > maxlen - 4
    return hexlify(data[:maxlen] if cut else data) + (" ..." if cut else "")


def asciiLog(data, maxlen=64, replace=False):
    data, cut = octets(data), len(data) > maxlen - 4
    try:
        text = (data[:maxlen] if cut else data).decode("utf8", "replace" if replace else "strict")
        return text + (" ..." if cut else "")
    except UnicodeDecodeError:
        return "0x" + binLog(data, maxlen)


def text(obj):
    """Convert bytes at any depth to str, for the reports."""
    if isinstance(obj, dict):
        return {k: text(v) for k, v in obj.items()}
    if isinstance(obj, (list, tuple)):
        return type(obj)(text(v) for v in obj)
    return chars(obj) if isinstance(obj, (bytes, bytearray)) else obj


class ExactTimer:
    """Replace Autobahn's timer, which can turn a close timeout of 1 s into 0 s."""

    def __init__(self, call=None):
        self.call = call

    def call_later(self, delay, func, *args, **kw):
        from twisted.internet import reactor

        return ExactTimer(reactor.callLater(delay, func, *args, **kw))

    def cancel(self):
        if self.call.active():
            self.call.cancel()


class Bridge:
    """Wrap Autobahn's protocol class: cases send octet strings."""

    debug = False

    def sendFrame(self, opcode, payload=b"", *args, **kw):
        super().sendFrame(opcode, octets(payload), *args, **kw)

    def sendMessage(self, payload, *args, **kw):
        super().sendMessage(octets(payload), *args, **kw)

    def sendMessageFrameData(self, payload, *args, **kw):
        return super().sendMessageFrameData(octets(payload), *args, **kw)

    def sendCloseFrame(self, code=None, reasonUtf8=None, *args, **kw):
        if reasonUtf8 is not None:
            reasonUtf8 = octets(reasonUtf8)
        super().sendCloseFrame(code, reasonUtf8, *args, **kw)
'''

# Files, pattern and replacement. Each pattern must match somewhere: otherwise this is not the expected package.
EDITS = (
    # Python 3.
    ("case/*.py", r"\(object, Case, \)", "(Case,)"),  # Python 3 does not allow this order of bases
    ("case/case.py", r"pickle\.dumps\((\w+)\) == pickle\.dumps\((\w+)\)", r"\1 == \2"),
    ("case/case10_1_1.py", r"len\(self\.payload\) / ", "len(self.payload) // "),
    ("*.py", r"open\((.*), 'w'\)", r"open(\1, 'w', encoding = 'utf-8')"),
    ("fuzzing.py", r"\.encode\(['\"]utf-?8['\"]\)\)", ")"),  # the file is written as text
    ("case/__init__.py", r"from \.case9_9_1 import \*\n", ""),  # a case that the suite never runs
    # Autobahn 24.
    ("*.py", r",? ?debug = debug, debugCodePaths = debug", ""),
    ("fuzzing.py", r"self\.failConnection\(", "self._fail_connection("),
    ("case/case12_x_x.py", r"(request|accept)NoContextTakeover", r"\1_no_context_takeover"),
    ("case/case12_x_x.py", r"(request|accept)MaxWindowBits", r"\1_max_window_bits"),
    ("wstest.py", r"from \. import serializer\n", ""),  # for WAMP only
    ("report.py", r"import jinja2\n", ""),  # likewise
    ("fuzzing.py", r"( +)self\.outdir = outdir\n", r"\g<0>\1self._batched_timer = _bridge.ExactTimer()\n"),
    # Octets and bytes.
    ("fuzzing.py", r"\(FuzzingProtocol, WebSocket", "(FuzzingProtocol, _bridge.Bridge, WebSocket"),
    ("fuzzing.py", r"runCase\.onMessage\(msg,", "runCase.onMessage(_bridge.chars(msg),"),
    ("fuzzing.py", r"runCase\.onPong\(payload\)", "runCase.onPong(_bridge.chars(payload))"),
    ("case/case12_x_x.py", r"(def onMessage\(self, msg, binary\):\n)", r"\1   msg = _bridge.octets(msg)\n"),
    ("case/case6_x_x.py", r"v\.validate\((vss\[:i\])\)", r"v.validate(_bridge.octets(\1))"),
    ("fuzzing.py", r"p = ''\.join\(payload\)", "p = b''.join(payload)"),
    ("fuzzing.py", r"\n(class FuzzingProtocol:)", r"\nbinLogData, asciiLogData = _bridge.binLog, _bridge.asciiLog\n\n\n\1"),
    ("fuzzing.py", r"(self\.factory\.logCase\()caseResult\)", r"\1_bridge.text(caseResult))"),
    ("**/*.py", r"binascii\.b2a_hex\(", "_bridge.hexlify("),
)


def install(target: Path) -> Path:
    """Return the path of ``wstest``; install it at `target` if needed."""
    wstest, whole = target / "bin" / "wstest", target / "converted"
    if not whole.exists():
        shutil.rmtree(target, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", target], check=True)
        python = target / "bin" / "python"
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *NEEDS], check=True)
        subprocess.run([*pip, "--no-deps", "--no-compile", SUITE], check=True)
        subprocess.run([python, __file__], check=True)
        subprocess.run([wstest, "--autobahnversion"], check=True, stdout=subprocess.DEVNULL)
        whole.touch()
    return wstest


def _convert() -> None:
    """Convert the suite installed beside the running Python."""
    from fissix import refactor  # type: ignore[import-not-found, unused-ignore]

    package = Path(next(path for path in sys.path if path.endswith("site-packages"))) / "autobahntestsuite"
    tool = refactor.RefactoringTool(refactor.get_fixers_from_package("fissix.fixes"))
    code = {}
    for path in sorted(package.rglob("*.py")):
        if not path.name.startswith(("wamp", "wsperf")):  # unused modes
            source = path.read_bytes().decode("latin-1").replace("\r\n", "\n").replace("# coding=utf-8", "#")
            code[path] = str(tool.refactor_string(source + "\n", str(path)))
    for glob, pattern, replacement in EDITS:
        hits = 0
        for path in package.glob(glob):
            if path in code:
                code[path], count = re.subn(pattern, replacement, code[path])
                hits += count
        if not hits:
            sys.exit(f"nothing matches {pattern!r} in {glob}: this is not the expected {SUITE}")
    for path, text in code.items():
        if "_bridge." in text:
            text = "from autobahntestsuite import _bridge\n" + text
        path.write_text(text, encoding="utf-8")
    (package / "_bridge.py").write_text(BRIDGE)


if __name__ == "__main__":
    _convert()
