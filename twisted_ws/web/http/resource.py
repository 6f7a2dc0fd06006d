"""Resources that are asked after the head of a request, before its body is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.web.resource import IResource, Resource

from twisted_ws.web.http.errors import HttpError, notAllowed, nothing

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from twisted_ws.web.http.request import HttpRequest


class HttpResource(Resource):
    """A leaf of the resource tree that is asked after the head of a request, before its body is read.

    Subclasses have ``render_GET`` and so on, like any Twisted resource; these and `admit` may raise `HttpError`.

    Attributes:
        allowedMethods: the methods that it accepts; any other is a 405.
        isTraced: whether OpenTelemetry has a span for each request.
    """

    isLeaf = True
    isTraced = False
    allowedMethods: tuple[bytes, ...] = (b"GET", b"HEAD", b"OPTIONS")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def admit(self, request: HttpRequest) -> Deferred[None] | None:
        """Return None, or a Deferred, if the request may go on; only then is its body read.

        Raises:
            HttpError: the answer to the request (the Deferred may fail with one, too).
        """
        if request.postpath:
            raise HttpError(404, "There is nothing here.")
        if request.method not in self.allowedMethods:
            raise notAllowed(self.allowedMethods)
        return None

    def render(self, request: HttpRequest) -> bytes | int:
        """Answer according to the method, which `admit` has accepted."""
        answer: bytes | int = getattr(self, f"render_{request.method.decode()}")(request)
        return answer

    def render_OPTIONS(self, request: HttpRequest) -> bytes:
        """Name the methods; without a word on other origins, which therefore may not read the answer."""
        request.setResponseCode(204)
        request.say("Allow", b", ".join(self.allowedMethods).decode("ascii"))
        return b""


class Directory(HttpResource):
    """An inner node: it has children, and no content itself.

    Args:
        elsewhere: where readers, and others, should look instead (see `nothing`), such as ": there".
    """

    isLeaf = False

    def __init__(self, *elsewhere: str) -> None:
        super().__init__()
        self._elsewhere = elsewhere

    def admit(self, request: HttpRequest) -> None:
        """Refuse: there is no content here."""
        raise nothing(request, *self._elsewhere)

    def getChild(self, path: bytes, request: HttpRequest) -> IResource:
        """Refuse a child that does not exist."""
        raise nothing(request, *self._elsewhere)
