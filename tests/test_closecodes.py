from __future__ import annotations

import importlib.util
import re

import pytest

from tests.transcript import ROOT
from twisted_ws.client import ConnectionClosed, Retry
from twisted_ws.closecodes import CHANNELS, CLOSES, Again
from twisted_ws.commands.exits import Exit, codeOf
from twisted_ws.errors import ChannelError, CloseCode
from twisted_ws.service import checkClose
from twisted_ws.web.scripts import CLIENT

ALL = [*CLOSES, *CHANNELS]


def test_complete():
    """Each close code has one row, and each status with which a channel may be refused."""
    assert [row.code for row in CLOSES] == list(CloseCode)
    assert {row.code for row in CHANNELS} == {4410, *(4000 + status for status in ChannelError.STATUSES.values())}


@pytest.mark.parametrize("row", ALL, ids=lambda row: str(int(row.code)))
def test_consumers(row):
    """Server, Python client and command line do as the table says."""
    error = ConnectionClosed(row.code)
    retry = Retry(interval=1, jitter=0, random=lambda: 1.0)
    assert retry.again(error) == (row.again is not Again.NO)
    assert retry.wait(1, error) == (10 if row.again is Again.SPREAD else 1)
    assert (codeOf(error) == Exit.OK) == row.isDone
    if row.isSent:
        assert checkClose(row.code, "")
    else:
        with pytest.raises(ValueError, match="cannot be sent"):
            checkClose(row.code, "")


@pytest.mark.parametrize("name", ["twisted-ws.js", "twisted-ws.mjs"])
def test_browser(name):
    """The browser client reconnects after exactly those codes for which the table says so."""
    (found,) = re.findall(r"^const COME_BACK = \[(.*)\];$", CLIENT[name].decode(), re.MULTILINE)
    wanted = [row.code for row in ALL if (row.again is not Again.NO if row.browser is None else row.browser)]
    assert [int(code) for code in found.split(", ")] == wanted == [1001, 1005, 1006, 1011, 1012, 1013, 1014, 4429, 4500, 4503]


def test_reference():
    """The pages show each row once, in tables that are written from it."""
    spec = importlib.util.spec_from_file_location("_tables", ROOT / "docs" / "_tables.py")
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    pages = "".join((ROOT / "docs" / "reference" / page).read_text() for page in ("close-codes.md", "channels.md"))
    shown = []
    for name in ("closes", "reported-closes", "channel-closes"):
        assert pages.count(f"```{{table-of}} {name}\n") == 1
        shown += re.findall(r"^\| (\d{4}) \|", tables.TABLES[name](), re.MULTILINE)
    assert sorted(map(int, shown)) == sorted(row.code for row in ALL)
