"""What is done in one turn of the reactor."""

from __future__ import annotations

from typing import Any

import pytest

from twisted_ws.wire.loop.turns import Turns


class Counting:
    """Counts the calls of a method, in all and at most in one turn of the reactor.

    Args:
        turns: the budget of the reactor: a turn has begun when there is more of it than at the call before.
        monkeypatch: sets the method back.
        owner, name: the class that has it, and its name.
    """

    def __init__(self, turns: Turns, monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
        self.count = self.most = inTurn = left = 0
        method = getattr(owner, name)

        def counted(*arguments: Any) -> Any:
            nonlocal inTurn, left
            inTurn = 1 if turns.left > left else inTurn + 1
            left = turns.left
            self.count += 1
            self.most = max(self.most, inTurn)
            return method(*arguments)

        monkeypatch.setattr(owner, name, counted)
