"""Callers and a publisher in plain Python, for a server that runs already: enough to see what a message costs it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from functools import partial
from statistics import quantiles

from tools.capacity.costs import Costs
from tools.capacity.model import Layout, Load, Machine, Traffic, forecast
from tools.capacity.processes import children, cpu, memory

__all__ = ["Seen", "Wanted", "compare", "load"]

_CHANNEL = "capacity-load"
_REQUEST = (
    b"GET /channels/%b HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: RmNX6Mdh0cnQqmc8am4nng==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_PATIENCE = 60.0
# Connections that are opened at the same time.
_OPENING = 64


@dataclass(frozen=True)
class Wanted:
    """What is asked of the server.

    Attributes:
        callers: subscribers of one channel.
        rate: messages per second.
        size: bytes of a message.
        seconds: for how long.
    """

    callers: int
    rate: float
    size: int
    seconds: float


@dataclass(frozen=True)
class Seen:
    """What happened.

    Attributes:
        workers: processes besides the first one.
        first: the cores that the first process took.
        rest: the cores that the others took.
        memory: bytes that the processes grew by for each caller.
        delivered: messages that arrived.
        p50: milliseconds from the POST to the caller.
        p99: the same.
        late: messages that the publisher sent more than 50 ms late.
    """

    workers: int
    first: float
    rest: float
    memory: float
    delivered: int
    p50: float
    p99: float
    late: int


class _Caller(asyncio.Protocol):
    """Counts messages; a message begins with the time at which it was published, as 20 digits."""

    def __init__(self, port: int, opened: asyncio.Future[None], waits: list[float]) -> None:
        self._request = _REQUEST % (_CHANNEL.encode(), port)
        self._opened = opened
        self._waits = waits
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._data += data
        if not self._opened.done():
            head, end, rest = self._data.partition(b"\r\n\r\n")
            if not end:
                return
            if b" 101 " not in head.partition(b"\r\n")[0]:
                self._opened.set_exception(ValueError(f"the server answered {head.partition(bytes((13,)))[0].decode()!r}"))
                return
            self._data = rest
            self._opened.set_result(None)
        while (frame := _frame(self._data)) is not None:
            opcode, payload, used = frame
            self._data = self._data[used:]
            if opcode == 1:
                self._waits.append(time.monotonic() - int(payload[:20]) / 1e9)
            elif opcode == 9:
                self._transport.write(bytes((0x8A, 0x80 | len(payload))) + bytes(4) + payload)

    def connection_lost(self, reason: Exception | None) -> None:
        if not self._opened.done():
            self._opened.set_exception(ValueError("the server closed a connection"))


def _frame(data: bytes) -> tuple[int, bytes, int] | None:
    """Return the first frame of a server: its opcode, its payload, and its length; None if it is not whole."""
    if len(data) < 2:
        return None
    size, at = data[1], 2
    if size >= 126:
        at = 4 if size == 126 else 10
        if len(data) < at:
            return None
        size = int.from_bytes(data[2:at])
    return (data[0] & 15, data[at : at + size], at + size) if len(data) >= at + size else None


async def _publish(port: int, wanted: Wanted) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /channels/{_CHANNEL} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: text/plain\r\n"
    late, began = 0, time.monotonic()
    for number in range(round(wanted.rate * wanted.seconds)):
        due = began + number / wanted.rate
        await asyncio.sleep(max(due - time.monotonic(), 0))
        late += time.monotonic() - due > 0.05
        body = f"{time.monotonic_ns():020}".ljust(wanted.size, ".")
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        answer = await reader.readuntil(b"\r\n\r\n")
        if b" 20" not in answer.partition(b"\r\n")[0]:
            raise ValueError(f"a POST was answered with {answer.partition(bytes((13,)))[0].decode()!r}")
        length = next(line for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.partition(b":")[2]))
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return late


async def _run(pid: int, port: int, posts: int, wanted: Wanted) -> Seen:
    loop = asyncio.get_running_loop()
    others = children(pid)
    before = memory([pid, *others])
    waits: list[float] = []
    transports = []
    for start in range(0, wanted.callers, _OPENING):
        opening = []
        for _ in range(min(_OPENING, wanted.callers - start)):
            opened = loop.create_future()
            transport, _ = await loop.create_connection(partial(_Caller, port, opened, waits), "127.0.0.1", port)
            transports.append(transport)
            opening.append(opened)
        await asyncio.wait_for(asyncio.gather(*opening), _PATIENCE)
    grown = (memory([pid, *others]) - before) / max(wanted.callers, 1)
    used, began = (cpu([pid]), cpu(others)), time.monotonic()
    late = await _publish(posts, wanted)
    expected = round(wanted.rate * wanted.seconds) * wanted.callers
    end = time.monotonic() + _PATIENCE
    while len(waits) < expected and time.monotonic() < end:
        await asyncio.sleep(0.01)
    passed = time.monotonic() - began
    first, rest = (cpu([pid]) - used[0]) / 1e6 / passed, (cpu(others) - used[1]) / 1e6 / passed
    for each in transports:
        each.abort()
    cuts = quantiles(waits, n=100) if len(waits) > 1 else [0.0] * 99
    return Seen(len(others), first, rest, grown, len(waits), cuts[49] * 1000, cuts[98] * 1000, late)


def load(pid: int, port: int, posts: int, wanted: Wanted) -> Seen:
    """Open callers of a channel, publish to it, and return what that took of the server.

    Raises:
        ValueError: the server refuses a caller or a message.
    """
    return asyncio.run(_run(pid, port, posts, wanted))


def compare(wanted: Wanted, seen: Seen, costs: Costs) -> str:
    """Return what was seen, beside what the model says of the same load."""
    layout = Layout(workers=seen.workers, machine=Machine())
    traffic = (Traffic("channel", wanted.rate, wanted.size, wanted.callers),)
    found = forecast(Load(wanted.callers, traffic=traffic), layout, costs)
    measured = seen.first + seen.rest
    lines = [
        f"delivered: {seen.delivered:,} of {round(wanted.rate * wanted.seconds) * wanted.callers:,}, {seen.late} published late",
        f"cores: {measured:.3f} measured, {found.cores:.3f} predicted: --factor {measured / found.cores:.2f}",
        f"memory of a connection: {seen.memory:,.0f} B measured, {costs.connection:,.0f} B predicted",
        f"delivery: p50 {seen.p50:.1f} ms, p99 {seen.p99:.1f} ms",
    ]
    if seen.workers:
        lines.insert(2, f"of these, the supervisor: {seen.first:.3f} measured, {found.part('the supervisor').used:.3f} predicted")
    return "\n".join(lines)
