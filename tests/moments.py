"""Code that runs in the middle of other code: by a finaliser, at a moment of one's choice; and allocations that fail."""

from __future__ import annotations

import gc
import itertools
import os
import resource
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

from twisted.internet.testing import MemoryReactorClock

try:
    from _testcapi import remove_mem_hooks, set_nomemory
except ImportError:  # which some distributions leave out
    set_nomemory = None

    def remove_mem_hooks() -> None:
        """Nothing is to be undone."""


__all__ = [
    "COLLECTS_AT_ONCE",
    "LARGE",
    "MOMENTS",
    "Moment",
    "ReactorClock",
    "collectAt",
    "holdCode",
    "memoryAgain",
    "memoryForAll",
    "noMemory",
    "settle",
    "spareReader",
]


class ReactorClock(MemoryReactorClock):
    """A reactor whose calls no finaliser adds to in the middle of sorting them: those of a real one are never sorted."""

    def _sortCalls(self) -> None:
        collects = gc.isenabled()
        gc.disable()
        try:
            super()._sortCalls()
        finally:
            if collects:
                gc.enable()


class _Session:
    """A cycle of garbage whose finaliser calls `action`, as an object of a service may be that says good-bye."""

    def __init__(self, action: Callable[[], object]) -> None:
        self.itself = self
        self.action = action

    def __del__(self) -> None:
        self.action()


class Moment:
    """Whether it came, and what the finaliser raised."""

    def __init__(self) -> None:
        self.came = False
        self.error: BaseException | None = None


@contextmanager
def collectAt(number: int, action: Callable[[], object]) -> Iterator[Moment]:
    """Have `action` called by a finaliser when `number` more objects were made that the collector counts.

    CPython 3.11 collects in the middle of the allocation, in C too; later versions between two instructions of Python, after a
    call, in a loop, or as a function begins (`COLLECTS_AT_ONCE`).
    """
    moment = Moment()

    def act() -> None:
        if not moment.came:
            moment.came = True
            try:
                action()
            except BaseException as error:
                moment.error = error

    threshold = gc.get_threshold()
    gc.disable()
    gc.freeze()  # nothing else is looked at, and found to be garbage, meanwhile
    try:
        _Session(act)
        lists: list[list[None]] = [[] for _ in range(200)]  # none is left that could be had without an allocation
        gc.set_threshold(gc.get_count()[0] + number, 1000, 1000)
        gc.enable()
        yield moment
        del lists
    finally:
        gc.disable()
        gc.set_threshold(*threshold)
        came, moment.came = moment.came, True  # one that has not come by now does nothing
        gc.collect()
        moment.came = came
        _thaw()
        gc.enable()
    if moment.error is not None:
        raise moment.error


# Whether a collection comes in the very allocation that makes it due; else what makes no call and has no loop sees none.
COLLECTS_AT_ONCE = sys.version_info < (3, 12)

# Enough for each of the allocations of what is tested with this; the last ones never come.
MOMENTS = range(60)

# Bytes of an object that cannot be made while `noMemory` is in force by the second of its ways.
LARGE = 100_000_000


_failures = itertools.count(1)  # of `noMemory`

# What makes functions, each held so often that it outlives as many of the faults that `holdCode` tells of.
_held: dict[int, list[CodeType]] = {}


_isFrozen = False


def settle() -> None:
    """Spare the collector of cycles all that is there by now: some tests have it run hundreds of times."""
    global _isFrozen
    gc.collect()
    holdCode()
    gc.freeze()
    _isFrozen = True


def _thaw() -> None:
    global _isFrozen
    gc.unfreeze()
    _isFrozen = False


def holdCode() -> None:
    """Hold the code of all functions that functions make, as far as they are known and not frozen (`gc.freeze`).

    CPython 3.12 and 3.13 give up the code of a function once too often where memory is short for the function (issue 122752 of
    CPython): soon it is freed, though it is in use.
    """
    if set_nomemory is None or sys.version_info < (3, 12):
        return
    codes = [each.__code__ for each in gc.get_objects() if isinstance(each, FunctionType)]
    for code in codes:  # which grows meanwhile
        for constant in code.co_consts:
            if isinstance(constant, CodeType) and id(constant) not in _held:
                _held[id(constant)] = [constant] * 1000
                codes.append(constant)


def memoryAgain() -> None:
    """End `noMemory` early, as for what a service itself does."""
    remove_mem_hooks()


# Held while memory is short, and by a thread of `spareReader` while it does anything but wait.
_memory = threading.Lock()

# The `noMemory` that holds it.
_holder: object = None


def _hold(holder: object) -> None:
    global _holder
    # A reader does not keep it for long, unless it has died.
    if _holder is not None or _memory.acquire(timeout=10):
        _holder = holder


def _release(holder: object) -> None:
    global _holder
    if _holder is holder and holder is not None:
        _holder = None
        _memory.release()


def memoryForAll() -> None:
    """Let others go on after a `noMemory` that does not know its end: it failed as it began, and its error keeps its frame."""
    _release(_holder)


def spareReader(io: Any) -> None:
    """Spare the thread that tells a worker of pytest-xdist what to test: without memory it would end, and all tests with it.

    Args:
        io: execnet's streams of the worker (`execnet.gateway_base.Popen2IO`).
    """
    stream = io.infile.buffer
    descriptor = stream.fileno()
    first = bytearray(1)
    buffers = [first]
    # It may be waiting in a read of its own; from the next one on, it has the lock.
    isOurs = False

    def wait() -> int:
        """Wait until there is something, and return whether it is a byte, now in `first`, or the end."""
        while True:
            _memory.release()
            try:
                return os.readv(descriptor, buffers)  # 0 or 1, which exist already
            except MemoryError:
                pass  # it had not begun to wait
            finally:
                _memory.acquire()

    def read(size: int) -> bytes:
        nonlocal isOurs
        if not isOurs:
            sys.settrace(None)  # what counts coverage needs memory itself
            _memory.acquire()
            isOurs = True
        os.set_blocking(descriptor, False)
        try:
            data: bytes = stream.read1(size)  # with what had come before this was used; nothing if nothing is there
        finally:
            os.set_blocking(descriptor, True)
        if data or wait():
            return data or bytes(first)
        isOurs = False
        _memory.release()  # it reads no more
        return b""

    io._read = read


@contextmanager
def noMemory(number: int = 0) -> Iterator[None]:
    """Let the allocation after the next `number` fail; where Python cannot do that, all that are `LARGE`.

    It may be one of the interpreter's own, or of a finaliser of others, whom nobody can raise anything to: that is no fault. What
    counts coverage does not look meanwhile: it would need memory itself.
    """
    if set_nomemory is not None:
        report, trace = sys.unraisablehook, sys.gettrace()

        def reportOthers(unraisable: Any) -> None:
            if not issubclass(unraisable.exc_type, MemoryError):
                report(unraisable)

        sys.unraisablehook = reportOthers
        sys.settrace(None)
        holder = object()
        _hold(holder)
        set_nomemory(number, number + 1)
        try:
            yield
        finally:
            remove_mem_hooks()
            _release(holder)
            sys.settrace(trace)
            sys.unraisablehook = report
        if next(_failures) % 8 == 0:
            # CPython has 16 of these exceptions ready. The next one, where so many are garbage or kept, is one for all that come
            # then, and from 3.12 on it keeps each frame that it ever went through, and a socket that is there.
            if _isFrozen:
                gc.collect()
            else:
                settle()
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + LARGE // 2, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
