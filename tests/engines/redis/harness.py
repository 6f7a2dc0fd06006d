"""The engine with a real server, for the tests that all engines pass."""

from __future__ import annotations

import itertools

from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint

from tests.engines.redis.servers import VALKEY, Server
from tests.engines.redis.ways import Way
from twisted_ws.engines.redis.engine import RedisEngine
from twisted_ws.engines.redis.server.contact import Times
from twisted_ws.engines.redis.server.url import parseURL
from twisted_ws.testing.engines import Capability, ReactorHarness
from twisted_ws.testing.engines.harness import Data
from twisted_ws.wire.loop.wheel import Wheel

_numbers = itertools.count()


class RedisHarness(ReactorHarness):
    """What needs no fault of the server."""

    capabilities = frozenset({Capability.NODES, Capability.DEATH, Capability.VERSIONS})
    countDelay = 1.0
    byteTolerance = 0.2
    watchRest = 0.3
    times = Times(closed=0.02, probe=2.5, lease=5.0)
    lease = 7.5
    noticeAfter = 6.0
    binary = VALKEY
    servers = {}  # by binary
    stride = 1  # bytes between two cuts

    def setUp(self):
        self.prefix = f"t{next(_numbers)}"
        self.ways = {}
        self.nodes = {}
        self.engines = []
        self.replica = None
        self.server = self.servers.get(self.binary)
        if self.server is None:
            self.server = self.servers[self.binary] = Server(self.binary, **{"client-output-buffer-limit": "pubsub 32mb 8mb 5"})
        self.isSpoilt = False

    def tearDown(self):
        for way in self.ways.values():
            way.cut()
        if self.replica is not None:
            self.replica.close()
        if self.isSpoilt:
            self.servers.pop(self.binary).close()
        self.advance(0.05)

    def primary(self, reactor):
        return TCP4ClientEndpoint(reactor, "127.0.0.1", self.server.port)

    def engine(self, node, limits):
        way = Way(lambda reactor: self.primary(reactor))
        url = parseURL(f"redis://127.0.0.1:{way.port}?prefix={self.prefix}")
        engine = self.make(url, limits)
        self.ways[engine], self.nodes[engine] = way, node
        return engine

    def make(self, url, limits):
        wheel = Wheel(reactor)
        return RedisEngine(url, url.addresses[0], None, limits, wheel, reactor, self.times)

    def kill(self, engine):
        self.ways[engine].cut()
        engine.stop()  # which tells nobody any more

    def cut(self, engine):
        self.ways[engine].cut()

    def heal(self, engine):
        self.ways[engine].heal()

    def cutAfter(self, engine, count):
        return self.ways[engine].cutAfter(count * self.stride)

    def deafen(self, engine):
        self.ways[engine].deafen()
        name = f"twisted-ws-{self.nodes[engine].id}-subscriber"

        def held():
            lines = [line for line in self.server.ask("CLIENT", "LIST").split("\n") if f"name={name}" in line]
            return sum(int(field[5:]) for line in lines for field in line.split() if field.startswith("omem="))

        return held

    def lonely(self, node, limits):
        way = Way(lambda reactor: None)
        way.cut()
        return self.make(parseURL(f"redis://127.0.0.1:{way.port}?wait=2"), limits)

    def stall(self):
        self.isSpoilt = True
        self.server.stop()

    def goOn(self):
        self.server.goOn()

    def save(self):
        self.isSpoilt = True
        self.server.save()
        # A replica for failOver that is behind from now on.

    def restart(self, data):
        self.isSpoilt = True
        self.server.kill()
        if data is Data.OLDER:
            self.server.goBack()
        elif data is Data.EMPTY:
            self.server.forget()
        self.server.start()

    def failOver(self):
        self.isSpoilt = True
        # The copy that `save` made is what the replica has.
        replica = Server(self.binary, appendonly="no")
        replica.kill()
        older = self.server.directory + "/older.rdb"
        with open(older, "rb") as copy, open(replica.directory + "/dump.rdb", "wb") as target:
            target.write(copy.read())
        self.server.kill()
        replica.start()
        self.replica, self.server = self.server, replica
        self.servers[self.binary] = replica

    def publishNewer(self, channel):
        key = f"{self.prefix}:tw1:"
        text = (
            "local state = redis.call('GET', KEYS[1]) local e, g, o, at = struct.unpack('>c14c10d', state) o = o + 1 "
            "local record = struct.pack('>BBBc14BI8Bc8BI8BI8BI8', 155, 127, 174, e, 207, o, 168, 'another0', 207, 1, "
            "207, ARGV[1], 207, 0) .. ARGV[2] "
            "redis.call('SET', KEYS[1], struct.pack('>c14c10d', e, g, o) .. string.sub(state, at), 'KEEPTTL') "
            "redis.call('XADD', KEYS[2], '0-' .. o, 'd', record) redis.call('PUBLISH', KEYS[3], record)"
        )
        time = self.server.ask("TIME")[0] + "000"
        self.server.ask("EVAL", text, "3", f"{key}m:{channel}", f"{key}s:{channel}", f"{key}ch:{channel}", time, "...")


class FaultyHarness(RedisHarness):
    """Everything."""

    capabilities = RedisHarness.capabilities | {
        Capability.LINK,
        Capability.BYTES,
        Capability.DEAF,
        Capability.SERVER,
        Capability.DATA,
        Capability.FAILOVER,
    }
    times = Times(closed=0.4, probe=1.0, lease=3.0)
    lease = 4.5
    noticeAfter = 3.0
