"""A request to a channels service, and what event streams and polls have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred

from twisted_ws.access.refusals import AccessRefused
from twisted_ws.channels.presence import AnswerBudget
from twisted_ws.channels.service import TOKEN_HEADER
from twisted_ws.errors import ChannelError, concerning
from twisted_ws.names import isPattern
from twisted_ws.web.http.errors import HttpError

if TYPE_CHECKING:
    from twisted_ws.access.rules import ChannelAccess
    from twisted_ws.access.tokens.claims import ChannelGrants
    from twisted_ws.channels.channels import Channels
    from twisted_ws.channels.service import ChannelService
    from twisted_ws.channels.visitor import Visitor
    from twisted_ws.message import Position
    from twisted_ws.server.server import WebSocketServer
    from twisted_ws.web.http.request import HttpRequest


@dataclass(frozen=True, slots=True)
class ChannelRequest:
    """A request that the service has admitted.

    Attributes:
        service: the service.
        visitor: passed to its hooks.
        names: the channels and patterns of the URL, each once.
        query: the query; of several values of one name, the last.
        access: what has decided for the service when the request came.
        path: the service's, as it was mounted.
    """

    service: ChannelService
    visitor: Visitor
    names: list[str]
    query: dict[str, str]
    access: ChannelAccess | None
    path: str = ""

    async def granted(self, request: HttpRequest) -> ChannelGrants | None:
        """Return what the subscription token of a request allows; None without one.

        Raises:
            ChannelError: the token is refused.
        """
        token = request.fields.get(TOKEN_HEADER)
        return None if token is None else await self.service.permissions.grantsOf(self.visitor, token)

    async def subscribe(
        self,
        subscriber: Any,
        infos: Mapping[str, Any],
        positions: Mapping[str, Position],
        room: AnswerBudget | None = None,
        last: Mapping[str, int] = MappingProxyType({}),
        granted: ChannelGrants | None = None,
    ) -> None:
        """Subscribe to all channels, or to none: then the subscriber leaves.

        Args:
            subscriber: an `EventSubscriber` or a `Poll`.
            infos: what presence tells about the visitor, by channel (see `ChannelService.permitAll`).
            positions: where to resume, by channel.
            room: what the users on the channels may take of the answer; None if that is not asked for.
            last: how many messages back to begin those without a position.
            granted: what must still count when all have begun; a stream ends those whose token does not.

        Raises:
            ChannelError: one of the channels is refused, or the server is stopping.
            HttpError: the credentials are no longer valid.
        """
        server = self.service.server
        try:
            _checkRuns(server)
            for name, info in infos.items():
                with concerning(name):
                    await server.channels.subscribe(
                        subscriber, name, positions.get(name), info, None if isPattern(name) else room, last.get(name)
                    )
            # Hooks and engines may have answered later: what begins now would not hear of a stop, or of a revocation.
            _checkRuns(server)
            self.requireValid(granted)
        except GeneratorExit:
            raise  # the whole server has been forgotten
        except BaseException:
            subscriber.leave()
            raise

    def requireValid(self, granted: ChannelGrants | None = None) -> None:
        """Refuse a visitor whose credentials have ended since they were looked at, or whom other rules have let in.

        Args:
            granted: what a subscription token has allowed, which must still count.

        Raises:
            HttpError: the credentials have ended.
            ChannelError: so has the token; or the rules have changed, and a client that tries again is judged by the new ones.
        """
        if self.service.permissions.access is not self.access:
            raise ChannelError("unavailable", "The rules have just changed.")
        if self.visitor.identity is not None:
            try:
                self.service.server.identities.requireValid(self.visitor.identity)
            except AccessRefused as refusal:
                raise refused(refusal) from None
            if granted is not None:
                self.service.permissions.requireValid(self.visitor, granted)


def refused(refusal: AccessRefused) -> HttpError:
    """Return a refusal as an answer."""
    more = {"reason": refusal.reason} if refusal.reason else None
    return HttpError(refusal.status, refusal.message, refusal.error, dict(refusal.headers), more, refusal.detail)


def _checkRuns(server: WebSocketServer) -> None:
    if server.isStopping:
        raise ChannelError("unavailable", "The server is stopping.")


async def presenceOf(channels: Channels, names: Iterable[str]) -> dict[str, Any]:
    """Return who is on each channel; together they have the room of one answer.

    Raises:
        ChannelError: the engine cannot be asked.
    """
    budget, found = AnswerBudget(channels.limits), {}
    for name in names:
        who = channels.who(name, room=budget)
        found[name] = await who if isinstance(who, Deferred) else who
    return found
