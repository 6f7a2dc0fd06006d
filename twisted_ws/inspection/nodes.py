"""The servers that work together: what each says of its process, and which do not answer."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET, Struct, UnsetType

from twisted_ws.inspection.asking import askAll
from twisted_ws.metrics.process import look
from twisted_ws.wire import speedups

if TYPE_CHECKING:
    from twisted_ws.server.server import WebSocketServer

# What `Engine.ask` is asked for.
KIND = "node"


class Process(Struct):
    """What a server says of its process."""

    node: str
    worker: int | None
    host: str
    pid: int
    cpu: float
    memory: int
    files: int
    filesLimit: int
    draining: bool
    compiled: bool


class Node(Struct, kw_only=True):
    """One server."""

    id: str
    connections: int
    started: int
    version: str
    answered: bool
    worker: int | UnsetType | None = UNSET
    host: str | UnsetType = UNSET
    pid: int | UnsetType = UNSET
    cpu: float | UnsetType = UNSET
    memory: int | UnsetType = UNSET
    files: int | UnsetType = UNSET
    filesLimit: int | UnsetType = UNSET
    draining: bool | UnsetType = UNSET
    compiled: bool | UnsetType = UNSET


_decode = msgspec.json.Decoder(Process).decode


def answerNode(server: WebSocketServer) -> None:
    """Let all servers with the same engine ask for the process of this one."""
    server.node.answers[KIND] = lambda payload: msgspec.json.encode(_process(server))


def _process(server: WebSocketServer) -> Process:
    process = look()
    return Process(
        server.node.id,
        server.node.worker,
        socket.gethostname(),
        os.getpid(),
        round(process.cpu, 2),
        process.rss,
        process.fds,
        process.maxFds,
        server.isStopping,
        speedups.compiled,
    )


async def nodes(server: WebSocketServer) -> list[Node]:
    """Return the servers, by id.

    Raises:
        ChannelError: the engine cannot be asked.
    """
    answers = await askAll(server, KIND)
    said = {each.node: each for each in map(_decode, answers.answers)}
    found = []
    for each in sorted(answers.nodes, key=lambda node: node.id):
        process = said.get(each.id)
        more = {} if process is None else msgspec.structs.asdict(process)
        more.pop("node", None)
        found.append(
            Node(
                id=each.id,
                connections=each.connections,
                started=int(each.started),
                version=each.version,
                answered=process is not None,
                **more,
            )
        )
    return found
