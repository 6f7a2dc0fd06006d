"""Which server is the primary now, as Sentinels know it."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import hiredis
from twisted.internet.defer import Deferred, inlineCallbacks

from twisted_ws.engines.redis.server.link import GREETING, Dialer, Unreachable
from twisted_ws.engines.redis.server.protocol import Lost
from twisted_ws.engines.redis.server.url import Address


@inlineCallbacks
def findPrimary(dialer: Dialer) -> Generator[Deferred[Any], Any, Address]:
    """Ask the Sentinels of a URL, one after the other, until one knows the primary.

    Raises:
        Unreachable: none does.
    """
    url = dialer.url
    why = ""
    for address in url.addresses:
        protocol = None
        try:
            protocol = yield dialer.dial(address)
            deadline = dialer.reactor.callLater(GREETING / 2, protocol.drop, "it does not answer")
            try:
                found = yield protocol.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", url.master)
            finally:
                if deadline.active():
                    deadline.cancel()
            if found:
                return Address(found[0].decode(), int(found[1]))
            why = why or "is not known to the Sentinels"
        except Unreachable as error:
            why = why or f"cannot be found: the Sentinel at {address} {error}"
        except hiredis.ReplyError as error:
            if str(error).startswith("NOAUTH"):  # only the server has our password
                why = why or f"cannot be found: the Sentinel at {address} requires a password, which is not supported"
            else:
                why = why or f"cannot be found: {address} is not a Sentinel"
        except (Lost, ValueError, TypeError, IndexError) as error:
            explained = dialer.explain(error, protocol)
            why = why or f"cannot be found: the Sentinel at {address} {explained}"
        finally:
            if protocol is not None:
                protocol.drop("asked")
    raise Unreachable(why)
