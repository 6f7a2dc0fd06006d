"""A value that a handler returned, as a message to its caller."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec

from twisted_ws.caller import Caller
from twisted_ws.message import TEXT, Message
from twisted_ws.service import CloseFrame

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_NONE = msgspec.Raw()


def encodeReply(caller: Caller, value: Any, idField: str, streamId: msgspec.Raw | None) -> tuple[int, bytes] | None:
    """Return the opcode and payload for a value; None if there is nothing to send.

    Nothing is sent to a caller that is not open; a `CloseFrame` closes it.

    Args:
        caller: the recipient.
        value: str for text, bytes-like for binary, anything else as JSON text.
        idField: the field that takes the stream id, if the JSON is an object.
        streamId: JSON; None for none.

    Raises:
        TypeError: JSON has no form for `value`.
        ValueError: text with a lone surrogate.
    """
    if not caller.isOpen():
        return None
    if isinstance(value, CloseFrame):
        caller.close(value.code, value.reason)
        return None
    if streamId is None or isinstance(value, (str, bytes, bytearray, memoryview)):
        message = Message.of(value)
        return message.kind.opcode, message.payload
    # Added to the JSON, so that the handler's object is not changed.
    return TEXT, _withId(value, idField, streamId)


def _withId(value: Any, name: str, streamId: msgspec.Raw) -> bytes:
    """Return a value as JSON; an object gets this field."""
    text = msgspec.json.encode(value)
    if not text.startswith(b"{"):
        return text
    if isinstance(value, msgspec.Raw) or _ids(name).decode(text).id is not _NONE:
        return msgspec.json.encode({**_fields.decode(text), name: streamId})
    # The common case: the other fields are not decoded.
    return b"".join((text[:-1], b"," if len(text) > 2 else b"", msgspec.json.encode(name), b":", streamId, b"}"))


@lru_cache(64)
def _ids(name: str) -> msgspec.json.Decoder[Any]:
    """Return a decoder that finds a field of this name in an object."""
    return msgspec.json.Decoder(msgspec.defstruct("Fields", [("id", msgspec.Raw, msgspec.field(name=name, default=_NONE))]))
