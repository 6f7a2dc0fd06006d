"""The AsyncAPI 3.0 document of mounted services, from the server's side: it receives what clients send. Pure.

Each path is a channel of the document, and so is each pattern of the tables for channels. A handler is an operation; what a
service writes by itself (`Caller.writeMessage`) cannot be known.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from twisted_ws.access.namespaces import USER
from twisted_ws.channels.service import ChannelService
from twisted_ws.channels.subscribers.formats import SUBPROTOCOL
from twisted_ws.channels.subscribers.subprotocol import Request
from twisted_ws.commands.asyncapi.schemas import Content, Reply, contentOf, draft7, replyOf, schemasOf
from twisted_ws.dispatch.examination import examine
from twisted_ws.dispatch.handlers import DispatchedHandler, Handlers

# No underscores either: for JavaScript, "__proto__" is not a key like others.
_ID = re.compile(r"[^A-Za-z0-9-]+")
_SURROGATE = re.compile("[\ud800-\udfff]")
_PARAMETER = re.compile(r"\{(\w+)(?::(\w+))?\}")
_TYPES = {"text": "text/plain", "binary": "application/octet-stream", "json": "application/json"}
# Events whose handlers are operations.
_RECEIVING = ("onTextMessage", "onBinaryMessage", "onMessage")
# The kinds of authenticators, as the document has them.
_BEARER = {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
_SECURITY: dict[str, dict[str, Any]] = {
    "jwt": _BEARER,
    "introspection": {"type": "http", "scheme": "bearer"},
    "basic": {"type": "http", "scheme": "basic"},
    "ldap": {"type": "http", "scheme": "basic"},
    "certificate": {"type": "X509"},
    "ticket": {"type": "httpApiKey", "name": "ticket", "in": "query"},
    "signed-cookie": {"type": "httpApiKey", "name": "session", "in": "cookie"},
    "django": {"type": "httpApiKey", "name": "sessionid", "in": "cookie"},
}


class About(NamedTuple):
    """What the document says of the whole.

    Attributes:
        title, version: those of the API.
        server: the URL of the server.
    """

    title: str
    version: str
    server: str


class Described(NamedTuple):
    """A mounted service.

    Attributes:
        path: where.
        service: the object.
        security: the types of its authenticators, by name.
    """

    path: str
    service: object
    security: Mapping[str, str]


def document(about: About, services: Sequence[Described], channelRules: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the document, of dicts, lists and texts.

    Args:
        about: what it says of the whole.
        services: the services.
        channelRules: the tables for channels, by pattern.
    """
    return _Document(about, services, channelRules).made


class _Document:
    def __init__(self, about: About, services: Sequence[Described], channelRules: Mapping[str, Mapping[str, Any]]) -> None:
        url = urlsplit(about.server)
        server: dict[str, Any] = {"host": url.netloc, "protocol": url.scheme}
        if url.path.strip("/"):
            server["pathname"] = url.path.rstrip("/")
        self._channels: dict[str, Any] = {}
        self._operations: dict[str, Any] = {}
        self._messages: dict[str, Any] = {}
        self._security: dict[str, Any] = {}
        # The types, and the payloads that get their schemas at the end: all are made together, so that no name is there twice.
        self._typed: list[tuple[Any, dict[str, Any]]] = []
        for each in services:
            if isinstance(each.service, ChannelService):
                self._subscriptions(each)
            else:
                self._service(each)
        if any(isinstance(each.service, ChannelService) for each in services):
            for pattern, rules in channelRules.items():
                self._namespace(pattern, rules)
        schemas = self._fillSchemas()
        components = {"messages": self._messages, "schemas": schemas, "securitySchemes": self._security}
        self.made: dict[str, Any] = _clean(
            {
                "asyncapi": "3.0.0",
                "info": {"title": about.title, "version": about.version},
                "defaultContentType": "application/json",
                "servers": {"server": server},
                "channels": self._channels,
                "operations": self._operations,
                "components": {name: each for name, each in components.items() if each},
            }
        )

    # Channels.

    def _channel(self, name: str, address: str, described: str) -> str:
        """Add a channel, and return its id."""
        place = _unused(name, self._channels)
        channel: dict[str, Any] = {"address": _PARAMETER.sub(r"{\1}", address)}
        if described:
            channel["description"] = described
        parameters = {name: _parameter(kind) for name, kind in _PARAMETER.findall(address)}
        if parameters:
            channel["parameters"] = parameters
        channel["messages"] = {}
        self._channels[place] = channel
        return place

    def _service(self, described: Described) -> None:
        service = described.service
        handlers = examine(service)
        channel = self._channel(described.path, described.path, _said(type(service)))
        if handlers.subProtocols:
            self._channels[channel]["x-subprotocols"] = list(handlers.subProtocols)
        if "onUpgrade" in handlers.events:
            self._channels[channel]["x-chosen-by"] = "onUpgrade may choose another service for each connection, or refuse it."
        security = self._secured(described)
        if "onOpen" in handlers.events and (reply := replyOf(service.onOpen)) is not None:  # type: ignore[attr-defined]
            self._operation("send", channel, "onOpen", [self._reply(channel, "onOpen", reply)], service, security)
        for name in _RECEIVING:
            if name in handlers.events:
                self._receive(channel, name, self._contents(name, handlers), service, security)
        for value, handler in handlers.byValue.items():
            self._dispatched(channel, [value], handler, handlers, service, security)
        for name, handler in handlers.byName.items():
            event = name[2:]
            self._dispatched(channel, [event[0].lower() + event[1:], event], handler, handlers, service, security)

    def _contents(self, name: str, handlers: Handlers) -> list[Content]:
        if name == "onTextMessage":
            return [Content("text", str)]
        if name == "onBinaryMessage":
            return [Content("binary", bytes)]
        content = contentOf(handlers.message.annotation)
        return [Content("text", str), Content("binary", bytes)] if content.kind == "any" else [content]

    def _receive(self, channel: str, name: str, contents: list[Content], service: object, security: list[Any]) -> None:
        messages = []
        for content in contents:
            title = name if len(contents) == 1 else f"{name}-{content.kind}"
            messages.append(self._message(channel, title, content))
        self._answered(channel, name, messages, service, security)

    def _dispatched(
        self,
        channel: str,
        values: list[str],
        handler: DispatchedHandler,
        handlers: Handlers,
        service: object,
        security: list[Any],
    ) -> None:
        """Add the operation of a handler that a field of the message names."""
        key = str(getattr(service, "dispatcherKey", ""))
        values = list(dict.fromkeys(values))
        names: dict[str, Any] = {key: {"const": values[0]} if len(values) == 1 else {"enum": values}}
        if handlers.streamId and handlers.streamId != key:
            names[handlers.streamId] = {"description": "The answer has the same."}
        envelope = draft7({"type": "object", "properties": names, "required": [key]})
        content = contentOf(handler.binder.annotation)
        # A message that is dispatched is a JSON object, whatever the handler takes it as.
        made = self._message(channel, values[0], Content("json", content.annotation if content.kind == "json" else Any), envelope)
        self._answered(channel, handler.name, [made], service, security)

    def _answered(self, channel: str, name: str, messages: list[Any], service: object, security: list[Any]) -> None:
        operation = self._operation("receive", channel, name, messages, service, security)
        reply = replyOf(getattr(service, name))
        if reply is not None:
            answer = self._reply(channel, name, reply)
            operation["reply"] = {"channel": _reference("channels", channel), "messages": [answer]}

    def _reply(self, channel: str, name: str, reply: Reply) -> Any:
        return self._message(channel, f"{name}-reply", reply.content, many=reply.isStream)

    def _operation(
        self, action: str, channel: str, name: str, messages: list[Any], service: object, security: list[Any]
    ) -> dict[str, Any]:
        operation: dict[str, Any] = {"action": action, "channel": _reference("channels", channel)}
        if summary := _said(getattr(service, name, None)):
            operation["summary"] = summary
        if security:
            operation["security"] = security
        operation["messages"] = messages
        self._operations[_unused(f"{channel}-{name}", self._operations)] = operation
        return operation

    def _message(
        self, channel: str, name: str, content: Content, envelope: dict[str, Any] | None = None, many: bool = False
    ) -> dict[str, str]:
        """Add a message to a channel, and return the reference to it."""
        payload: dict[str, Any] = {}
        if content.kind == "binary":
            payload.update(type="string", format="binary")
        else:
            self._typed.append((content.annotation, payload))
        made: dict[str, Any] = {"name": name, "contentType": _TYPES[content.kind]}
        if many:
            made["description"] = "Sent any number of times."
        made["payload"] = payload if envelope is None else {"allOf": [payload, envelope]}
        return self._add(channel, name, made)

    def _add(self, channel: str, name: str, message: dict[str, Any]) -> dict[str, str]:
        place = _unused(f"{channel}-{name}", self._messages)
        self._messages[place] = message
        self._channels[channel]["messages"][place] = _reference("components", "messages", place)
        return _reference("channels", channel, "messages", place)

    # Channels of the service of channels.

    def _subscriptions(self, described: Described) -> None:
        said = f"Subscriptions to channels by name; with the subprotocol {SUBPROTOCOL}, requests and answers in JSON."
        channel = self._channel(described.path, described.path, said)
        self._channels[channel]["x-subprotocols"] = [SUBPROTOCOL]
        query = {"channel": {"type": "array", "items": {"type": "string"}}, "after": {"type": "string"}}
        binding = {"method": "GET", "query": {"type": "object", "properties": query}, "bindingVersion": "0.1.0"}
        self._channels[channel]["bindings"] = {"ws": binding}
        request = self._message(channel, "request", Content("json", Request))
        frame = {"type": "object", "properties": {"type": {"type": "string"}}, "required": ["type"]}
        answer = self._add(channel, "frame", {"name": "frame", "contentType": "application/json", "payload": frame})
        operation = self._operation("receive", channel, "requests", [request], described.service, self._secured(described))
        operation["reply"] = {"channel": _reference("channels", channel), "messages": [answer]}

    def _namespace(self, pattern: str, rules: Mapping[str, Any]) -> None:
        """Add the channels of one table."""
        address = pattern.removesuffix("*") + "{rest}" if pattern.endswith("*") else pattern
        words = {action: _words(rules[action]) for action in ("subscribe", "publish") if action in rules}
        said = [f"{action}: {' or '.join(each)}" for action, each in words.items()]
        channel = self._channel(f"channel-{pattern.replace(USER, 'user')}", address, "; ".join(said))
        message = self._add(channel, "message", {"name": "message", "payload": {}})
        for action, word in ("send", "subscribe"), ("receive", "publish"):
            # What no table says is left to grants and options: subscribing usually is possible, publishing is not.
            if words.get(word, ["granted"] if word == "subscribe" else ["nobody"]) != ["nobody"]:
                self._operation(action, channel, word, [message], None, [])

    # What is shared.

    def _secured(self, described: Described) -> list[Any]:
        found = []
        for name, kind in described.security.items():
            scheme = _SECURITY.get(kind)
            if scheme is not None:
                place = _plain(name)
                self._security[place] = dict(scheme)
                found.append(_reference("components", "securitySchemes", place))
        return found

    def _fillSchemas(self) -> dict[str, Any]:
        schemas, components = schemasOf([annotation for annotation, _ in self._typed])
        for (_, payload), schema in zip(self._typed, schemas, strict=True):
            payload.update(schema)
        return components


def _parameter(kind: str) -> dict[str, str]:
    return {"description": "A whole number." if kind == "int" else "A text."}


def _words(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _plain(name: str) -> str:
    return _ID.sub("-", name).strip("-") or "root"


def _unused(name: str, known: Mapping[str, Any]) -> str:
    """Return an id for a name: of letters that every tool takes, and of no other name."""
    plain = _plain(name)
    return next(each for number in range(len(known) + 1) if (each := f"{plain}-{number + 1}" if number else plain) not in known)


def _reference(*path: str) -> dict[str, str]:
    return {"$ref": "#/" + "/".join(path)}  # ids have nothing to escape


def _said(what: object) -> str:
    """Return the first paragraph of a docstring, on one line."""
    if what is None:
        return ""
    return " ".join((inspect.getdoc(what) or "").partition("\n\n")[0].split())


def _clean(value: Any) -> Any:
    """Return a value without lone surrogates, which have no form in UTF-8."""
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_clean(key): _clean(each) for key, each in value.items()}
    return [_clean(each) for each in value] if isinstance(value, (list, tuple)) else value
