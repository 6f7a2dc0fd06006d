"""Thousands of callers that lose their server at the same time: what they do to the one that they come back to."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import zip_longest
from pathlib import Path
from typing import Any

from bench.places import BUILD
from tools.capacity.processes import cpu
from tools.capacity.stage import Node, node, settle

__all__ = ["FILE", "storm"]

FILE = Path(__file__).with_name("storm.json")
_HERE = Path(__file__).parent
_PATH = "/channels/news"
# Each process of callers has its own source addresses, and fewer callers than one process has descriptors here.
_ADDRESSES = 6
_MOST = 18_000
# Those who stay, and get messages meanwhile.
_STAYING, _RATE = 200, 20


def _compile() -> Path:
    program, source = BUILD / "storm", _HERE / "storm.c"
    subprocess.run(["cc", "-O2", "-o", program, source], check=True)
    return program


def _sum(lists: Sequence[Sequence[int]]) -> list[int]:
    return [sum(each) for each in zip_longest(*lists, fillvalue=0)]


def _most(tenths: Sequence[int]) -> int:
    """Return the most in any second."""
    return max((sum(tenths[start : start + 10]) for start in range(len(tenths))), default=0)


def storm(callers: int, workers: int, wait: float, rate: int, seconds: float = 90) -> dict[str, Any]:
    """Let callers lose one server and come back to another, and return what happened.

    Args:
        callers: how many.
        workers: of each server.
        wait: the longest random time, in seconds, before a caller comes back.
        rate: at which the first server asks its callers to leave (drainRate); 0: it is killed.
        seconds: how long that may take.
    """
    settle()
    program = _compile()
    with ExitStack() as stack:
        settings = BUILD / "storm.toml"
        settings.write_text(f"drain-timeout = {seconds}\n[limits]\ndrainRate = {rate or 5000}\n")
        old, new = (stack.enter_context(node("--config", str(settings), workers=workers, core=-1)) for _ in range(2))
        crowds = _crowds(stack, program, (old, new), callers, wait, seconds)
        fanOut = [BUILD / "wsload", "-g", "-k", "fanout", "127.0.0.1", new.ws, "/channels/staying", _STAYING]
        # As long as all the callers need to come back, as far as it can be known before.
        length = callers / rate + wait + 2 if rate else 10
        staying = _start(stack, *fanOut, length)
        assert staying.stderr is not None
        staying.stderr.readline()
        _start(stack, BUILD / "wspub", "127.0.0.1", new.http, "/channels/staying", 125, length + 3, _RATE)
        time.sleep(1)
        parts = {"old": [old.pid, *old.workers], "new": [new.pid, *new.workers]}
        before = {name: cpu(pids) for name, pids in parts.items()}
        began = time.monotonic()
        for each in [*crowds, staying]:
            each.send_signal(signal.SIGUSR1)
        if rate:
            subprocess.run(["kill", "-TERM", str(old.pid)], check=True)
        else:
            subprocess.run(["kill", "-KILL", *map(str, parts["old"])], check=True)
        found = [json.loads(each.stdout.readline()) for each in crowds if each.stdout is not None]
        took = time.monotonic() - began
        used = (cpu(parts["new"]) - before["new"]) / 1e6
        assert staying.stdout is not None
        line = staying.stdout.readline()
    back, left = _sum([each["back"] for each in found]), _sum([each["left"] for each in found])
    return {
        "callers": callers,
        "rate": rate,
        "wait": wait,
        "seconds": round(took, 2),
        "came back": sum(back),
        "left, most in a second": _most(left),
        "back, most in a second": _most(back),
        "failed attempts": sum(each["failed"] for each in found),
        "came by a later attempt": sum(each["again"] for each in found),
        "handshake p50 ms": max(each["p50"] for each in found),
        "handshake p99 ms": max(each["p99"] for each in found),
        "handshake longest ms": max(each["longest"] for each in found),
        "handshakes over 1 s": sum(each["late"] for each in found),
        "cores of the new server": round(used / took, 2),
        "CPU for each, us": round(used / callers * 1e6, 1),
        "those who stay": line.strip(),
        "left each tenth": left,
        "back each tenth": back,
    }


def _start(stack: ExitStack, *words: object) -> subprocess.Popen[str]:
    process = subprocess.Popen([str(word) for word in words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def end() -> None:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()

    stack.callback(end)
    return process


def _crowds(
    stack: ExitStack, program: Path, nodes: tuple[Node, Node], callers: int, wait: float, seconds: float
) -> list[subprocess.Popen[str]]:
    crowds = []
    count = -(-callers // _MOST)
    old, new = nodes
    for number in range(count):
        part = callers // count + (number < callers % count)
        crowds.append(_start(stack, program, old.ws, new.ws, _PATH, part, _ADDRESSES, number + 1, wait, seconds))
    for each in crowds:
        assert each.stderr is not None
        if (said := each.stderr.readline().strip()) != "open":
            raise RuntimeError(f"the callers say {said!r}")
    return crowds
