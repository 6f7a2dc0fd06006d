"""What the HTTP API takes and answers: the structures by which it is read and written, and its OpenAPI document is made.

``x-limit`` names a limit that the operator sets: the document has its value (`web.api.openapi`), and the code that uses the field
checks it, so that it has an error code of its own.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from twisted_ws.closecodes import FORBIDDEN
from twisted_ws.errors import CloseCode
from twisted_ws.identity import LONGEST_TOKEN_ID, LONGEST_USER
from twisted_ws.inspection.callers import CURSOR, Caller, CallerDetail
from twisted_ws.inspection.nodes import Node
from twisted_ws.inspection.settings import Certificate, Setting, Settings
from twisted_ws.names import EITHER, NAME

__all__ = [
    "Batch",
    "BatchMessage",
    "Caller",
    "CallerDetail",
    "Callers",
    "CallersQuery",
    "Certificate",
    "Channels",
    "Deleted",
    "Described",
    "Disconnect",
    "Disconnected",
    "Ended",
    "ExplainQuery",
    "Explained",
    "Failed",
    "Granted",
    "History",
    "HistoryQuery",
    "Kept",
    "ListQuery",
    "ListedChannel",
    "Message",
    "Node",
    "Nodes",
    "PostQuery",
    "PresenceList",
    "PresenceQuery",
    "Publish",
    "Published",
    "Results",
    "Revoke",
    "Revoked",
    "Setting",
    "Settings",
    "Step",
    "Tail",
    "TailRequest",
    "Ticket",
    "TicketRequest",
    "Unsubscribe",
    "Unsubscribed",
]

# The year 9999: what is later is a time in other units, by mistake.
MOST_TIME = 253_402_300_800
# A year: whoever wants a longer one gives no end.
LONGEST_CONNECTION = 366 * 86400
# Not all numbers of 16 digits are offsets; no channel gets near them.
_POSITION = r"[A-Za-z0-9]{1,32}:[0-9]{1,15}"
_GRANTS = f"^(?:(?:{EITHER})(?: (?:{EITHER}))*)?$"
_BASE64 = "(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"


def _said(description: str, **schema: Any) -> Meta:
    """Describe a field; `schema` is for the document only, and checked elsewhere."""
    return Meta(description=description, extra_json_schema=schema or None)


Name = Annotated[str, _said("The name of a channel.", pattern=f"^(?:{NAME})$", minLength=1, **{"x-limit": "channelName"})]
Id = Annotated[str, _said("epoch:offset", pattern=f"^{_POSITION}$")]
After = Annotated[
    str, _said("A position: the id of the last message that was seen, or 0 for all that is kept.", pattern=f"^(?:0|{_POSITION})$")
]
Before = Annotated[
    str, _said("Only what is before the message with this id: the newest of it, in order.", pattern=f"^{_POSITION}$")
]
Last = Annotated[int, Meta(description="Without `after`: so many of the newest messages.", ge=1, le=999_999_999)]
Key = Annotated[str, _said("Of several messages with the same key, slow subscribers may get only the newest.", maxLength=128)]
Limit = Annotated[
    int,
    Meta(
        description="The maximum number; by default 100 channels, or as many messages as one answer may have.",
        ge=1,
        extra_json_schema={"x-limit": "answerMessages"},
    ),
]
Count = Annotated[int, Meta(ge=0)]


class _Choice(Struct, forbid_unknown_fields=True):
    """What a client sends, with exactly one of some fields.

    Attributes:
        choice: these fields.
    """

    choice: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if sum([getattr(self, name) is not UNSET for name in self.choice]) != 1:
            raise ValueError(f"Give either {' or '.join(self.choice)}, not both")


# Requests.


class BatchMessage(_Choice):
    """One message of a batch; if it cannot be published, its own result is the error."""

    choice = ("data", "base64")

    channel: Annotated[str, _said("The name of a channel.")]
    data: Annotated[msgspec.Raw, _said("The message: a string is a text, anything else is JSON.")] | UnsetType = UNSET
    base64: Annotated[str, _said("A binary message, in base64.")] | UnsetType = UNSET
    key: Annotated[str, _said("Conflation: at most 128 characters.")] | UnsetType = UNSET
    idempotencyKey: Annotated[str, _said("Publish once only: at most 128 characters.")] | UnsetType = UNSET


class Publish(BatchMessage):
    """A message for everyone who is subscribed to a channel."""

    channel: Name
    base64: Annotated[str, _said("A binary message, in base64.", pattern=f"^{_BASE64}$")] | UnsetType = UNSET
    key: Key | UnsetType = UNSET
    idempotencyKey: Annotated[str, _said("Publish once only, however often it is sent.", maxLength=128)] | UnsetType = UNSET


class Batch(Struct, forbid_unknown_fields=True):
    """Several messages, published in order."""

    messages: Annotated[list[BatchMessage], Meta(min_length=1, extra_json_schema={"x-limit": "batchMessages"})]


class Peer(_Choice):
    """One connection, or all of a user's."""

    choice = ("connection", "user")

    connection: Annotated[str, _said("The id of a connection.")] | UnsetType = UNSET
    user: Annotated[str, _said("The user, as the service has named it.")] | UnsetType = UNSET
    reason: Annotated[str, Meta(description="The reason, for those concerned.", max_length=123)] = ""


class Revoke(_Choice):
    """Credentials that are no longer accepted: one token, or those of a user that were issued before a moment."""

    choice = ("token", "user")

    token: (
        Annotated[str, Meta(description="The id of a token (`jti`) or session.", min_length=1, max_length=LONGEST_TOKEN_ID)]
        | UnsetType
    ) = UNSET
    user: Annotated[str, Meta(description="As the authenticator names it.", min_length=1, max_length=128)] | UnsetType = UNSET
    issuedBefore: Annotated[float, Meta(description="Unix time; by default now.", ge=0, lt=MOST_TIME)] | UnsetType = UNSET
    until: Annotated[float, Meta(description="Its end, Unix time; by default in a day.", ge=0, lt=MOST_TIME)] | UnsetType = UNSET


class Disconnect(Peer):
    """End connections for good."""

    # For JSON Schema, 4403.0 is an integer, too.
    code: Annotated[
        Any, _said("The close code.", type="integer", anyOf=[{"enum": [1000, 1008]}, {"minimum": 3000, "maximum": 4999}])
    ] = FORBIDDEN

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.code not in (CloseCode.NORMAL, CloseCode.POLICY_VIOLATION, *range(3000, 5000)):
            raise ValueError("code must be 1000, 1008, or 3000 to 4999")


class Unsubscribe(Peer, kw_only=True):
    """End subscriptions to one channel."""

    channel: Name


class Granted(Struct, forbid_unknown_fields=True):
    """What the bearer of a ticket may do with channels: names and patterns."""

    subscribe: list[str] = []
    publish: list[str] = []


_Lasting = Annotated[float, Meta(description="Seconds after which the connection ends.", ge=1, le=LONGEST_CONNECTION)]


class TicketRequest(Struct, forbid_unknown_fields=True):
    """Whom a ticket is for."""

    user: Annotated[str, Meta(description="The user.", min_length=1, max_length=LONGEST_USER)]
    grants: Granted | UnsetType = UNSET
    scopes: Annotated[list[str], _said("What else the user may do: words without spaces.")] = []
    info: Annotated[Any, _said("What presence tells others.")] = UNSET
    expires: _Lasting | UnsetType = UNSET
    authenticator: Annotated[str, _said("Whose tickets; by default those of the first authenticator.")] | UnsetType = UNSET


class TailRequest(_Choice, forbid_unknown_fields=True):
    """What to follow: a channel or pattern, a connection, or all of a user's."""

    choice = ("channel", "connection", "user")

    channel: (
        Annotated[str, _said("A name or a pattern.", pattern=f"^(?:{EITHER})$", minLength=1, **{"x-limit": "channelName"})]
        | UnsetType
    ) = UNSET
    connection: Annotated[str, Meta(description="The id of a connection.", min_length=1, max_length=100)] | UnsetType = UNSET
    user: Annotated[str, Meta(description="As services name it.", min_length=1, max_length=LONGEST_USER)] | UnsetType = UNSET


class PostQuery(Struct, forbid_unknown_fields=True):
    """The query of a POST to a channel."""

    key: Key | UnsetType = UNSET


class ListQuery(Struct, forbid_unknown_fields=True):
    """Which channels to list."""

    prefix: Annotated[str, _said("Only channels whose names begin with this.")] = ""
    cursor: Annotated[str, _said("Continue after this: the `next` of the previous answer.")] = ""
    limit: Limit | UnsetType = UNSET
    order: Annotated[Literal["name", "subscribers", "messages"], _said("By name, or the largest first.")] = "name"


class CallersQuery(Struct, forbid_unknown_fields=True):
    """Which callers to list."""

    user: Annotated[str, _said("Only those whose user begins with this.")] = ""
    peer: Annotated[str, _said("Only those whose address begins with this.")] = ""
    channel: Annotated[str, _said("Only those with a channel or pattern that begins with this.")] = ""
    slow: Annotated[bool, _said("Only those for whom messages wait.")] = False
    transport: Annotated[Literal["", "websocket", "sse", "poll"], _said("Only those of this transport.")] = ""
    cursor: Annotated[str, _said("Continue after this: the `next` of the previous answer.", pattern=f"^(?:{CURSOR})?$")] = ""
    limit: Limit | UnsetType = UNSET


class ExplainQuery(Struct, forbid_unknown_fields=True):
    """What to explain, and about whom."""

    action: Annotated[Literal["subscribe", "publish", "presence"], _said("What somebody wants to do.")]
    channel: Annotated[str, _said("A name, or a pattern.", pattern=f"^(?:{EITHER})$", minLength=1, **{"x-limit": "channelName"})]
    connection: Annotated[str, _said("A caller that is connected, with its credentials.")] = ""
    user: Annotated[str, Meta(description="Another user; a guest without it.", max_length=LONGEST_USER)] = ""
    scopes: Annotated[str, _said("The scopes of that user, separated by spaces.")] = ""
    grants: Annotated[str, _said("The channels and patterns that their credentials grant, likewise.", pattern=_GRANTS)] = ""
    service: Annotated[str, _said("The path of the service, if there are several.")] = ""


class HistoryQuery(Struct, forbid_unknown_fields=True):
    """Which messages to return."""

    after: After | UnsetType = UNSET
    before: Before | UnsetType = UNSET
    last: Last | UnsetType = UNSET
    limit: Limit | UnsetType = UNSET


class PresenceQuery(Struct, forbid_unknown_fields=True):
    """Which members to return."""

    cursor: Annotated[str, _said("Continue after this: the `next` of the previous answer.")] = ""
    limit: Limit | UnsetType = UNSET


# Answers.


class Failed(Struct):
    """Why something was not done."""

    error: Annotated[str, _said("What went wrong, for programs.")]
    message: Annotated[str, _said("What went wrong, for people.")]
    retryAfter: Annotated[float, _said("Seconds after which it may succeed, if that is known.")] | UnsetType = UNSET


class Published(Struct):
    """A message was published."""

    channel: Name
    id: Id
    recipients: Annotated[int, Meta(description="The number of connections of this process that it was written to.", ge=0)]


_RESULT = [{"$ref": "#/components/schemas/Published"}, {"$ref": "#/components/schemas/Failed"}]


class Results(Struct):
    """The result of each message of a batch, in order."""

    results: list[Annotated[Any, Meta(extra_json_schema={"oneOf": _RESULT})]]


class Channel(Struct):
    """One channel."""

    channel: Name
    id: Id
    subscribers: Count


class ListedChannel(Channel):
    """One channel of a list, with what is kept of it."""

    messages: Annotated[int, Meta(description="How many are kept.", ge=0)]
    bytes: Annotated[int, Meta(description="Their size, with what is charged for each.", ge=0)]


class Channels(Struct):
    """Some channels, by name or by size."""

    channels: list[ListedChannel]
    next: Annotated[str | None, Meta(description="The cursor of the next page; null after the last one.")]


Next = Annotated[str | UnsetType, _said("The cursor of the next request, if there are more members.")]


class User(Struct):
    """A user on a channel."""

    user: str
    info: Annotated[Any, _said("What the service tells about the user.")]
    connections: Count


class Kept(Struct):
    """The size of a channel's history."""

    messages: Count
    bytes: Count
    oldest: Id | None


class Present(Struct):
    """Who is on a channel."""

    count: Count
    members: list[User]
    next: Next = UNSET


class Described(Channel):
    """One channel, with everything that is known of it."""

    presence: Present
    history: Kept


class PresenceList(Struct):
    """Who is on a channel."""

    channel: Name
    count: Count
    members: list[User]
    next: Next = UNSET


class Message(Struct):
    """One message, with data, or with base64 if it is binary."""

    channel: Name
    id: Id
    key: Key | UnsetType = UNSET
    data: Any = UNSET
    base64: str | UnsetType = UNSET


class History(Struct, kw_only=True):
    """The history of a channel since a position, or before a message."""

    channel: Name
    id: Id | UnsetType = UNSET
    recovered: Annotated[bool, _said("Whether nothing since the position is missing.")] | UnsetType = UNSET
    messages: Annotated[list[Any], Meta(extra_json_schema={"items": {"$ref": "#/components/schemas/Message"}})]
    next: Annotated[str | None, _said("With `before`: the `before` of the next page; null after the last one.")] | UnsetType = (
        UNSET
    )


class Deleted(Struct):
    """The history of a channel was deleted."""

    channel: Name
    id: Id
    deleted: Count


class Disconnected(Struct):
    """The number of connections that were ended."""

    disconnected: Count


class Revoked(Struct):
    """The moment until which it is remembered."""

    until: float


class Unsubscribed(Struct):
    """The number of subscriptions that were ended."""

    unsubscribed: Count


class Ticket(Struct):
    """A ticket, with which a client can open one connection."""

    token: str
    seconds: Annotated[int, _said("The time in which it has to be used.")]


class Callers(Struct):
    """Some callers, in the order of servers and connections."""

    callers: Annotated[list[Any], Meta(extra_json_schema={"items": {"$ref": "#/components/schemas/Caller"}})]
    next: Annotated[str | None, Meta(description="The cursor of the next page; null after the last one.")]
    total: Annotated[int, Meta(description="The number of all callers, whatever was asked for.", ge=0)]
    missing: Annotated[list[str], _said("The servers that have not answered.")]


class Tail(Struct):
    """A tail that has begun."""

    channel: Annotated[str, _said("Watch this at /api/events.")]
    seconds: Annotated[float, _said("It ends when nobody has watched it for this long.")]


class Ended(Struct):
    """A tail has ended."""

    ended: bool


class Step(Struct):
    """One step of a decision."""

    text: str
    file: Annotated[str | None, _said("The configuration file that says so.")] = None
    line: Annotated[int | None, _said("And where.")] = None


class Explained(Struct):
    """Whether somebody may do something, and why."""

    allowed: Annotated[bool | None, _said("null: the application would be asked.")]
    steps: list[Step]
    note: str | None


class Nodes(Struct):
    """The servers that work together."""

    nodes: list[Node]
