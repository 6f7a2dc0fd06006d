"""The operator's tables about channels: what they change in services and channels, also while the server runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakValueDictionary

from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.logger import Logger

from twisted_ws.access.chain import Chain
from twisted_ws.access.namespaces import RATES, Namespaces
from twisted_ws.access.rates import PublicationRates, Rates
from twisted_ws.channels.channels import Channels
from twisted_ws.channels.options import ChannelOptions
from twisted_ws.channels.service import ChannelService
from twisted_ws.dispatch.interceptors import Interceptor
from twisted_ws.wire.websocket.runtime import Runtime

# The cost of looking at one subscriber, besides its channels, in steps of `Turns`.
JUDGING = 5
# Subscribers about whom a back end is asked at the same time after a change of rules: clients that come then wait for no more.
ASKING = 32


class ChannelRules:
    """What holds for channels by their names, and the services to which it is told.

    Args:
        tables: by pattern; see `twisted_ws.access.namespaces`.
        channels: the server's.
        rates: what counts for all tables.
        runtime: the server's.

    Attributes:
        rates: how much may be published; None if no table says so.

    Raises:
        ConfigurationError: a table is wrong.
    """

    _log = Logger()

    def __init__(self, tables: Mapping[str, Mapping[str, Any]], channels: Channels, rates: Rates, runtime: Runtime) -> None:
        self._channels = channels
        self._counted = rates
        self._runtime = runtime
        self._services: dict[str, ChannelService] = {}
        # Those and the ones that an onUpgrade has chosen, by their ids.
        self._guarded: WeakValueDictionary[int, ChannelService] = WeakValueDictionary()
        self.rates: PublicationRates | None = None
        self._read(tables)

    def _read(self, tables: Mapping[str, Mapping[str, Any]]) -> None:
        self._namespaces = namespaces = Namespaces(tables)
        self._tables = tables
        self.rates = PublicationRates(namespaces, self._counted) if namespaces.says(*RATES) else None
        self._channels.setOptions(ChannelOptions(namespaces, self._runtime.limits) if namespaces else None)

    def guard(self, path: str, service: ChannelService) -> None:
        """Let the rules decide for a service that is mounted, now and after each change."""
        self._services[path] = service
        self._guard(service)

    def adopt(self, service: object, chain: Chain | None, interceptors: tuple[Interceptor, ...]) -> None:
        """Let the rules decide for a service of channels that the onUpgrade of another has chosen, as for that one.

        Args:
            service: any service; one that is mounted itself, or was chosen before, stays as it is.
            chain: the authenticators of the one that is mounted.
            interceptors: its interceptors.
        """
        if isinstance(service, ChannelService) and id(service) not in self._guarded:
            service.permissions.chain, service.interceptors = chain, interceptors
            self._guard(service)

    def _guard(self, service: ChannelService) -> None:
        self._guarded[id(service)] = service
        permissions = service.permissions
        permissions.rates = self.rates
        self._channels.isGuarded |= permissions.guard(self._namespaces, permissions.chain is not None)

    def set(self, tables: Mapping[str, Mapping[str, Any]]) -> Deferred[None]:
        """Let other tables decide from now on: see `WebSocketServer.setChannelRules`."""
        if tables == self._tables:
            return succeed(None)
        self._read(tables)
        self._channels.isGuarded = False
        for each in [*self._guarded.values()]:
            self._guard(each)
        judging = Deferred.fromCoroutine(self._judgeAll())
        return judging.addErrback(
            lambda failure: self._log.failure("subscriptions were not checked", failure, event="channel.failed")
        )

    @property
    def restricted(self) -> list[str]:
        """The paths of services of channels where what no rule says is left to grants."""
        hasDefault = self._namespaces.find("*").pattern == "*"
        return [] if hasDefault else [path for path, each in self._services.items() if each.permissions.chain is not None]

    @property
    def unanswered(self) -> str | None:
        """The pattern of a rule that says ``ask``, if no service of channels has anybody to ask; else None."""
        chains = [each.permissions.chain for each in self._services.values()]
        return None if any(chain is not None and chain.canAsk for chain in chains) else self._namespaces.asking

    async def _judgeAll(self) -> None:
        asking: list[Deferred[None]] = []
        async for subscriber in self._runtime.turns.through(self._channels.subscribers(), JUDGING):
            if (asked := subscriber.judge()) is not None:
                asking.append(asked)
            if len(asking) >= ASKING:
                await DeferredList(asking, consumeErrors=True)
                asking.clear()
        await DeferredList(asking, consumeErrors=True)
