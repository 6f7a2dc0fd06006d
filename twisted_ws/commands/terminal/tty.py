"""The terminal: what it can do, and the mode in which it delivers each key."""

from __future__ import annotations

import os
import termios
from collections.abc import Mapping
from typing import Any


def canMove(environment: Mapping[str, str]) -> bool:
    """Return whether a terminal supports the sequences that move its cursor."""
    return environment.get("TERM", "dumb") not in ("", "dumb")


def canColour(environment: Mapping[str, str]) -> bool:
    """Return whether to use colours (https://no-color.org: any value except an empty one means no)."""
    return canMove(environment) and not environment.get("NO_COLOR")


def columns(descriptor: int) -> int:
    """Return the width of a terminal."""
    try:
        return os.get_terminal_size(descriptor).columns or 80
    except OSError:
        return 80


class Keys:
    """Makes a terminal deliver each key as it is pressed, without echo; Ctrl-C and Ctrl-Z stay signals."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._before: list[Any] | None = None

    def take(self) -> None:
        """Begin, or begin again after another program (such as the shell after Ctrl-Z) has changed the mode."""
        mode = termios.tcgetattr(self._descriptor)
        if self._before is None:
            self._before = list(mode)
        mode[0] &= ~termios.IXON
        mode[3] &= ~(termios.ICANON | termios.ECHO | termios.IEXTEN)
        mode[6] = [*mode[6]]
        mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
        termios.tcsetattr(self._descriptor, termios.TCSADRAIN, mode)

    def giveBack(self) -> None:
        """Restore the terminal's mode."""
        before, self._before = self._before, None
        if before is not None:
            try:
                termios.tcsetattr(self._descriptor, termios.TCSANOW, before)
            except termios.error:
                pass  # it was hung up
