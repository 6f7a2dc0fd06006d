"""Resources that are asked when the head of a request is in, before its body is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.web.resource import IResource, Resource

from twisted_ws.web.http.errors import HttpError, notAllowed, nothing

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from twisted_ws.web.http.request import HttpRequest

__all__ = ["Directory", "HttpResource"]


class HttpResource(Resource):
    """A leaf of the resource tree that is asked when the head of a request is in, before its body is read.

    Subclasses have ``render_GET`` and so on, as with any Twisted resource, and may raise `HttpError` from these and from `admit`.

    Attributes:
        allowedMethods: the methods that it takes; every other one is a 405.
    """

    isLeaf = True
    allowedMethods: tuple[bytes, ...] = (b"GET", b"HEAD", b"OPTIONS")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def admit(self, request: HttpRequest) -> Deferred[None] | None:
        """Return None, or a Deferred, when the request may go on; a body is asked for and read only then.

        Raises:
            HttpError: the answer to the request (the Deferred may fail with one, too).
        """
        if request.postpath:
            raise HttpError(404, "There is nothing here.")
        if request.method not in self.allowedMethods:
            raise notAllowed(self.allowedMethods)
        return None

    def render(self, request: HttpRequest) -> bytes | int:
        """Answer by the method, which `admit` has let pass."""
        answer: bytes | int = getattr(self, f"render_{request.method.decode()}")(request)
        return answer

    def render_OPTIONS(self, request: HttpRequest) -> bytes:
        """Say what this resource takes; nothing about other origins, which therefore may not read it."""
        request.setResponseCode(204)
        request.say("Allow", b", ".join(self.allowedMethods).decode("ascii"))
        return b""


class Directory(HttpResource):
    """An inner node: has children, and is nothing itself.

    Args:
        elsewhere: where a reader should look instead, as ": there".
    """

    isLeaf = False

    def __init__(self, elsewhere: str = "") -> None:
        super().__init__()
        self._elsewhere = elsewhere

    def admit(self, request: HttpRequest) -> None:
        """Refuse: this is no resource."""
        raise nothing(request, self._elsewhere)

    def getChild(self, path: bytes, request: HttpRequest) -> IResource:
        """Refuse a child that was not put here."""
        raise nothing(request, self._elsewhere)
