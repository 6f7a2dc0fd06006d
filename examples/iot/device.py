"""A device: it measures, sends what it has measured, and keeps what nobody has confirmed."""

import itertools
import struct
import sys
import time
from collections import deque
from random import gauss

from twisted.internet.task import deferLater, react
from twisted_ws.client import ReadTimeout, Retry, connect

READING = struct.Struct(">IhB")
ANSWER = struct.Struct(">I")


async def main(reactor, name, url="wss://localhost:8443/sensors", count="0"):
    """Send a reading each second: so many, or without end."""
    kept = deque(maxlen=3600)  # an hour
    async with connect(url, trustStore="ca.pem", clientCertificate=f"{name}.pem", retry=Retry(), readTimeout=10) as client:
        for number in itertools.islice(itertools.count(1), int(count) or None):
            kept.append((int(time.time()), round(100 * gauss(21, 0.5)), 87))
            await client.writeBinaryMessage(b"".join(READING.pack(*each) for each in kept))
            try:
                (confirmed,) = ANSWER.unpack(await client.readBinaryMessage())
            except ReadTimeout:
                continue  # the answer was lost, with its connection: what is kept is sent again
            while kept and kept[0][0] <= confirmed:
                kept.popleft()
            print(f"reading {number} is confirmed", flush=True)
            await deferLater(reactor, 1)


react(main, sys.argv[1:])
