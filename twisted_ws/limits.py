"""Every limit of the server: its default, its unit, its reason, and what the peer gets beyond it.

The options reference in the documentation and the ``[limits]`` table of the configuration file are made from these fields,
so a limit is added here and nowhere else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from math import inf
from typing import Any

__all__ = ["Limits", "parseSize"]

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


def _limit(default: float, unit: str, beyond: str, reason: str, zero: str = "") -> Any:
    """Declare one limit; `beyond` is what happens past it, `zero` what 0 means where 0 is allowed."""
    return field(default=default, metadata={"unit": unit, "beyond": beyond, "reason": reason, "zero": zero})


@dataclass(frozen=True, slots=True)
class Limits:
    """All limits as values. ``Limits(maxMessageSize=65536)`` changes one and keeps the rest.

    Raises:
        ValueError: a value is negative, endless, not a number, or 0 where 0 has no meaning; the text names the limit.
    """

    # Admission
    maxConnections: int = _limit(
        0, "connections", "not accepted", "all ports together; each costs a descriptor and some KiB", "bounded by RLIMIT_NOFILE"
    )
    maxConnectionsPerIp: int = _limit(
        0, "connections", "closed at accept", "one address (IPv6: one /64) must not take all places", "no limit of its own"
    )
    descriptorReserve: int = _limit(
        64,
        "descriptors",
        "accepting pauses",
        "logs, certificates and the HTTP sites must still open files when the server is full",
    )
    backlog: int = _limit(
        1024,
        "connections",
        "the peer's system tries again",
        "not yet accepted, for each port: after a restart all clients come in one turn of the reactor",
    )
    # The head of a request
    requestLine: int = _limit(8 * KIB, "bytes", "414", "longer than any URL that browsers and proxies pass on reliably")
    head: int = _limit(16 * KIB, "bytes", "431", "the size that common servers and proxies take")
    headers: int = _limit(100, "headers", "431", "browsers send some 20")
    parameters: int = _limit(
        500,
        "parameters",
        "414",
        "of the query: as many channels as one may have, and more; each is made into texts when it is asked for",
    )
    headDeadline: float = _limit(
        10, "seconds", "closed (408 where HTTP can be spoken)", "TLS handshake and head together: slow heads hold descriptors"
    )
    tlsMessages: int = _limit(
        100,
        "messages",
        "dropped",
        "of TLS itself (new keys, alerts) in one read: each costs some 10 us, and OpenSSL takes all that have come",
    )
    upgradeDeadline: float = _limit(10, "seconds", "503", "onUpgrade may ask a back end, but not for ever")
    earlyBytes: int = _limit(
        64 * KIB, "bytes", "400", "a client must wait for the 101 (RFC 6455 section 4.1); what it sends before is kept in memory"
    )
    # HTTP bodies
    body: int = _limit(1 * MIB, "bytes", "413", "as large as the largest message")
    bodyDeadline: float = _limit(30, "seconds", "408", "a slow body holds a descriptor")
    keepAlive: float = _limit(60, "seconds", "closed", "an HTTP connection between two requests holds a descriptor")
    lingerDeadline: float = _limit(
        5,
        "seconds",
        "dropped, unless it is reading that",
        "after the last HTTP response: so long a peer may go on sending, so that it can read the answer",
    )
    lingerBytes: int = _limit(
        4 * MIB,
        "bytes",
        "dropped; a WebSocket is read no further, and dropped at closeDeadline",
        "the same, and after our Close: who sends what is refused reads the answer when it has sent it",
    )
    # Credentials
    credentialsDeadline: float = _limit(10, "seconds", "503", "a checker may ask a back end, but not for ever")
    authFailures: int = _limit(
        10, "failures/minute", "429", "wrong credentials from one address (IPv6: one /64): passwords must not be guessed"
    )
    # Messages
    maxMessageSize: int = _limit(1 * MIB, "bytes", "1009", "after inflation; a message is held in memory until it is whole")
    fragmentCharge: int = _limit(
        64,
        "bytes",
        "1009, or 413 by HTTP",
        "each fragment, and each chunk of a body, is charged this on top of its payload: empty fragments are not free",
    )
    jsonValues: int = _limit(
        100_000,
        "values",
        "1003, or 413",
        "of one JSON text that is made into objects, names of fields included: that is one call, in which nobody else is served. "
        "What a handler takes as text, bytes or msgspec.Raw is not counted, nor what is published and no onPublish looks at",
    )
    messageRate: int = _limit(0, "messages/second", "1008", "for each caller; a burst of one second is allowed", "no limit")
    controlRate: int = _limit(100, "frames/second", "1008", "pings and pongs cost as much as messages and carry nothing")
    readAhead: int = _limit(
        64 * KIB,
        "bytes",
        "reading pauses",
        "messages kept while an async handler runs, so that pings are still answered meanwhile",
    )
    streams: int = _limit(16, "iterators", "later messages wait", "replies that are being sent item by item to one caller")
    # Bytes that wait to be sent
    maxSendBuffer: int = _limit(
        1 * MIB,
        "bytes",
        "1013",
        "what one caller may leave unread; a message that waits is charged the objects around it, too: 112 bytes, 288 with a "
        "Deferred, 352 behind the outbox as a message of a channel",
    )
    maxSendBufferTotal: int = _limit(
        1 * GIB, "bytes", "1013 to the largest", "what all callers together may leave unread; answers by HTTP, too"
    )
    maxReceiveBufferTotal: int = _limit(
        1 * GIB,
        "bytes",
        "1013 or 503 to the largest",
        "what all peers together have sent in part, and what waits for an async handler: each may have a large message, and "
        "thousands may come",
    )
    replyBuffer: int = _limit(64 * KIB, "bytes", "reading pauses", "who does not read its replies is not read from")
    writeDeadline: float = _limit(30, "seconds", "dropped", "no progress on queued bytes: the peer is gone or does not read")
    # Channels
    channels: int = _limit(1_000_000, "channels", "503", "each costs some 460 bytes, and who may subscribe can make them up")
    channelsPerAddress: int = _limit(
        50_000,
        "channels",
        "429, or forgotten once left",
        "that nobody has published to, and that are there because one address (IPv6: one /64) has subscribed to them: it must "
        "not make up all that there can be; behind a proxy that is not trusted all callers have one address",
    )
    channelsPerCaller: int = _limit(128, "channels", "429", "for each connection; who needs more subscribes to a pattern")
    channelName: int = _limit(128, "characters", "400", "names stand in URLs and logs, and many of them in one Last-Event-ID")
    historyMessages: int = _limit(
        1000, "messages", "the oldest is forgotten", "kept for each channel, to be resumed from", "nothing is kept"
    )
    historyAge: float = _limit(300, "seconds", "forgotten", "a phone in a tunnel, a laptop that changes its network")
    historyBytes: int = _limit(
        1 * MIB,
        "bytes",
        "the oldest is forgotten",
        "kept for each channel; a message is charged 256 bytes on top of its payload and key",
    )
    historyTotal: int = _limit(
        256 * MIB,
        "bytes",
        "the channel that publishes keeps less",
        "kept for all channels together: many names must not fill the memory",
    )
    idempotencyAge: float = _limit(300, "seconds", "published again", "a publisher that had no answer tries again within that")
    idempotencyKeys: int = _limit(
        500_000,
        "keys",
        "503",
        "each costs 500 bytes, 1,000 with the longest key; one that was dropped early would publish a message twice",
    )
    fanOutLag: float = _limit(
        5,
        "seconds",
        "503",
        "messages for very many are sent in turns of the reactor: the work that may wait, as it is estimated; more would only be "
        "late. They take a quarter of maxSendBufferTotal at most",
    )
    subscriberLag: float = _limit(
        30, "seconds", "1013, or dropped by the policy", "the longest that a message of a channel may wait for a slow subscriber"
    )
    presenceDelay: float = _limit(
        5, "seconds", "the leave is told", "who is back by then was never away: a page loaded anew, another network"
    )
    reconnectDelay: float = _limit(
        1, "seconds", "", "told to clients: the base of the random time after which they come back; raise it for many clients"
    )
    # Answers by HTTP
    pollWait: float = _limit(
        60, "seconds", "400", "the longest that a poll may ask to wait: proxies cut what is silent for about as long"
    )
    answerMessages: int = _limit(1000, "messages", "the rest comes with the next", "in one answer to a poll, entries of a list")
    answerBytes: int = _limit(
        1 * MIB, "bytes", "the rest comes with the next", "messages in one answer: it is made whole, and held until it is read"
    )
    batchMessages: int = _limit(1000, "messages", "400", "published by one request: its answer waits for all of them")
    gzipFrom: int = _limit(1 * KIB, "bytes", "compressed where the client can", "below that an answer is one packet either way")
    # Times
    pingInterval: float = _limit(
        25,
        "seconds",
        "",
        "pings, and heartbeats of event streams: below the 30 to 60 s after which proxies and NATs forget an idle connection",
        "no pings, and nobody is asked whether it is there",
    )
    pingTimeout: float = _limit(
        10, "seconds", "dropped", "for a pong, or a machine's acknowledgement: a round trip on a bad mobile network, twice over"
    )
    closeDeadline: float = _limit(
        5,
        "seconds",
        "dropped, unless it is reading what was written before",
        "after our Close frame: a peer that never answers must not hold a descriptor",
    )
    handlerGrace: float = _limit(
        10,
        "seconds",
        "onClose is called at once",
        "after the close, for messages that came before it and still wait for a handler",
    )
    drainTimeout: float = _limit(
        30, "seconds", "dropped", "at a stop: the time for callers to answer our Close 1001", "no waiting"
    )
    reactorTurn: float = _limit(
        5, "seconds", "the log says where it hangs", "while a handler blocks the reactor, nobody is served; an async one does not"
    )

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            wanted = "a whole number" if each.type == "int" else "a number"
            number = isinstance(value, int if each.type == "int" else (int, float)) and not isinstance(value, bool)
            if not number or not 0 <= value < inf or (value == 0 and not each.metadata["zero"]):
                least = "0 or more" if each.metadata["zero"] else "more than 0"
                raise ValueError(f"{each.name} must be {wanted} of {each.metadata['unit']}, {least}, not {value!r}")


_SIZE = re.compile(r"([0-9]{1,15})\s*(?:([kmg])i?)?b?", re.IGNORECASE)


def parseSize(text: str) -> int:
    """Return the bytes that somebody has written: ``65536``, ``64KiB``, ``1 m``.

    Raises:
        ValueError: it is no size; the text says what would be.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError("a number of bytes, as 65536, 64KiB or 1MiB")
    return int(match[1]) << {"": 0, "k": 10, "m": 20, "g": 30}[(match[2] or "").lower()]
