"""A real Node, driven by lines; and what npm installs for it."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from tests.live.support import PATIENCE

PACKAGE = Path(__file__).parents[2] / "js"
NODE = Path(sys.prefix) / "node"

_DRIVER = """
import { createInterface } from "node:readline";
const [client, socket] = process.argv.slice(1);
const modules = await Promise.all([client, socket].filter(Boolean).map((each) => import(each)));
Object.assign(globalThis, { Socket: modules[1]?.WebSocket }, modules[0]);
for await (const line of createInterface({ input: process.stdin })) {
    let answer;
    try {
        answer = { value: await (0, eval)(JSON.parse(line)) };
    } catch (error) {
        answer = { error: `${error?.stack}` };
    }
    console.log(JSON.stringify(answer));
}
"""


def environment() -> dict[str, str]:
    """Return the environment of a Node, without what tells it to be another; npm has to know whom to trust."""
    return {name: value for name, value in os.environ.items() if name not in ("NODE_OPTIONS", "NODE_PATH", "NODE_TEST_CONTEXT")}


def installed(package: str, version: str) -> Path:
    """Return the folder of an npm package, installed for these tests."""
    NODE.mkdir(exist_ok=True)
    with (NODE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # other processes run tests, too
        folder = NODE / "node_modules" / package
        if not folder.exists():
            options = ["--prefer-offline", "--no-audit", "--no-fund", "--ignore-scripts"]
            command = ["npm", "install", "--prefix", NODE, *options, f"{package}@{version}"]
            done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Node:
    """One process of Node with the client: `TwistedWS`, and `Socket` where it has a WebSocket of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._lines: SimpleQueue[str] = SimpleQueue()
        self._errors: list[str] = []
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._read, self._readErrors)]
        for each in self._threads:
            each.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def _readErrors(self) -> None:
        assert self._process.stderr is not None
        self._errors += self._process.stderr

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression, awaited where it is a promise."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(script) + "\n")
        self._process.stdin.flush()
        try:
            line = self._lines.get(timeout=PATIENCE)
        except Empty:
            raise AssertionError(f"Node does not answer: {script}") from None
        assert line, f"Node has ended: {''.join(self._errors)}"
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer.get("value")

    def end(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        for each in self._threads:
            each.join(PATIENCE)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()


def _hasWebSocket(*flags: str) -> bool:
    look = "process.exit(typeof WebSocket === 'function' ? 0 : 1)"
    return subprocess.run(["node", *flags, "-e", look], env=environment(), capture_output=True, check=False).returncode == 0


@contextmanager
def node(socket: str) -> Iterator[Node]:
    """Start Node.

    Args:
        socket: whose WebSocket the client gets: "own" (Node's, or before it had one the package that it has it from), or "ws".
    """
    flags: Sequence[str] = []
    module = []
    if socket == "ws":
        module = [str(installed("ws", "8") / "wrapper.mjs")]
    elif not _hasWebSocket():
        flags = ["--experimental-websocket"]
        if not _hasWebSocket(*flags):
            flags, module = [], [str(installed("undici", "6") / "index.js")]
    command = ["node", *flags, "--input-type=module", "-e", _DRIVER, str(PACKAGE / "twisted-ws.mjs"), *module]
    pipes: Any = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    found = Node(subprocess.Popen(command, env=environment(), text=True, **pipes))
    try:
        yield found
    finally:
        found.end()
