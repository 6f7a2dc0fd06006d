"""The servers that work together."""

from __future__ import annotations

import os

from twisted.internet.defer import Deferred

from tests.engines.hub.test_servers import Machine
from tests.web.worlds import World
from twisted_ws.inspection.answers import answerInspection
from twisted_ws.inspection.nodes import KIND, nodes


def test_process():
    """A server says of its process what an operator would look for on the machine."""
    world = World()
    answerInspection(world.server)
    (node,) = Deferred.fromCoroutine(nodes(world.server)).result
    assert (node.id, node.answered, node.worker, node.pid) == (world.server.node.id, True, None, os.getpid())
    assert node.memory > 1_000_000
    assert 0 < node.files < node.filesLimit
    assert node.draining is False


def test_stuck():
    """A worker that does not answer is in the list, as one that has not answered."""
    machine = Machine(2)
    for worker in machine.workers:
        answerInspection(worker.server)
        worker.server.node.worker = 1
    stuck = machine.workers[0].server
    stuck.node.answers[KIND] = lambda payload: Deferred()
    stuck.engine._link.answer("info", lambda: Deferred())
    later = Deferred.fromCoroutine(nodes(machine.hub))
    for _ in range(12):
        machine.clock.advance(0.25)
        machine.settle()
    assert {each.id: each.answered for each in later.result} == {
        stuck.node.id: False,
        machine.workers[1].server.node.id: True,
    }
