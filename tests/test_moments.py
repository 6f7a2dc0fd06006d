from __future__ import annotations

import os
import threading
from contextlib import suppress
from types import SimpleNamespace

from tests.moments import MOMENTS, memoryForAll, noMemory, spareReader


def test_spareReader() -> None:
    """A thread that reads what to test has the memory that others are denied: it loses no byte, and learns of the end."""
    descriptor, other = os.pipe()
    with open(descriptor) as stream:
        io = SimpleNamespace(infile=stream, _read=stream.buffer.read)
        heard: list[bytes] = []
        news = threading.Semaphore(0)

        def listen() -> None:
            while data := io._read(5):
                heard.append(data)
                news.release()

        os.write(other, b"first")
        spareReader(io)
        reader = threading.Thread(target=listen)
        reader.start()
        assert news.acquire(timeout=60)
        for number in MOMENTS:
            with suppress(MemoryError), noMemory(number):
                os.write(other, b"x")
                os.sched_yield()
            memoryForAll()
            assert news.acquire(timeout=60), number
        os.close(other)
        reader.join(60)
    assert not reader.is_alive()
    assert b"".join(heard) == b"first" + b"x" * len(MOMENTS)
