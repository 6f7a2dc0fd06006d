"""Publish from Flask: after the view, when it has succeeded."""

from __future__ import annotations

import logging
from typing import Any

import flask

from twisted_ws_publisher.errors import ConfigurationError, PublishError
from twisted_ws_publisher.publisher import Publisher
from twisted_ws_publisher.settings import from_environment

log = logging.getLogger("twisted_ws_publisher")

# The key in the application's configuration, and the argument of `Publisher`.
_OPTIONS = {
    "TWISTED_WS_URL": "url",
    "TWISTED_WS_KEY_FILE": "key_file",
    "TWISTED_WS_TIMEOUT": "timeout",
    "TWISTED_WS_ATTEMPTS": "attempts",
    "TWISTED_WS_CA_FILE": "ca_file",
}


class Push:
    """The extension: ``push = Push(app)``, or ``push = Push()`` and later ``push.init_app(app)``.

    Its settings are ``TWISTED_WS_URL``, ``_KEY_FILE``, ``_TIMEOUT``, ``_ATTEMPTS`` and ``_CA_FILE`` in the application's
    configuration, or in the environment.

    Raises:
        ConfigurationError: one is wrong.
    """

    def __init__(self, app: flask.Flask | None = None) -> None:
        if app is not None:
            self.init_app(app)

    def init_app(self, app: flask.Flask) -> None:
        """Use the settings of an application."""
        options = {argument: app.config[key] for key, argument in _OPTIONS.items() if app.config.get(key) is not None}
        if "url" not in options:
            options = {**from_environment(), **options}
        app.extensions["twisted-ws"] = Publisher(encode=app.json.dumps, **options)

    @property
    def publisher(self) -> Publisher:
        """The publisher of the current application, for all that is to happen at once."""
        publisher: Publisher = flask.current_app.extensions["twisted-ws"]
        return publisher

    def publish(self, channel: str, data: Any, *, key: str | None = None) -> None:
        """Publish after the current view, in one batch with what else it publishes; not if its answer is a 500 or above.

        A failure is logged: the work of the view is done. Outside a request, publish now.

        Raises:
            PublishError: outside a request.
        """
        if not flask.has_request_context():
            self.publisher.publish(channel, data, key=key)
            return
        waiting: list[tuple[str, Any, str | None]] | None = flask.g.get("_twisted_ws")
        if waiting is None:
            waiting = flask.g._twisted_ws = []
            flask.after_this_request(self._send)
        waiting.append((channel, data, key))

    def _send(self, response: flask.Response) -> flask.Response:
        waiting = flask.g.pop("_twisted_ws", [])
        if response.status_code < 500 and waiting:
            try:
                with self.publisher.batch() as batch:
                    for channel, data, key in waiting:
                        batch.publish(channel, data, key=key)
            except (PublishError, ConfigurationError) as error:
                log.error("%d messages of a view: %s", len(waiting), error)
        return response
