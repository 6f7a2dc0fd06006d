"""The HTTP API of the broadcast port: routes requests by the table of operations, reads them, and writes their answers."""

from __future__ import annotations

from functools import cached_property, partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote

import msgspec
from msgspec import UNSET
from twisted.internet.defer import Deferred
from twisted.web.server import NOT_DONE_YET

from twisted_ws.errors import ChannelError
from twisted_ws.inspection.inspector import Inspector
from twisted_ws.logs import printable
from twisted_ws.web.api.guard import GuardedResource
from twisted_ws.web.api.openapi import PATH, openAPI
from twisted_ws.web.api.operation import PARTS, Call, Operation
from twisted_ws.web.api.operations import OPERATIONS
from twisted_ws.web.api.schemas import Published
from twisted_ws.web.api.watching import PATH as EVENTS_PATH
from twisted_ws.web.api.watching import EventsResource
from twisted_ws.web.http.compression import answerCompressed
from twisted_ws.web.http.content import checkBodyType, contentType
from twisted_ws.web.http.coroutines import answerLater
from twisted_ws.web.http.errors import HttpError, notAllowed, nothing
from twisted_ws.web.http.response import jsonBody

if TYPE_CHECKING:
    from twisted_ws.access.publishers.audit import AuditLog
    from twisted_ws.access.publishers.credentials import Credentials
    from twisted_ws.limits import Limits
    from twisted_ws.server.server import WebSocketServer
    from twisted_ws.web.http.request import HttpRequest

# The types of a JSON body: curl declares everything as form data.
_JSON_TYPES = ("", "application/json", "text/plain", "application/x-www-form-urlencoded")
# The seconds that an operation may take. Only an engine that asks another process needs any.
SECONDS = 30
# For a browser or a WebSocket client that has come to the broadcast port.
ELSEWHERE = ": pages and WebSockets are on the WebSocket port (by default 8080)"

EVENTS = EVENTS_PATH.encode("ascii")

_ROUTES: dict[str, dict[bytes, Operation]] = {}
for _operation in OPERATIONS:
    _ROUTES.setdefault(_operation.path, {})[_operation.method.encode("ascii")] = _operation


class ApiResource(GuardedResource):
    """All paths of the API (see `OPERATIONS`)."""

    def __init__(
        self,
        server: WebSocketServer,
        credentials: Credentials,
        audit: AuditLog | None = None,
        inspector: Inspector | None = None,
    ) -> None:
        super().__init__(server, credentials, audit)
        self._given = inspector
        self._document = openAPI(server.limits, credentials.challenges)
        self._events = EventsResource(server, credentials, lambda: self._inspector.board, audit)

    @cached_property
    def _inspector(self) -> Inspector:
        return self._given or Inspector(self._server)

    def admit(self, request: HttpRequest) -> Deferred[None] | None:
        """Find the operation, and check the credentials, before the body is read."""
        if request.path == EVENTS:
            return self._events.admit(request)
        path, channel, part = _route(request.path.decode("ascii"))
        if path != PATH and path not in _ROUTES:
            described = f": the API is described at {PATH}"
            raise nothing(request, *((described, described) if path.startswith("/api/") else (ELSEWHERE,)))
        found = _ROUTES.get(path, {})
        allowed = self._allowed(found)
        request.found = found.get(b"GET" if request.method == b"HEAD" else request.method), channel, part, allowed
        if request.method not in allowed:
            isRead = path == "/channels/{channel}" and request.method in (b"GET", b"HEAD")
            raise notAllowed(allowed, ": channels are read on the WebSocket port (by default 8080)" if isRead else "")
        if request.method == b"OPTIONS" or path == PATH:
            return None
        operation: Operation = request.found[0]
        request.operation = operation.name
        if operation.body is not None and contentType(request) not in _JSON_TYPES:
            raise HttpError(415, "The body must be JSON.")
        if operation.body is not None or operation.posts:
            checkBodyType(request)
        waiting = self.authorize(request)
        if waiting is None:
            self.authorized(request)
        return waiting

    def authorized(self, request: HttpRequest) -> None:
        """Refuse an operation that the key is not for; a channel that the body names is judged later."""
        operation, channel, *_ = request.found
        try:
            self.require(request, operation.scope, channel or None)
        except HttpError as error:
            self.note(request, operation.name, error.status, channel=printable(channel, 200))
            raise

    def render(self, request: HttpRequest) -> Any:
        """Do what was asked."""
        if request.path == EVENTS:
            return self._events.render(request)
        operation, channel, part, allowed = request.found
        if request.method == b"OPTIONS":
            request.setResponseCode(204)
            request.say("Allow", b", ".join(allowed).decode("ascii"))
            return b""
        if operation is None:
            self._send(request, self._document)
            return NOT_DONE_YET
        self.refuseWhileDraining()  # which may have begun while the body was coming
        return answerLater(request, self._run(request, operation, channel, part), SECONDS)

    async def _run(self, request: HttpRequest, operation: Operation, channel: str, part: str) -> None:
        query, body = _query(request, operation), _body(request, operation, self._server.limits)
        call = Call(self._server, request, self._inspector, channel, part, query, body)
        try:
            answer = await operation.run(call)
        except ChannelError as error:
            self._noteCall(call, operation, error.status)
            raise
        self._noteCall(call, operation, 200, answer)
        self._send(request, jsonBody(answer))

    def _noteCall(self, call: Call, operation: Operation, status: int, answer: Any = None) -> None:
        about = {} if self._audit is None else _about(call, answer)
        self.note(call.request, operation.name, status, **about)

    def _send(self, request: HttpRequest, body: bytes) -> None:
        request.say("Content-Type", "application/json")
        request.say("Vary", "Accept-Encoding")
        answerCompressed(request, body, self._server.limits.gzipFrom)

    @staticmethod
    def _allowed(found: dict[bytes, Operation]) -> tuple[bytes, ...]:
        methods = tuple(found) or (b"GET",)
        return (*methods, *((b"HEAD",) if b"GET" in methods else ()), b"OPTIONS")


def _about(call: Call, answer: Any = None) -> dict[str, Any]:
    """Return what the audit log says a call was about."""
    said: dict[str, Any] = {}
    if call.request.method == b"POST":
        said["bytes"] = call.request.content.tell()  # it has been read
    if call.channel:
        said["channel"] = printable(call.channel, 200)
    for name in ("channel", "connection", "user", "token"):
        value = getattr(call.body, name, UNSET)
        if isinstance(value, str):
            said[name] = printable(value, 200)
    messages = getattr(call.body, "messages", None)
    if messages is not None:
        said["count"] = len(messages)
    if isinstance(answer, Published):
        said["id"] = answer.id
    return said


def _route(path: str) -> tuple[str, str, str]:
    """Return the path as it is in the table, its channel, and what else it names: see `PARTS`."""
    for before, kind in PARTS.items():
        head, mark, rest = path.partition(before)
        if mark and (kind == "channel" or not head):
            name, slash, tail = rest.partition("/")
            named = unquote(name)
            pair = (named, "") if kind == "channel" else ("", named)
            return f"{head}{mark}{{{kind}}}{slash}{tail}", *pair
    return path, "", ""


def _query(request: HttpRequest, operation: Operation) -> Any:
    text = request.uri.decode("ascii").partition("?")[2]
    named = _read(lambda: parse_qs(text, keep_blank_values=True, errors="strict")) if text else {}
    if any(len(values) > 1 for values in named.values()):
        raise HttpError(400, "A parameter of the query is repeated.")
    flat = {name: values[0] for name, values in named.items()}
    if operation.query is None:
        if flat:
            raise HttpError(400, "This takes no query parameters.")
        return None
    unknown = [name for name in flat if name not in operation.query.__struct_fields__]
    if unknown:
        raise HttpError(400, f"There is no query parameter {printable(unknown[0], 60)}.")
    return _read(lambda: msgspec.convert(flat, operation.query, strict=False))


def _body(request: HttpRequest, operation: Operation, limits: Limits) -> Any:
    if operation.body is None:
        return None
    body = request.content.read()
    if operation.check is not None:
        _read(partial(operation.check, body, limits))
    return _read(lambda: msgspec.json.decode(body, type=operation.body))


def _read(read: Any) -> Any:
    try:
        return read()
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise HttpError(400, f"{printable(error)}.") from None
