from __future__ import annotations

import sys

import pytest
from twisted.logger import capturedLogs

from tests.memory import clientFrame
from tests.wire.support import WireHost
from twisted_ws.errors import PolicyViolation
from twisted_ws.wire.websocket import connection as module
from twisted_ws.wire.websocket.states import (
    CLOSE_SENT,
    CLOSED,
    CLOSING,
    CONNECTING,
    FINISHING,
    INPUT_ENDED,
    LOST,
    OPEN,
    OPENED,
    State,
)

EVENTS = {"opened": OPENED, "close sent": CLOSE_SENT, "input ended": INPUT_ENDED, "lost": LOST}
# The state after each of these events, by the state before it; None where it cannot happen.
AFTER = {
    CONNECTING: [OPEN, None, FINISHING, CLOSED],
    OPEN: [None, CLOSING, FINISHING, CLOSED],
    CLOSING: [None, None, FINISHING, CLOSED],
    FINISHING: [None, None, None, CLOSED],
    CLOSED: [None, None, None, None],
}


@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
@pytest.mark.parametrize("name", EVENTS)
def test_events(state, name):
    """Each event leads to one later state, or raises where it cannot happen."""
    event, after = EVENTS[name], dict(zip(EVENTS, AFTER[state], strict=True))[name]
    if after is None:
        with pytest.raises(KeyError, match=f"State.{state.name}"):
            event[state]
    else:
        assert event[state] is after
        assert after > state


def test_noPython():
    """Reading and changing a state runs no Python code, so that no finaliser can come between."""
    ran = []
    sys.setprofile(lambda frame, event, argument: ran.append((event, frame.f_code.co_name)))
    try:
        state = CONNECTING
        if state is CONNECTING:
            state = OPENED[state]
        if state >= OPEN:
            state = LOST[state]
    finally:
        sys.setprofile(None)
    assert state is CLOSED
    assert ran == [("c_call", "test_noPython")]  # this is setprofile's own end


# Everything that can happen to a connection from outside, in whatever state it is.
HAPPENS = {
    "we close": lambda client, connection: connection.startClose(b"\x03\xe8", 10),
    "we close at once": lambda client, connection: connection.startClose(b"\x03\xe8", 0),
    "we fail it": lambda client, connection: connection.fail(PolicyViolation("x")),
    "we drop it": lambda client, connection: connection.abort(),
    "the peer closes": lambda client, connection: client.send(clientFrame(8, b"\x03\xe8")),
    "the peer breaks the rules": lambda client, connection: client.send(b"\xff\xff"),
    "the peer leaves": lambda client, connection: client.transport.closed or client.hangUp(),
    "the kernel takes bytes": lambda client, connection: client.transport.turn(),
    "time passes": lambda client, connection: client.live(6),
}


@pytest.mark.parametrize("first", HAPPENS)
@pytest.mark.parametrize("room", [None, 0], ids=["reads", "reads nothing"])
def test_anyOrder(first, room):
    """Whatever happens after whatever else, no event is impossible, and the connection ends: told once, with nothing left."""
    for second in HAPPENS:
        host = WireHost()
        client, recorder = host.open()
        client.transport.room = room
        recorder.connection.writeFrame(1, b"x" * 100_000)
        with capturedLogs() as logs:
            for each in (first, second):
                HAPPENS[each](client, recorder.connection)
            if recorder.connection.isOpen():
                recorder.connection.startClose(b"\x03\xe8", 10)
            client.live(30)
        assert not [each for each in logs if "log_failure" in each]
        assert client.transport.closed, second
        assert [event[0] for event in recorder.events].count("closed") == 1
        assert recorder.events[-1][0] == "closed"
        assert (len(host.runtime.wheel), host.runtime.backlog.total, host.runtime.intake.total) == (0, 0, 0)


def test_impossible(monkeypatch):
    """A connection that something impossible happens to is dropped, told once, with nothing left."""
    monkeypatch.setattr(module, "INPUT_ENDED", {})
    host = WireHost()
    client, recorder = host.open()
    with pytest.raises(KeyError):
        recorder.connection.fail(PolicyViolation("x"))
    assert client.transport.aborted
    client.transport.settle()
    assert [event[0] for event in recorder.events] == ["opened", "failed", "closed"]
    assert (len(host.runtime.wheel), host.runtime.backlog.total, host.runtime.gate.open) == (0, 0, 0)
