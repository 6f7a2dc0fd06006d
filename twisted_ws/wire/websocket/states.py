"""The states of a connection, and the events that lead from one to the next."""

from __future__ import annotations

from enum import IntEnum


class States(IntEnum):
    """A base for the states of anything that has a table for each event."""

    __hash__ = int.__hash__  # Enum's own is written in Python, so looking up a state could run a finaliser


class State(States):
    """Where a connection is in its life; it only ever moves forward.

    ==========  ==================================================  ==========================================
    state       meaning                                             ends with
    ==========  ==================================================  ==========================================
    CONNECTING  the 101 is not written, or not read, yet            OPENED
    OPEN        messages go both ways                               a Close from either side, or a failure
    CLOSING     we sent (or queued) Close and wait for the peer's   the peer's Close, or the close deadline
    FINISHING   input no longer counts; our last bytes go out       the peer's end of stream, or the deadline
    CLOSED      the transport is gone
    ==========  ==================================================  ==========================================

    Autobahn has a `state` of its own, which stays OPEN: this one decides what it is given to parse.
    """

    CONNECTING = 0
    OPEN = 1
    CLOSING = 2
    FINISHING = 3
    CLOSED = 4


# Use these, not ``State.OPEN``: Python 3.11 creates an object for each access to an Enum member, so a finaliser could run in the
# middle of a comparison, after the state was read.
CONNECTING, OPEN, CLOSING, FINISHING, CLOSED = State

# What can happen: which state follows, for each state in which it is possible; in any other it is a bug, and a `KeyError`.
# Take it as ``self._state = CLOSE_SENT[self._state]``: that runs no Python code and creates no object, so no finaliser can run
# between the look at the state and its change. (No subclass of dict: looking up an item in one takes twice as long.)
OPENED = {CONNECTING: OPEN}
CLOSE_SENT = {OPEN: CLOSING}
# The peer's Close has come, the connection has failed, or we drop it.
INPUT_ENDED = {CONNECTING: FINISHING, OPEN: FINISHING, CLOSING: FINISHING}
LOST = {CONNECTING: CLOSED, OPEN: CLOSED, CLOSING: CLOSED, FINISHING: CLOSED}
