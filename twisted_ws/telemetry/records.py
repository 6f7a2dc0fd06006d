"""An event of the log as a record: what every line has, what is known besides, and the last records that ask for attention."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent
from zope.interface import implementer

from twisted_ws.limits import KIB
from twisted_ws.logs import shown
from twisted_ws.telemetry import tracing

# Characters of one field; of the message and of the traceback, each about as many as `shown` keeps.
VALUE = 512
TEXT = 32 * KIB
# The last warnings and errors that are kept, and the characters of the message and the traceback of each: 2 MB in all at most.
RECENT = 200
RECENT_TEXT = 4 * KIB
# The event of a line that is not one of ours: what a service, Twisted or another library logs without a word of its own.
OTHER = "other"

# What a field may be: text, or a number.
Value: TypeAlias = str | int | float | None


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the log.

    The fields that have a default are there only where they are known. Their list is closed: an event of the log may have others,
    for its text, and they end there.
    """

    time: Annotated[str, Meta(description="UTC, ISO 8601, milliseconds")]
    level: Annotated[str, Meta(description="`debug`, `info`, `warn`, `error`, `critical`")]
    namespace: Annotated[str, Meta(description="the module or class that wrote it")]
    event: Annotated[str, Meta(description="what has happened, in one word that stays the same: see below")]
    message: Annotated[str, Meta(description="the text, which may change from version to version")]
    connection: Annotated[Value, Meta(description="the id of the connection: `caller.connectionId`")] = None
    service: Annotated[Value, Meta(description="the class of the service")] = None
    handler: Annotated[Value, Meta(description="the method of the service, such as `onTextMessage`")] = None
    path: Annotated[Value, Meta(description="the path of the request, without its query")] = None
    method: Annotated[Value, Meta(description="the method of the request")] = None
    peer: Annotated[
        Value, Meta(description="the IP address of the client; behind a trusted proxy, the one that the proxy gives")
    ] = None
    origin: Annotated[Value, Meta(description="the `Origin` of the request")] = None
    user: Annotated[Value, Meta(description="who the client is; only with `--log-users on`")] = None
    code: Annotated[Value, Meta(description="the close code of a WebSocket, or the code of an error of a channel")] = None
    status: Annotated[Value, Meta(description="the status of an HTTP response")] = None
    reason: Annotated[Value, Meta(description="why, in words")] = None
    duration: Annotated[Value, Meta(description="seconds")] = None
    bytes: Annotated[Value, Meta(description="how many bytes it is about")] = None
    count: Annotated[Value, Meta(description="how many it is about")] = None
    channel: Annotated[Value, Meta(description="the name of a channel")] = None
    key: Annotated[Value, Meta(description="the name of an API key, or of a user with a password")] = None
    by: Annotated[Value, Meta(description="the name of an authenticator")] = None
    operation: Annotated[Value, Meta(description="the operation of the HTTP API, as in its OpenAPI document")] = None
    file: Annotated[Value, Meta(description="the path of a file")] = None
    url: Annotated[Value, Meta(description="where the server listens, or what it asks")] = None
    name: Annotated[Value, Meta(description="the name of a server, node or worker that it is about")] = None
    suppressed: Annotated[
        Value,
        Meta(description="how many lines of this event and service were left out before this one, because they came too fast"),
    ] = None
    worker: Annotated[Value, Meta(description="the number of the worker that it is from, beginning with 1")] = None
    trace: Annotated[Value, Meta(description="the trace id, if this belongs to a trace")] = None
    span: Annotated[Value, Meta(description="the span id, if this belongs to a trace")] = None
    traceback: Annotated[Value, Meta(description="of an exception, or where the reactor is stuck")] = None


# The fields that an event of the log may have.
FIELDS = Record.__struct_fields__[5:]
_FIELDS = tuple(name for name in FIELDS if name != "traceback")


def recordOf(event: LogEvent, users: bool = False) -> Record:
    """Return an event of the log as a record; what could not be shown safely is escaped, and long texts are shortened.

    Args:
        event: the event. One that has its record already, as those of workers have, keeps it.
        users: whether the record says who somebody is.
    """
    record = event.get("log_record")
    if isinstance(record, Record):
        return record
    found: dict[str, Any] = {} if tracing.tracer is None else tracing.ofContext()
    for name in _FIELDS:
        value = event.get(name)
        if value is not None and value != "" and (value or name != "suppressed") and (users or name != "user"):
            found[name] = value if type(value) in (int, float) else shown(str(value), VALUE)
    failure, traceback = event.get("log_failure"), event.get("traceback")
    if failure is not None:
        traceback = failure.getTraceback()
    if traceback is not None:
        found["traceback"] = shown(str(traceback), TEXT)
    return Record(
        time=datetime.fromtimestamp(event.get("log_time", 0), UTC).isoformat(timespec="milliseconds"),
        level=getattr(event.get("log_level"), "name", "info"),
        namespace=shown(str(event.get("log_namespace", "")), VALUE),
        event=shown(str(event.get("event", OTHER)), VALUE),
        message=shown(formatEvent(event), TEXT),
        **found,
    )


@implementer(ILogObserver)
class RecentRecords:
    """The last warnings and errors of the log, for whoever looks at the server: at most `RECENT`, shortened to `RECENT_TEXT`.

    Args:
        users: whether they say who somebody is.

    Attributes:
        total: how many there have been since the start, also those that are not kept any more.
    """

    def __init__(self, users: bool = False) -> None:
        self._users = users
        self._records: deque[Record] = deque(maxlen=RECENT)
        self.total = 0

    def __call__(self, event: LogEvent) -> None:
        """Keep an event if it is a warning or worse."""
        if event.get("log_level", LogLevel.info) < LogLevel.warn:
            return
        record = recordOf(event, self._users)
        texts = {"message": shown(record.message, RECENT_TEXT)}
        if record.traceback is not None:
            texts["traceback"] = shown(str(record.traceback), RECENT_TEXT)
        self._records.append(msgspec.structs.replace(record, **texts))
        self.total += 1

    def records(self) -> tuple[Record, ...]:
        """Return those that are kept, the oldest first."""
        return tuple(self._records)
