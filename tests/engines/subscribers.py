"""Subscribers of servers over an engine: what a client sees that an engine alone cannot promise."""

from __future__ import annotations

import json
import random
from collections import deque
from contextlib import suppress

from tests.channels.listeners import Ear
from twisted_ws.channels.channels import Channels
from twisted_ws.channels.presence import AnswerBudget
from twisted_ws.errors import ChannelError
from twisted_ws.limits import Limits
from twisted_ws.server.callers import OpenCallers
from twisted_ws.server.node import LocalNode
from twisted_ws.testing.engines import Capability
from twisted_ws.wire.websocket.runtime import Runtime


class Witness(Ear):
    """Keeps a list of who is there, as a client does.

    Attributes:
        known: the users that it knows of; None before it is subscribed.
        early: what it was told before that.
        vain: what it was told and knew already.
    """

    def __init__(self) -> None:
        super().__init__()
        self.known = None
        self.early = []
        self.vain = []

    def begin(self, start, publications, who):
        super().begin(start, publications, who)
        self.known = {each.user for each in who["members"]}

    def tell(self, notices):
        for each in notices:
            found = json.loads(each.payload)
            user, isJoin = found["member"]["user"], found["type"] == "join"
            if self.known is None:
                self.early.append((found["type"], user))
            elif (user in self.known) is isJoin:
                self.vain.append((found["type"], user))
            elif isJoin:
                self.known.add(user)
            else:
                self.known.remove(user)


class Server:
    """The channels of one server."""

    def __init__(self, harness, **limits):
        self.limits = Limits(**limits)
        self.runtime = Runtime(harness.reactor, self.limits)
        self.node = LocalNode(OpenCallers(self.runtime.fanOuts), self.runtime.turns, "0")
        self.engine = harness.engine(self.node, self.limits)
        self.channels = Channels(self.engine, self.runtime)
        self.node.attach(self.channels)
        harness.wait(self.engine.start(self.node))


class SubscribersContract:
    """The tests, for the engines of a `Harness`."""

    def setup_method(self):
        self.harness = self.Harness()
        self.harness.setUp()
        self.servers = []

    def teardown_method(self):
        for server in self.servers:
            with suppress(ChannelError):
                self.harness.wait(server.engine.stop())
        self.harness.tearDown()

    def test_presenceFromTheFirst(self):
        """Whoever asks for presence while others come and go hears of nobody before `subscribed`, and misses nobody after it."""
        count = 2 if Capability.NODES in self.harness.capabilities else 1
        self.servers = [Server(self.harness, presenceDelay=0.1) for _ in range(count)]
        chance = random.Random(5)
        people, witnesses, left = deque(), [], set()
        # One stays, so that the engine passes the channel on from the start.
        for server in self.servers:
            self.harness.wait(server.channels.subscribe(Ear("0"), "a"))
        for number in range(1, 300):
            server = chance.choice(self.servers)
            ear = Ear(str(number))
            server.channels.subscribe(ear, "a")
            people.append((server, ear))
            if chance.randrange(3) and len(people) > 20:
                server, ear = people.popleft()
                server.channels.leave(ear)
                left.add(ear.caller.user)
            if not number % 3:
                server, witness = chance.choice(self.servers), Witness()
                server.channels.subscribe(witness, "a", None, None, AnswerBudget(server.limits))
                witnesses.append(witness)
            if not chance.randrange(4):
                self.harness.turn()
        present = {"0", *[ear.caller.user for _, ear in people]}
        for each in witnesses:
            assert self.harness.until(lambda each=each: each.known == present), (each.known or set()) ^ present
            assert each.early == []
