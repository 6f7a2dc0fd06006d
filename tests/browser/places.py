"""What the client runs in: browsers and Node, all driven the same way."""

from __future__ import annotations

import json
from typing import Any

from tests.browser.node import Node

# `connect` makes a client, which is closed at the end; `seen` waits for an event; `settled` tells how a promise ends.
_TOOLS = """
globalThis.clients = [];
globalThis.connect = (options, url = ORIGIN + "/channels") => {
    const client = new TwistedWS(url, { base: 100, ...(globalThis.Socket && { WebSocket: Socket }), ...options });
    clients.push(client);
    return client;
};
globalThis.seen = (emitter, type, fits = () => true) => new Promise((done) => {
    const off = emitter.on(type, (detail) => { if (fits(detail)) { off(); done(detail); } });
});
globalThis.settled = (promise) => promise.then((value) => ["done", value], (error) => [error.code || error.name, !!error.final]);
"""


class Place:
    """A browser's page or a process of Node, with the client in it."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self.isBrowser = not isinstance(driver, Node)
        self._begun = False

    def begin(self, port: int) -> None:
        """Open the page of a `Proxy`, and have the tools there."""
        origin = f"http://localhost:{port}"
        load = ""
        if self.isBrowser:
            self._driver.open(origin + "/page")
            load = 'Object.assign(globalThis, await import("/twisted-ws.mjs")); sessionStorage.clear();'
        self.run(f"(async () => {{ globalThis.ORIGIN = {origin!r}; {load} {_TOOLS} }})()")
        self._begun = True

    def run(self, script: str, **values: Any) -> Any:
        """Return the value of a JavaScript expression, awaited where it is a promise; `values` are names in it."""
        given = "".join(f"const {name} = {json.dumps(value)};" for name, value in values.items())
        return self._driver.run(f"(async () => {{ {given} return await ({script}); }})()")

    def wait(self, condition: str) -> Any:
        """Return the first true value of an expression, which is asked for again and again."""
        look = f"const look = () => {{ const found = ({condition}); found ? done(found) : setTimeout(look, 20) }}"
        return self.run(f"new Promise(done => {{ {look}; look() }})")

    def end(self) -> None:
        """Close the clients."""
        if self._begun:
            self.run("clients.forEach((each) => each.close())")
