"""Connections of threads to the server, kept for the next call."""

from __future__ import annotations

import os
import select
import socket
import time
from collections import deque

from twisted_ws_publisher.calls import Lost, Request
from twisted_ws_publisher.http import Malformed, Response, ResponseReader, encode_request
from twisted_ws_publisher.settings import Settings
from twisted_ws_publisher.traces import trace_headers

# Connections that are kept while nobody uses them.
MOST_IDLE = 8
_CHUNK = 64 * 1024
# Before Python 3.10, these are two.
_LATE = (TimeoutError, socket.timeout)


class Connections:
    """Sends requests, each on a connection of its own while it lasts; the one used last is used first.

    Threads may share it. After a fork, the child makes its own connections.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._idle: deque[socket.socket] = deque()
        self._pid = os.getpid()

    def send(self, request: Request, seconds: float) -> Response:
        """Return the answer.

        Raises:
            Lost: there is none within the time.
        """
        end = time.monotonic() + seconds
        was_sent = False
        while True:
            try:
                connection, is_fresh = self._take(end)
            except Lost as lost:
                raise Lost(str(lost), was_sent, lost.is_late) from None
            was_sent = True
            reader = ResponseReader()
            try:
                response = self._exchange(connection, request, reader, end)
            except (OSError, Malformed) as error:
                connection.close()
                if not is_fresh and not reader.began and request.is_repeatable and not isinstance(error, _LATE):
                    continue  # the server has closed it while nobody looked, as servers may
                is_late = isinstance(error, _LATE)
                raise Lost("the time is up" if is_late else str(error), True, is_late) from None
            except BaseException:  # such as KeyboardInterrupt or gevent's Timeout: the answer is still to come
                connection.close()
                raise
            self._put(connection, response)
            return response

    def close(self) -> None:
        """Close the connections that nobody uses."""
        while True:
            try:
                self._idle.pop().close()
            except IndexError:
                return

    def _take(self, end: float) -> tuple[socket.socket, bool]:
        if self._pid != os.getpid():
            # They are the parent's: closing our descriptors sends nothing on them.
            self._idle, self._pid = deque(), os.getpid()
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return self._connect(end), True
            if not _is_readable(connection):  # else the server has closed it, or says what nobody asked
                return connection, False
            connection.close()

    def _put(self, connection: socket.socket, response: Response) -> None:
        if response.keeps and len(self._idle) < MOST_IDLE:
            self._idle.append(connection)
        else:
            connection.close()

    def _connect(self, end: float) -> socket.socket:
        address = self._settings.address
        raw = None
        try:
            if address.path is not None:
                raw = socket.socket(socket.AF_UNIX)
                raw.settimeout(_left(end))
                raw.connect(address.path)
            else:
                raw = socket.create_connection((address.host, address.port), _left(end))
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._settings.tls is not None:
                raw.settimeout(_left(end))
                raw = self._settings.tls.wrap_socket(raw, server_hostname=address.host)
        except OSError as error:
            if raw is not None:
                raw.close()
            is_late = isinstance(error, _LATE)
            raise Lost("the time is up" if is_late else str(error), False, is_late) from None
        return raw

    def _exchange(self, connection: socket.socket, request: Request, reader: ResponseReader, end: float) -> Response:
        address = self._settings.address
        headers = {**self._settings.headers, **trace_headers()}
        if request.content_type:
            headers["Content-Type"] = request.content_type
        data = encode_request(request.method, address.prefix + request.path, address.authority, headers, request.body)
        connection.settimeout(_left(end))
        connection.sendall(data)
        while True:
            connection.settimeout(_left(end))
            response = reader.feed(connection.recv(_CHUNK))
            if response is not None:
                return response


def _left(end: float) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError("the time is up")
    return left


def _is_readable(connection: socket.socket) -> bool:
    waiting = select.poll()
    waiting.register(connection, select.POLLIN)
    return bool(waiting.poll(0))
