"""Why somebody may do something with a channel, or may not: the steps of the decision, as a person can follow them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from twisted_ws.channels.service import ChannelService
from twisted_ws.identity import Grants, Identity
from twisted_ws.inspection.asking import askAll
from twisted_ws.inspection.callers import find

if TYPE_CHECKING:
    from twisted_ws.access.rules import Step
    from twisted_ws.server.server import WebSocketServer

# What `Engine.ask` is asked for.
KIND = "explain"
WHAT_GRANTS = "credentials that grant it would be enough"


class Asked(Struct, frozen=True, omit_defaults=True):
    """What is to be explained.

    Attributes:
        action: one of `twisted_ws.access.namespaces.ACTIONS`.
        channel: a name; for "subscribe" also a pattern.
        connection: whom it is about, if they are connected; "" if `user`, `scopes` and `grants` say that.
        user: "" for a guest.
        scopes: what their credentials say.
        grants: the channels that these grant.
        service: the path of the service; "" for the caller's, or the first.
    """

    action: str
    channel: str
    connection: str = ""
    user: str = ""
    scopes: tuple[str, ...] = ()
    grants: tuple[str, ...] = ()
    service: str = ""


class ExplainedStep(Struct):
    """One step.

    Attributes:
        text: for a person.
        key: where the configuration file says so; [] for what is so by default.
    """

    text: str
    key: tuple[str, ...] = ()


class Explanation(Struct):
    """A decision.

    Attributes:
        allowed: None if the application would be asked.
        steps: in order.
        note: what else there is to say; None for nothing.
    """

    allowed: bool | None
    steps: list[ExplainedStep]
    note: str | None = None


def explain(
    path: str, service: ChannelService, action: str, channel: str, identity: Identity | None, subscribed: Sequence[str] = ()
) -> Explanation:
    """Return whether somebody may do something with a channel, and why; for the rest see `ChannelAccess.decide`.

    A service's own hooks, which can only refuse, are not asked.

    Args:
        path: where the service is mounted.
        service: the service.
        action: what.
        channel: with which channel.
        identity: who.
        subscribed: what they are subscribed to.
    """
    access = service.permissions.access
    if access is None:
        return Explanation(True, [], f"{path} has no rules and asks nobody for credentials: its service decides")
    steps: list[Step] = []
    allowed = access.decide(action, channel, identity, subscribed, steps)
    isGrantEnough = allowed is False and access.decide(action, channel, identity, subscribed, isGranted=True)
    return Explanation(allowed, [ExplainedStep(*each) for each in steps], WHAT_GRANTS if isGrantEnough else None)


_encode = msgspec.json.Encoder().encode
_decodeAsked = msgspec.json.Decoder(Asked).decode
_decode = msgspec.json.Decoder(Explanation).decode


def answerExplain(server: WebSocketServer) -> None:
    """Let all servers with the same engine ask this one, which may have the services that they have not."""
    server.node.answers[KIND] = lambda payload: _answer(server, _decodeAsked(payload))


def _answer(server: WebSocketServer, asked: Asked) -> bytes:
    subscribed: Sequence[str] = ()
    wanted = asked.service
    if asked.connection:
        caller = find(server, asked.connection)
        if caller is None:
            return b""
        identity, subscribed = caller.request.identity, caller.channels
        wanted = wanted or server.pathOf(caller.request.target) or ""
    else:
        grants = Grants(asked.grants)
        identity = Identity(asked.user, grants, grants, frozenset(asked.scopes))
    for path, service in server.services.items():
        if isinstance(service, ChannelService) and wanted in ("", path):
            return _encode(explain(path, service, asked.action, asked.channel, identity, subscribed))
    return b""


async def explainAnywhere(server: WebSocketServer, asked: Asked) -> Explanation | None:
    """Return what a server says that has the service, and the caller; None if there is no such service or caller.

    Raises:
        ChannelError: the engine cannot be asked.
    """
    answers = (await askAll(server, KIND, _encode(asked))).answers
    return _decode(answers[0]) if answers else None
