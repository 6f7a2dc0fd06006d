from __future__ import annotations

import sys

import pytest

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
    ImpossibleEvent,
    State,
)

EVENTS = [OPENED, CLOSE_SENT, INPUT_ENDED, LOST]
# The state after each of these events, by the state before it; None where it cannot happen.
AFTER = {
    CONNECTING: [OPEN, None, FINISHING, CLOSED],
    OPEN: [None, CLOSING, FINISHING, CLOSED],
    CLOSING: [None, None, FINISHING, CLOSED],
    FINISHING: [None, None, None, CLOSED],
    CLOSED: [None, None, None, None],
}


@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
@pytest.mark.parametrize("number", range(len(EVENTS)), ids=lambda number: EVENTS[number].name)
def test_events(state, number):
    """Each event leads to one later state, or raises where it cannot happen."""
    event, after = EVENTS[number], AFTER[state][number]
    if after is None:
        with pytest.raises(ImpossibleEvent, match=rf"^{event.name} is impossible in {state.name}$"):
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
