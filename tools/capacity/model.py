"""The model: what a load takes of each part of a layout, and which part is full first. Values in, values out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import ceil, inf

from tools.capacity.costs import Costs, waking
from twisted_ws.limits import Limits

__all__ = [
    "Core",
    "Forecast",
    "Kind",
    "Layout",
    "Load",
    "Machine",
    "Part",
    "Traffic",
    "forecast",
    "kinds",
    "most",
    "plan",
    "together",
    "watching",
]

_GIB = 1024**3
# What one packet takes on a wire of Ethernet besides its payload: preamble and gap 20, Ethernet 18, IPv4 20, TCP 32.
PACKET = 90
# Payload of a TCP segment.
SEGMENT = 1448
# A TLS 1.3 record besides its payload: header 5, content type 1, tag 16.
RECORD = 22
# Bytes that a server sends for a connection from its SYN to its end, with all headers; with a full TLS handshake.
CONNECT_BYTES, CONNECT_TLS_BYTES = 700, 3500
# What a message in the history is charged on top of its payload (Limits.historyBytes).
HISTORY_CHARGE = 256
# What a message between the database and a node has besides its payload: its channel, position and kind.
_ENVELOPE = 100
# How many servers of Redis a plan may have.
_SHARDS = (1, 2, 4, 8, 16, 32, 64)
LIMITS = Limits()


@dataclass(frozen=True)
class Machine:
    """One machine for callers.

    Attributes:
        cores: its cores.
        memory: its GiB.
        network: its Gbit/s.
        packets: packets per second that it sends at most; clouds have such a limit.
        descriptors: those of one process (LimitNOFILE).
    """

    cores: int = 8
    memory: float = 32
    network: float = 10
    packets: float = 1_000_000
    descriptors: int = 1_048_576


@dataclass(frozen=True)
class Traffic:
    """Messages of one kind.

    Attributes:
        kind: "broadcast" to all callers; "channel" to `subscribers` callers each; "answer" to a caller's own message.
        rate: per second, over all channels, machines and callers.
        size: bytes of the payload.
        subscribers: of a channel.
    """

    kind: str
    rate: float
    size: float = 300
    subscribers: float = 1

    def __post_init__(self) -> None:
        if self.kind not in ("broadcast", "channel", "answer"):
            raise ValueError(f"a kind of message is broadcast, channel or answer, not {self.kind!r}")
        if self.rate < 0 or self.size < 0 or self.subscribers < 0:
            raise ValueError("rates, sizes and counts are 0 or more")


@dataclass(frozen=True)
class Load:
    """What comes.

    Attributes:
        connections: open at the same time.
        tls: the share of them that uses TLS up to the server; 0 if a proxy ends it.
        connects: new connections per second; as many leave.
        traffic: messages.
        pings: seconds between two pings (pingInterval).
        history: seconds for which messages of channels are kept (historyAge).
    """

    connections: float
    tls: float = 0
    connects: float = 0
    traffic: tuple[Traffic, ...] = ()
    pings: float = LIMITS.pingInterval
    history: float = LIMITS.historyAge


@dataclass(frozen=True)
class Layout:
    """What is there for it.

    Attributes:
        machines: for callers.
        workers: on each; 0: one process.
        shards: servers of Redis; 0: none.
        proxies: in front; 0: none.
        backends: addresses and ports of each machine that proxies connect to.
        ports: that a proxy has for connections to one address and port (net.ipv4.ip_local_port_range).
        machine: one of the machines.
    """

    machines: int = 1
    workers: int = 0
    shards: int = 0
    proxies: int = 0
    backends: int = 1
    ports: int = 28_232
    machine: Machine = field(default_factory=Machine)

    def __post_init__(self) -> None:
        if self.machines > 1 and not self.shards:
            raise ValueError("several machines need Redis: shards must be 1 or more")

    @property
    def processes(self) -> int:
        """How many processes have callers, over all machines."""
        return self.machines * max(self.workers, 1)


@dataclass(frozen=True)
class Part:
    """Something that can be full.

    Attributes:
        name: what it is.
        used: how much of it is taken.
        limit: how much there is.
        unit: of both.
    """

    name: str
    used: float
    limit: float
    unit: str

    @property
    def share(self) -> float:
        """How full it is: 1 is full, more does not fit."""
        return self.used / self.limit if self.limit else inf


@dataclass(frozen=True)
class Forecast:
    """What the model says.

    Attributes:
        parts: the fullest first.
        cores: busy on one machine for callers.
        memory: bytes on one machine for callers.
        deliveries: per second, over all machines.
        outgoing: bytes per second that one machine sends.
        comeback: seconds until the callers of one machine that has failed are connected to the others, if those spend all that
            they have left on it; infinite without others.
    """

    parts: tuple[Part, ...]
    cores: float
    memory: float
    deliveries: float
    outgoing: float
    comeback: float

    @property
    def first(self) -> Part:
        """What is full first when everything grows."""
        return self.parts[0]

    def part(self, name: str) -> Part:
        """Return a part by its name."""
        return next(part for part in self.parts if part.name == name)


class Core:
    """The work of one process: what comes, how often, and what it takes."""

    def __init__(self, wake: float) -> None:
        self._wake = wake
        self._events = 0.0
        self._work = 0.0
        self._alone = 0.0

    def add(self, rate: float, cost: float, wakes: bool = True, alone: float = 0) -> None:
        """Add what comes `rate` times in a second, takes `cost` microseconds, and wakes the process up if it sleeps.

        Args:
            rate: per second.
            cost: microseconds.
            wakes: whether it comes by itself.
            alone: microseconds more if it finds the process with nothing else to do.
        """
        self._events += rate * wakes
        self._work += rate * cost / 1e6
        self._alone += rate * alone / 1e6

    def busyBeside(self, others: float) -> float:
        """Return the share of the core that it takes if others on the same core take `others`."""
        awake = self._work + self._events * self._wake * waking(self._events, min(others, 1)) / 1e6
        # What is alone costs more: busy = awake + (1 - busy) * alone.
        return awake if awake >= 1 else (awake + self._alone) / (1 + self._alone)

    @property
    def busy(self) -> float:
        """Return the share of a core of its own; more than 1 does not fit."""
        return together(self)[0]


def together(*processes: Core) -> list[float]:
    """Return the shares that processes take of the core that they run on.

    An event costs more the longer the core has slept, and it sleeps less the more they cost: the shares are where both agree.
    """
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        if sum(each.busyBeside(middle) for each in processes) > middle:
            low = middle
        else:
            high = middle
    return [each.busyBeside(high) for each in processes]


def watching(processes: float, subscribers: float) -> float:
    """Return how many of the processes have at least one of the subscribers, who are spread by chance."""
    return processes * (1 - (1 - 1 / processes) ** subscribers) if processes > 1 else min(subscribers, 1)


def _onWire(size: float, tls: float) -> tuple[float, float]:
    """Return the bytes and packets of a message that is sent alone; `tls` is the share of callers with TLS."""
    frame = size + (2 if size < 126 else 4 if size < 65536 else 10)
    frame += tls * RECORD * ceil(frame / 16384)
    packets = ceil(frame / SEGMENT)
    return frame + packets * PACKET, packets


@dataclass(frozen=True)
class Kind:
    """What the messages of one kind are for the processes, in microseconds.

    Attributes:
        rate: publications per second, over all processes.
        often: how many of them reach one process with callers, per second.
        some: callers of such a process that get one.
        engine: what the supervisor or the database takes for one; 0 without either.
        publisher: what the node that publishes takes, if that is not the engine.
        before: what the process takes before the first delivery.
        deliver: what it takes for each.
        there: how many processes hear of one.
        traffic: what it was made from.
    """

    rate: float
    often: float
    some: float
    engine: float
    publisher: float
    before: float
    deliver: float
    there: float
    traffic: Traffic


def kinds(load: Load, layout: Layout, costs: Costs) -> list[Kind]:
    """Return what is published, as the processes of a layout see it."""
    processes = layout.processes
    crowd = costs.crowdFactor(load.connections / processes)
    found = []
    for each in load.traffic:
        if each.kind == "answer":
            continue
        size = each.size
        to = load.connections if each.kind == "broadcast" else min(each.subscribers, load.connections)
        there = float(processes) if each.kind == "broadcast" else watching(processes, to)
        publisher = 0.0
        if layout.shards:
            publisher = costs.nodePublish.of(size)
            engine = costs.redisPublish.of(size) + there * costs.redisNode.of(size)
            before = costs.nodeReceive.of(size)
        elif layout.workers:
            engine = costs.hubPublish.of(size) + there * costs.hubWorker.of(size)
            before = costs.receive.of(size)
        else:
            engine, before, there = 0.0, costs.publish.of(size) + costs.begin, 1.0
        some, often = to / there if there else 0.0, each.rate * there / processes
        deliver = crowd * ((1 - load.tls) * costs.deliver.of(size) + load.tls * costs.deliverTls.of(size))
        found.append(Kind(each.rate, often, some, engine, publisher, before, deliver, there, each))
    return found


def forecast(load: Load, layout: Layout, costs: Costs) -> Forecast:
    """Return what a load takes of each part of a layout."""
    processes, machine = layout.processes, layout.machine
    here = load.connections / processes
    caller = Core(costs.wake)  # a worker, or the only process
    hub = Core(costs.nodeWake if layout.shards else costs.hubWake)
    database = Core(costs.redisWake)
    outgoing = packets = deliveries = engineOut = kept = 0.0

    for each in kinds(load, layout, costs):
        traffic = each.traffic
        caller.add(each.often, each.before + each.some * each.deliver)
        if layout.shards:
            (hub if layout.workers else caller).add(each.rate / layout.machines, each.publisher)
            # A broadcast belongs to no channel: the first server has all of them.
            share = each.rate if traffic.kind == "broadcast" else each.rate / layout.shards
            database.add(share, each.engine)
            engineOut += share * each.there * _onWire(traffic.size + _ENVELOPE, 0)[0]
        elif layout.workers:
            hub.add(each.rate, each.engine, alone=each.there * costs.hubAlone)
        if traffic.kind == "channel":
            kept += each.rate * load.history * (traffic.size + HISTORY_CHARGE)
        size, number = _onWire(traffic.size, load.tls)
        to = each.rate * (load.connections if traffic.kind == "broadcast" else min(traffic.subscribers, load.connections))
        deliveries += to
        outgoing += to * size / layout.machines
        packets += to * number / layout.machines
    for traffic in load.traffic:
        if traffic.kind == "answer":
            cost = (1 - load.tls) * costs.answer.of(traffic.size) + load.tls * costs.answerTls.of(traffic.size)
            caller.add(traffic.rate / processes, cost)
            size, number = _onWire(traffic.size, load.tls)
            deliveries += traffic.rate
            outgoing += traffic.rate * size / layout.machines
            packets += traffic.rate * number / layout.machines

    pinged = here / load.pings if load.pings else 0
    # What they cost was measured as they come, several in one turn.
    caller.add(pinged, (1 - load.tls) * costs.ping + load.tls * costs.pingTls, wakes=False)
    connecting = (1 - load.tls) * costs.connect + load.tls * costs.connectTls
    caller.add(load.connects / processes, connecting, wakes=False)
    outgoing += pinged * processes / layout.machines * (PACKET + 10 + load.tls * RECORD)
    outgoing += load.connects / layout.machines * ((1 - load.tls) * CONNECT_BYTES + load.tls * CONNECT_TLS_BYTES)

    busy = caller.busy * max(layout.workers, 1) + hub.busy
    perConnection = (1 - load.tls) * costs.connection + load.tls * costs.connectionTls + costs.socket
    memory = load.connections / layout.machines * perConnection
    memory += costs.hub + layout.workers * costs.worker if layout.workers else costs.process
    if not layout.shards:
        memory += min(kept, LIMITS.historyTotal)

    parts = [
        Part("each worker" if layout.workers else "the process", caller.busy, 1, "cores"),
        Part("all cores of a machine", busy, machine.cores, "cores"),
        Part("memory of a machine", memory / _GIB, machine.memory, "GiB"),
        Part("network of a machine", outgoing * 8 / 1e9, machine.network, "Gbit/s"),
        Part("packets of a machine", packets, machine.packets, "packets/s"),
        Part("descriptors of a process", here, machine.descriptors - LIMITS.descriptorReserve, "connections"),
    ]
    if layout.workers:
        parts.append(Part("the supervisor", hub.busy, 1, "cores"))
    if layout.shards:
        parts.append(Part("the first server of Redis", database.busy, 1, "cores"))
        parts.append(Part("network of the first server of Redis", engineOut * 8 / 1e9, machine.network, "Gbit/s"))
    if layout.proxies:
        places = layout.proxies * layout.machines * layout.backends * layout.ports
        parts.append(Part("ports of the proxies", load.connections, places, "connections"))
    return Forecast(
        tuple(sorted(parts, key=lambda part: -part.share)),
        busy,
        memory,
        deliveries,
        outgoing,
        _comeback(load, layout, connecting, busy, caller.busy),
    )


def _comeback(load: Load, layout: Layout, connecting: float, busy: float, caller: float) -> float:
    if layout.machines == 1:
        return inf
    perWorker = 1 - caller * layout.machines / (layout.machines - 1)
    perMachine = min(perWorker * max(layout.workers, 1), layout.machine.cores - busy * layout.machines / (layout.machines - 1))
    if perMachine <= 0:
        return inf
    return load.connections / layout.machines * connecting / 1e6 / (perMachine * (layout.machines - 1))


def _layouts(machine: Machine, most: int, shards: Iterable[int], proxied: bool) -> Iterable[Layout]:
    """Yield layouts, the simplest first: one process, workers, then more and more machines."""
    workers = max(machine.cores - 1, 1)
    yield Layout(machine=machine, proxies=int(proxied))
    yield Layout(machine=machine, workers=workers, proxies=int(proxied))
    machines, servers = 2, tuple(shards)
    while machines <= most:
        for count in servers:
            proxies = max(ceil(machines / 4), 2) if proxied else 0
            yield Layout(machines, workers, count, proxies, backends=workers, machine=machine)
        machines += max(machines // 20, 1)


def plan(
    load: Load,
    machine: Machine,
    costs: Costs,
    target: float = 0.6,
    without: float = 0.8,
    limit: int = 2000,
    proxied: bool = False,
) -> tuple[Layout, Forecast]:
    """Return the first layout that holds a load.

    Args:
        load: what comes.
        machine: what one machine is.
        costs: of the model.
        target: how full any part may be.
        without: how full any part may be while one machine of several is missing.
        limit: machines.
        proxied: whether there are proxies in front.

    Raises:
        ValueError: none does, with that many machines; the text names what is full.
    """
    last: Forecast | None = None
    for layout in _layouts(machine, limit, _SHARDS, proxied):
        found = forecast(load, layout, costs)
        if found.first.share > target:
            last = found
            continue
        if layout.machines > 1:
            fewer = Layout(
                layout.machines - 1, layout.workers, layout.shards, layout.proxies, layout.backends, layout.ports, machine
            )
            if forecast(load, fewer, costs).first.share > without:
                continue
        return layout, found
    name = last.first.name if last is not None else "nothing"
    raise ValueError(f"{limit} machines do not hold it: full is {name}")


def most(load: Load, layouts: Iterable[Layout], costs: Costs, target: float = 0.8) -> tuple[float, Layout, Forecast]:
    """Return how many times a load's traffic fits, in which layout, and what the forecast of that is.

    Args:
        load: its messages and connects grow; its connections stay.
        layouts: to choose from.
        costs: of the model.
        target: how full any part may be.
    """

    def times(factor: float) -> Load:
        traffic = tuple(Traffic(each.kind, each.rate * factor, each.size, each.subscribers) for each in load.traffic)
        return Load(load.connections, load.tls, load.connects * factor, traffic, load.pings, load.history)

    best: tuple[float, Layout, Forecast] | None = None
    for layout in layouts:
        low, high = 0.0, 1e6
        for _ in range(50):
            middle = (low + high) / 2
            if forecast(times(middle), layout, costs).first.share > target:
                high = middle
            else:
                low = middle
        if best is None or low > best[0]:
            best = low, layout, forecast(times(low), layout, costs)
    if best is None:
        raise ValueError("there is no layout to choose from")
    return best
