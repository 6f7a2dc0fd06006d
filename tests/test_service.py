from __future__ import annotations

import pytest

from twisted_ws.service import CloseFrame, WebSocketService, checkClose, dispatches

MAY_BE_SENT = [*range(1000, 1004), *range(1007, 1015), 3000, 3999, 4000, 4999]


@pytest.mark.parametrize("code", MAY_BE_SENT)
def test_codesThatCanBeSent(code):
    """The codes that RFC 6455 and its registry let an endpoint send are taken."""
    assert checkClose(code, "why") == code.to_bytes(2, "big") + b"why"
    assert CloseFrame(code, "why").code == code


@pytest.mark.parametrize("code", [-1, 0, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65536, 10**9])
def test_codesThatCannotBeSent(code):
    """Reserved codes and those without a meaning are refused, with those that can be sent."""
    with pytest.raises(ValueError, match=f"close code {code} cannot be sent"):
        checkClose(code, "")
    with pytest.raises(ValueError, match="cannot be sent"):
        CloseFrame(code)


@pytest.mark.parametrize(
    ("code", "reason", "error", "text"),
    [
        (True, "", TypeError, "must be an int, not bool"),
        ("1000", "", TypeError, "must be an int, not str"),
        (1000.0, "", TypeError, "must be an int, not float"),
        (1000, b"bytes", TypeError, "must be a str, not bytes"),
        (1000, "x" * 124, ValueError, "has 124 bytes of UTF-8"),
        (1000, "ü" * 62, ValueError, "has 124 bytes of UTF-8"),
        (1000, "\ud800", ValueError, "surrogate"),
    ],
)
def test_wrongArguments(code, reason, error, text):
    """A code or reason that no Close frame can carry is refused in words."""
    with pytest.raises(error, match=text):
        checkClose(code, reason)
    with pytest.raises(error, match=text):
        CloseFrame(code, reason)


def test_longestReason():
    """A reason of exactly 123 bytes fits."""
    assert len(checkClose(1000, "ü" * 61 + "x")) == 125


def test_closeFrame():
    """Without arguments, a Close frame is a normal end; it is compared by value."""
    assert CloseFrame() == CloseFrame(1000, "")
    with pytest.raises(AttributeError):
        CloseFrame().code = 1001  # type: ignore[misc]


def test_dispatches():
    """The mark stays on the function, which is otherwise the same."""

    @dispatches("un subscribe")
    def handler(self, caller):
        return "called"

    assert handler.dispatches == "un subscribe"
    assert handler(None, None) == "called"


def test_dispatchesWithoutParentheses():
    """A forgotten value is reported at once, not when the first message comes."""
    with pytest.raises(TypeError, match="takes the value"):
        dispatches(lambda self: None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not empty"):
        dispatches("")


def test_base():
    """The base class has attributes with safe defaults and no event, so that a missing event is known to be missing."""
    assert WebSocketService.subProtocols == []
    assert WebSocketService.idleTimeout == 0
    assert WebSocketService.dispatcherKey == WebSocketService.dispatcherStreamId == ""
    assert [name for name in dir(WebSocketService) if name.startswith("on")] == []
