from __future__ import annotations

import os
import pty
import termios

import pytest

from twisted_ws.commands.terminal.tty import Keys, canColour, canMove, columns


@pytest.mark.parametrize(
    ("environment", "moves", "colours"),
    [
        ({"TERM": "xterm"}, True, True),
        ({"TERM": "xterm", "NO_COLOR": ""}, True, True),
        ({"TERM": "xterm", "NO_COLOR": "0"}, True, False),
        ({"TERM": "dumb"}, False, False),
        ({"TERM": ""}, False, False),
        ({}, False, False),
    ],
    ids=str,
)
def test_abilities(environment: dict[str, str], moves: bool, colours: bool) -> None:
    """TERM and NO_COLOR are honoured."""
    assert (canMove(environment), canColour(environment)) == (moves, colours)


def test_columns() -> None:
    """A terminal of unknown width, and a stream that is not a terminal, count as 80 columns wide."""
    master, slave = pty.openpty()
    end, begin = os.pipe()
    try:
        assert columns(slave) == 80  # it has 0
        termios.tcsetwinsize(slave, (24, 132))
        assert columns(slave) == 132
        assert columns(end) == 80
    finally:
        for each in (master, slave, end, begin):
            os.close(each)


def test_keys() -> None:
    """The mode is taken, may be taken again, and is given back as it was; a terminal that has gone needs nothing."""
    master, slave = pty.openpty()
    try:
        before = termios.tcgetattr(slave)
        keys = Keys(slave)
        keys.giveBack()
        keys.take()
        keys.take()
        mode = termios.tcgetattr(slave)
        assert not mode[3] & (termios.ICANON | termios.ECHO)
        assert mode[3] & termios.ISIG
        keys.giveBack()
        keys.giveBack()
        assert termios.tcgetattr(slave) == before
        keys.take()
    finally:
        os.close(slave)
        os.close(master)
    keys.giveBack()
