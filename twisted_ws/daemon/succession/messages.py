"""What the next supervisor is told at its start, and the descriptors that it is given."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import msgspec

from twisted_ws.engines import historyfile
from twisted_ws.engines.hub import frames

# Of all that two supervisors say to each other, of what hub and workers do, and of what an engine keeps.
VERSION = 1
HUB = frames.VERSION
KEPT = historyfile.VERSION
# What it has: standard streams, the stream to the supervisor before it, these instructions, the stream to the keeper, what is to
# be its standard output and error, and from here on what listens.
STREAM = 3
INSTRUCTIONS = 4
KEEPER = 5
OUTPUT = 6
ERRORS = 7
FIRST = 8


class Place(msgspec.Struct, array_like=True):
    """Where the supervisor listens; see `twisted_ws.daemon.listening.addresses.ListenAddress`.

    Attributes:
        option, where, interface: of the address.
        descriptors: those of its sockets, as the next supervisor has them.
    """

    option: str
    where: str
    interface: str
    descriptors: list[int]


class Instructions(msgspec.Struct, array_like=True):
    """What the next supervisor is told at its start.

    Attributes:
        version, hub, kept: of what supervisors, and hub and workers say to each other, and of what goes over.
        program: the path of the program that was started first.
        arguments: of the service's command line.
        directory: where the process works, if it is not where it was started.
        logFile: of twistd; "" for standard output.
        endsBySignal: whether a signal that stops the server also is how its process ends, as with twistd.
        reactor: the module of the reactor.
        process: the number that the world knows.
        before: the version of the package that it takes over from.
        places: where it listens.
        control: the descriptor of the control socket, -1 without one.
        historyFile: the path of the history file; "" without one.
        lock: the descriptor of its lock, -1 without one.
        fixed: the settings that cannot change, by name.
    """

    version: int
    hub: int
    kept: int
    program: str
    arguments: list[str]
    directory: str
    logFile: str
    endsBySignal: bool
    reactor: str
    process: int
    before: str
    places: list[Place]
    control: int
    historyFile: str
    lock: int
    fixed: dict[str, str]


class Adopted(msgspec.Struct, array_like=True):
    """A worker that goes on.

    Attributes:
        slot: from 0.
        process: its number.
        isReady: whether it accepts connections.
        said: what it has told the hub of itself; None: nothing.
        begun: the beginning of a line of its log.
        hasHand: whether there is one to send it descriptors by.
        streams: the numbers of those that it writes to, as it has them.
    """

    slot: int
    process: int
    isReady: bool
    said: list[Any] | None
    begun: bytes
    hasHand: bool
    streams: list[int]


class HubState(msgspec.Struct, array_like=True):
    """What the supervisor has, besides descriptors, when it stops working.

    Attributes:
        number: that the hub has told last; None without a hub.
        addresses: those that workers report.
    """

    number: int | None
    addresses: list[Any]


def encode(instructions: Instructions) -> bytes:
    """Return it as bytes."""
    return msgspec.msgpack.encode(instructions)


def decode(data: bytes) -> Instructions:
    """Return what `encode` has made.

    Raises:
        ValueError: it is of another version; the text says so.
    """
    if tuple(msgspec.msgpack.decode(data)[:3]) != (VERSION, HUB, KEPT):
        raise ValueError("The new version cannot take over from the old one: restart the server.")
    return msgspec.msgpack.decode(data, type=Instructions)


def interpreter(program: str) -> str:
    """Return the interpreter of the next supervisor: the one beside the program that was started, if there is one.

    The path of the program may lead to another virtual environment by now, while `sys.executable` still names the old one.
    """
    beside = os.path.join(os.path.dirname(program), os.path.basename(sys.executable))
    return beside if os.path.isabs(program) and os.access(beside, os.X_OK) else sys.executable


def command(program: str) -> list[str]:
    """Return the command line of the next supervisor; options of this interpreter hold for it too.

    Args:
        program: the path of the program that was started.
    """
    flags: Any = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # as multiprocessing does
    return [interpreter(program), *flags, *(() if "-P" in flags else ("-P",)), "-m", "twisted_ws.daemon.succession"]
