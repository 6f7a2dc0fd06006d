from __future__ import annotations

import random

import pytest

from tests.channels.listeners import Ear, LateEngine, World
from tests.dispatch.support import Turns
from twisted_ws.channels.channels import REFILL
from twisted_ws.engines.contract import EngineState, History
from twisted_ws.message import Position
from twisted_ws.wire.loop.turns import STEPS


class Sloppy(LateEngine):
    """An engine of one channel that repeats what it passes on, changes its order, loses some, and keeps only the newest."""

    def __init__(self, chance):
        super().__init__()
        self.chance = chance
        self.top = 0
        self.kept = chance.choice([5, 1000])
        self.loses = chance.choice([0, 0.15])
        self.waiting = []

    def publish(self):
        self.top += 1
        if self.watched and self.chance.random() >= self.loses:
            self.waiting.append(self.top)

    def passOn(self):
        if self.waiting:
            at = 0 if self.chance.random() < 0.8 else self.chance.randrange(len(self.waiting))
            self.receive(self.message(self.waiting[at]))
            if self.chance.random() < 0.9:
                del self.waiting[at]

    def answer(self):
        """Answer the question that has waited longest; return whether there was one."""
        for question, answer in zip(self.questions, self.asked, strict=True):
            if not answer.called:
                answer.callback(Position("e", self.top) if question[0] == "watch" else self.history(question[2]))
                return True
        return False

    def history(self, after):
        oldest = max(self.top - self.kept, 0)
        recovered = after.offset >= oldest
        after = after if recovered else Position("e", oldest)
        return History(after, recovered, [self.message(offset) for offset in range(after.offset + 1, self.top + 1)])

    def finish(self):
        """Pass all on, and one message more, so that every gap is seen."""
        self.publish()
        self.receive(self.message(self.top))
        while self.waiting or self.answer():
            self.passOn()


def check(ear, start, top):
    """Fail if a message is missing that is not said to be lost, comes twice, or comes too early."""
    last = start.position.offset
    for number, offset in enumerate(map(int, ear.heard)):
        isSaid = number < start.missed and not start.recovered
        assert offset > last
        assert offset == last + 1 or isSaid or any(each.offset == offset - 1 for each in ear.lossesAt)
        last = offset
    assert last == top


@pytest.mark.exhaustive
@pytest.mark.parametrize("hundreds", range(5))
def test_random(hundreds):
    """Whatever an engine repeats, loses and mixes up, each subscriber gets every message once and in order, or is told."""
    for seed in range(hundreds * 100, hundreds * 100 + 100):
        chance = random.Random(seed)
        engine = Sloppy(chance)
        world = World(engine=engine, historyMessages=chance.choice([0, 1000]))
        ears = []
        for _ in range(80):
            do = chance.choices(["publish", "pass on", "answer", "come", "leave"], [35, 25, 15, 15, 5])[0]
            if do == "publish":
                engine.publish()
            elif do == "pass on":
                engine.passOn()
            elif do == "answer":
                engine.answer()
            elif do == "come":
                ear, after = Ear(), chance.choice([None, f"e:{chance.randint(0, engine.top)}"])
                world.channels.subscribe(ear, "a", after).addErrback(lambda failure: None)
                ears.append(ear)
            elif ears:
                world.channels.leave(ears.pop(chance.randrange(len(ears))))
        engine.finish()
        for ear in ears:
            check(ear, ear.starts[0], engine.top)


def test_manyChannelsAreAskedForInTurns():
    """When an engine is there again, very many channels are asked for in as many turns as that takes; a second time, all anew."""
    engine = LateEngine()
    world = World(engine, clock=Turns(), channelsPerCaller=1000)
    ear = Ear()
    for number in range(1000):
        world.channels.subscribe(ear, str(number))
    for answer in engine.asked:
        answer.callback(Position("e", 0))
    world.clock.turn()
    most = STEPS // REFILL + 1

    def turn():
        """Return how many questions are asked in one turn."""
        before = len(engine.questions)
        world.clock.turn()
        return len(engine.questions) - before

    engine.questions.clear()
    engine.tell(EngineState.DOWN)
    engine.tell(EngineState.UP)
    assert 0 < len(engine.questions) <= most
    world.clock.turn()
    engine.tell(EngineState.DOWN)
    engine.tell(EngineState.UP)
    assert len(engine.questions) <= 3 * most
    assert max(turn() for _ in range(50)) <= most
    assert {channel for _, channel, *_ in engine.questions} == {*map(str, range(1000))}
