"""A look at a server of the engine, by somebody who does not join: nothing is written, and nobody is told."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import hiredis
import msgspec
from twisted.internet.defer import Deferred, inlineCallbacks

from twisted_ws.engines.contract import NodeInfo
from twisted_ws.engines.redis.server.contact import checkGate
from twisted_ws.engines.redis.server.keys import Keys
from twisted_ws.engines.redis.server.link import Dialer, Unreachable, connect
from twisted_ws.engines.redis.server.protocol import Lost
from twisted_ws.engines.redis.server.scripts import NODES
from twisted_ws.engines.redis.server.sentinel import findPrimary
from twisted_ws.engines.redis.server.url import Address
from twisted_ws.errors import ConfigurationError


@inlineCallbacks
def look(dialer: Dialer, address: Address | None, keys: Keys) -> Generator[Deferred[Any], Any, list[NodeInfo]]:
    """Return the nodes that work with a server.

    Args:
        dialer: makes the connections.
        address: the server's; None: ask Sentinels.
        keys: the names.

    Raises:
        ConfigurationError: no node could work with it now. The text says which server, and why.
    """
    name = f"The engine's {f'primary {dialer.url.master}' if address is None else f'server {address}'}"
    link = None
    try:
        if address is None:
            address = yield findPrimary(dialer)
        link = yield connect(dialer, address, "twisted-ws-check")
        kind = yield link.commands.ask("TYPE", keys.gate)
        version = (yield link.commands.ask("HGET", keys.gate, "v")) if kind == b"hash" else None
        if kind != b"none":
            checkGate(keys, version)
        reply = yield link.call(NODES, (keys.leases, keys.nodes))
    except (ConfigurationError, Unreachable, Lost, hiredis.ReplyError) as found:
        error = str(dialer.explain(found, None)).removesuffix(".")
        raise ConfigurationError(f"{error if error.startswith('The engine') else f'{name} {error}'}.") from None
    finally:
        if link is not None:
            link.drop("looked")
    return nodesIn(reply)


def nodesIn(reply: list[bytes | None]) -> list[NodeInfo]:
    """Return the nodes that an answer of `NODES` has."""
    nodes = []
    for each in reply:
        try:
            nodes.append(msgspec.msgpack.decode(each or b"", type=NodeInfo))
        except ValueError:
            continue  # of another version
    return nodes
