"""Whom the server would ask: key sets, applications, directories and the engine, each asked once."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.defer import TimeoutError as TookTooLong
from twisted.internet.threads import deferToThreadPool

from twisted_ws.access.asking.exchange import Unanswered
from twisted_ws.commands.check.findings import Report
from twisted_ws.daemon.loading.authenticators import makeAuthenticators
from twisted_ws.daemon.loading.engines import MEMORY, engineMaker
from twisted_ws.daemon.loading.outbox import outboxOptions
from twisted_ws.daemon.settings import Settings
from twisted_ws.engines.contract import Engine
from twisted_ws.errors import ChannelError, ConfigurationError
from twisted_ws.server.server import WebSocketServer
from twisted_ws.wire.websocket.runtime import Runtime

# Seconds for each of them to answer.
PATIENCE = 10.0


async def askAll(settings: Settings, report: Report, reactor: Any) -> None:
    """Ask all of them.

    Args:
        settings: the settings, which are right.
        report: gets the answers, and what is wrong.
        reactor: the reactor.
    """
    _, authenticators = makeAuthenticators(settings, reactor)
    for name, each in authenticators.items():
        probe = getattr(each, "probe", None)
        if probe is None:
            continue
        try:
            answer = await Deferred.fromCoroutine(probe()).addTimeout(PATIENCE, reactor)
        except TookTooLong:
            report.wrong("no-answer", f"authenticators.{name}: no answer within {PATIENCE:g} seconds")
        except Unanswered as error:
            report.wrong("no-answer", f"authenticators.{name}: {error.detail}")
        else:
            if answer:
                report.asked.append(f"authenticators.{name}: {answer}")
        if (stop := getattr(each, "stop", None)) is not None:
            await maybeDeferred(stop)
    if settings.engine != MEMORY:
        await _askEngine(settings, report, reactor)
    options = outboxOptions(settings)
    if options is not None:
        await _askOutbox(options(), settings, report, reactor)


async def _askOutbox(options: dict[str, Any], settings: Settings, report: Report, reactor: Any) -> None:
    """Look for the table, in a thread, as the server does."""
    import psycopg

    from twisted_ws.outbox.table import Table, TableMissing

    woken, wake = os.pipe()

    def look() -> bool:
        table = Table({**options, "connect_timeout": int(PATIENCE)}, settings.limits, woken)
        table.close()
        return bool(table.isPooled)

    try:
        isPooled = await deferToThreadPool(reactor, reactor.getThreadPool(), look)
    except (psycopg.Error, TableMissing) as error:
        report.wrong("no-answer", f"--outbox: {' '.join(str(error).split())}")
    else:
        report.asked.append("--outbox: the table is there")
        if isPooled:
            report.warn(
                "outbox.pooled", "--outbox: a connection pooler answers in place of PostgreSQL, and may lose notifications"
            )
    finally:
        os.close(woken)
        os.close(wake)


async def _askEngine(settings: Settings, report: Report, reactor: Any) -> None:
    """See that the engine answers, and how many nodes it has: those of the package are looked at, others have to be joined."""
    maker = engineMaker(settings)
    assert maker is not None  # it is not the one in memory
    try:
        look = getattr(maker(Runtime(reactor, settings.limits)), "look", None)
        if look is not None:
            count = len(await look().addTimeout(PATIENCE, reactor))
        else:
            count = await _join(maker, settings, reactor)
    except TookTooLong:
        report.wrong("no-answer", f"--engine: no answer within {PATIENCE:g} seconds")
    except (ConfigurationError, ChannelError) as error:
        report.wrong("no-answer", f"--engine: {error}")
    else:
        report.asked.append(f"--engine {settings.engine}: it answers; nodes: {count}")


async def _join(maker: Callable[[Runtime], Engine], settings: Settings, reactor: Any) -> int:
    """Join the engine as one more server without clients, leave again, and return how many others there are."""
    server = WebSocketServer(limits=settings.limits, engine=maker, reactor=reactor)
    try:
        await server.started().addTimeout(PATIENCE, reactor)
        asked = server.engine.nodes()
        return len(await asked if isinstance(asked, Deferred) else asked) - 1
    finally:
        await server.stop(0).addErrback(lambda failure: None).addTimeout(PATIENCE, reactor)
