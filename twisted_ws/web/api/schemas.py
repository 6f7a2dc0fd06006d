"""What the HTTP API takes and answers: the structures that read and write it, and that its OpenAPI document is made from.

A limit that an operator sets is named by ``x-limit``: the document has its value (`web.api.openapi`), and whoever reads
the value checks it, so that its error has a word of its own.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from twisted_ws.channels.names import NAME
from twisted_ws.closecodes import FORBIDDEN
from twisted_ws.errors import CloseCode

__all__ = [
    "Batch",
    "BatchMessage",
    "Channel",
    "Channels",
    "Deleted",
    "Described",
    "Disconnect",
    "Disconnected",
    "Failed",
    "History",
    "HistoryQuery",
    "Kept",
    "ListQuery",
    "Message",
    "PostQuery",
    "PresenceList",
    "PresenceQuery",
    "Publish",
    "Published",
    "Results",
    "Unsubscribe",
    "Unsubscribed",
]

# An offset has up to 16 digits, of which not all are offsets; nothing gets near them.
_POSITION = r"[A-Za-z0-9]{1,32}:[0-9]{1,15}"
_BASE64 = "(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"


def _said(description: str, **schema: Any) -> Meta:
    """Describe a field; `schema` is what the document says of it, and some other code checks."""
    return Meta(description=description, extra_json_schema=schema or None)


Name = Annotated[str, _said("The name of a channel.", pattern=f"^(?:{NAME})$", minLength=1, **{"x-limit": "channelName"})]
Id = Annotated[str, _said("epoch:offset", pattern=f"^{_POSITION}$")]
After = Annotated[
    str, _said("A position: the id of the last message that was seen, or 0 for all that is kept.", pattern=f"^(?:0|{_POSITION})$")
]
Key = Annotated[str, _said("Of several messages with one key, those who are slow may get the newest only.", maxLength=128)]
Limit = Annotated[
    int,
    Meta(
        description="At most so many: by default 100 channels, or as many messages as one answer may have.",
        ge=1,
        extra_json_schema={"x-limit": "answerMessages"},
    ),
]
Count = Annotated[int, Meta(ge=0)]


class _Choice(Struct, forbid_unknown_fields=True):
    """What a client sends, of which exactly one of some fields must be there.

    Attributes:
        choice: these fields.
    """

    choice: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if sum([getattr(self, name) is not UNSET for name in self.choice]) != 1:
            raise ValueError(f"either {' or '.join(self.choice)} is needed, and not both")


# What is asked.


class BatchMessage(_Choice):
    """One message of a batch; for what it cannot be published for, its own result is the error."""

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
    user: Annotated[str, _said("The user whom the service has named.")] | UnsetType = UNSET
    reason: Annotated[str, Meta(description="Told to whom it concerns.", max_length=123)] = ""


class Disconnect(Peer):
    """End connections for good."""

    # JSON Schema takes 4403.0 for an integer, too.
    code: Annotated[
        Any,
        _said("The close code.", type="integer", anyOf=[{"enum": [1000, 1008]}, {"minimum": 3000, "maximum": 4999}]),
    ] = FORBIDDEN

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.code not in (CloseCode.NORMAL, CloseCode.POLICY_VIOLATION, *range(3000, 5000)):
            raise ValueError("code is 1000, 1008, or 3000 to 4999")


class Unsubscribe(Peer, kw_only=True):
    """End subscriptions to one channel."""

    channel: Name


class PostQuery(Struct, forbid_unknown_fields=True):
    """The query of a POST to a channel."""

    key: Key | UnsetType = UNSET


class ListQuery(Struct, forbid_unknown_fields=True):
    """Which channels are listed."""

    prefix: Annotated[str, _said("Only those whose name begins with this.")] = ""
    cursor: Annotated[str, _said("Those after this one: the next of the answer before.")] = ""
    limit: Limit | UnsetType = UNSET


class HistoryQuery(Struct, forbid_unknown_fields=True):
    """Which messages are wanted."""

    after: After = "0"
    limit: Limit | UnsetType = UNSET


class PresenceQuery(Struct, forbid_unknown_fields=True):
    """Which members are wanted."""

    cursor: Annotated[str, _said("Those after this one: the next of the answer before.")] = ""
    limit: Limit | UnsetType = UNSET


# What is answered.


class Failed(Struct):
    """Why something was not done."""

    error: Annotated[str, _said("What went wrong, for programs.")]
    message: Annotated[str, _said("What went wrong, for people.")]


class Published(Struct):
    """A message was published."""

    channel: Name
    id: Id
    recipients: Annotated[int, Meta(description="To how many connections of this process it was written.", ge=0)]


_RESULT = [{"$ref": "#/components/schemas/Published"}, {"$ref": "#/components/schemas/Failed"}]


class Results(Struct):
    """What became of each message of a batch, in order."""

    results: list[Annotated[Any, Meta(extra_json_schema={"oneOf": _RESULT})]]


class Channel(Struct):
    """One channel."""

    channel: Name
    id: Id
    subscribers: Count


class Channels(Struct):
    """Some channels, by name."""

    channels: list[Channel]
    next: Annotated[str | None, Meta(description="The cursor of the next page; null after the last one.")]


Next = Annotated[str | UnsetType, _said("Where there are more members: the cursor of the next request.")]


class User(Struct):
    """A user on a channel."""

    user: str
    info: Annotated[Any, _said("What the service says of the user.")]
    connections: Count


class Kept(Struct):
    """What is kept of a channel."""

    messages: Count
    bytes: Count
    oldest: Id | None


class Present(Struct):
    """Who is on a channel."""

    count: Count
    members: list[User]
    next: Next = UNSET


class Described(Channel):
    """One channel, with all that is known of it."""

    presence: Present
    history: Kept


class PresenceList(Struct):
    """Who is on a channel."""

    channel: Name
    count: Count
    members: list[User]
    next: Next = UNSET


class Message(Struct):
    """One message: with data, or base64 if it is binary."""

    channel: Name
    id: Id
    key: Key | UnsetType = UNSET
    data: Any = UNSET
    base64: str | UnsetType = UNSET


class History(Struct):
    """What is kept of a channel since a position."""

    channel: Name
    id: Id
    recovered: Annotated[bool, _said("Whether nothing since the position is missing.")]
    messages: Annotated[list[Any], Meta(extra_json_schema={"items": {"$ref": "#/components/schemas/Message"}})]


class Deleted(Struct):
    """What was kept of a channel is forgotten."""

    channel: Name
    id: Id
    deleted: Count


class Disconnected(Struct):
    """So many connections were ended."""

    disconnected: Count


class Unsubscribed(Struct):
    """So many subscriptions were ended."""

    unsubscribed: Count
