from __future__ import annotations

from typing import Any

import pytest

from tests.memory import clientFrame
from tests.wire.lanes import IMPLEMENTATIONS, LaneWorld
from twisted_ws import WebSocketService
from twisted_ws.wire.lane.group import EVENTS, LONGEST, SHARE
from twisted_ws.wire.loop.turns import TURN


@pytest.mark.parametrize(("others", "most"), [(0.001, TURN), (0.2, 0.2 / SHARE), (0.6, LONGEST), (60, LONGEST)])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_share(implementation: str, others: float, most: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """While clients wait, they get an eighth of the time that other work takes, within bounds."""
    cost, number = 0.001, 120

    class Service:
        handled = 0

        def onTextMessage(self, caller: Any, text: str) -> None:
            """Take so much time."""
            self.handled += 1
            world.reactor.rightNow += cost

    service = Service()
    world = LaneWorld(implementation, monkeypatch, service)
    try:
        for client in [world.connect() for _ in range(number)]:
            client.sendall(clientFrame(1, b"x"))
        (group,) = [reader for reader in world.reactor.getReaders() if reader is not world.port]
        taken: list[int] = []
        while service.handled < number:
            before = service.handled
            group.doRead()
            taken.append(service.handled - before)
            world.reactor.rightNow += others
            assert len(taken) <= number
    finally:
        world.close()
    # Nobody had waited for the first turn.
    assert taken[0] == EVENTS
    for each in taken[1:-1]:
        assert most <= each * cost < most + (EVENTS + 0.5) * cost


def test_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause in which no client waits makes no turn longer."""
    world = LaneWorld("python", monkeypatch, WebSocketService())

    def serve(events: int, now: float) -> int:
        rounds.append(events)
        world.reactor.rightNow += TURN / 2.5
        return events if left else 0

    rounds: list[int] = []
    group = world.server.runtime.group
    assert group is not None
    with monkeypatch.context() as patch:
        patch.setattr(group.sockets, "serve", serve)
        left = False
        group.doRead()
        world.reactor.rightNow += 100
        left = True
        group.doRead()
    assert len(rounds) == 1 + 3
    world.close()
