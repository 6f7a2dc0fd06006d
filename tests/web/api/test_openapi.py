from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.live.nursery import BIN
from tests.live.support import PATIENCE, environment, running
from tests.web.worlds import Client, World
from twisted_ws.access.publishers.credentials import Credentials
from twisted_ws.limits import Limits
from twisted_ws.web.api.broadcast import broadcastSite
from twisted_ws.web.api.openapi import PATH, openAPI
from twisted_ws.web.api.operations import OPERATIONS

KEY = "0123456789abcdef0123"

# What schemathesis would have otherwise, and why not:
# - GET, DELETE and others with a body are a 400 by themselves, whatever the path (a parser in front may read them otherwise);
# - what is too long is a 413;
# - a channel whose history was deleted is still there.
SETTINGS = """
[phases.coverage]
unexpected-methods = ["PUT", "PATCH"]

[checks.negative_data_rejection]
expected-statuses = [400, 401, 404, 405, 413, 415]

[checks.use_after_free]
enabled = false
"""


@pytest.fixture
def document() -> Any:
    """The document of a server with API keys and passwords, and limits of its own."""
    return json.loads(openAPI(Limits(answerMessages=77, channelName=33), ('Bearer realm="x"', 'Basic realm="x"')))


def references(value: Any) -> list[str]:
    """Return all references in a document."""
    if isinstance(value, list):
        return [found for each in value for found in references(each)]
    if not isinstance(value, dict):
        return []
    mine = [str(value["$ref"])] if "$ref" in value else []
    return mine + [found for each in value.values() for found in references(each)]


def test_oneTruth(document: Any) -> None:
    """The document has exactly the operations that are routed, by path and method."""
    documented = {(path, method.upper()) for path, methods in document["paths"].items() for method in methods}
    assert documented == {(each.path, each.method) for each in OPERATIONS} | {(PATH, "GET")}
    world = World()
    back = Client(broadcastSite(world.server, Credentials(reactor=world.clock)), world.clock)
    for path, methods in document["paths"].items():
        allowed = back.get(path.replace("{channel}", "orders.42"), method="OPTIONS").header("allow")
        assert {*allowed.split(", ")} - {"HEAD", "OPTIONS"} == {method.upper() for method in methods}
    for operation in OPERATIONS:
        described = document["paths"][operation.path][operation.method.lower()]
        assert ("requestBody" in described) is (operation.body is not None or operation.posts)


def test_references(document: Any) -> None:
    """Each schema that is referred to exists, and each that exists is referred to."""
    found = {reference.removeprefix("#/components/schemas/") for reference in references(document)}
    assert found == set(document["components"]["schemas"])


def test_limits(document: Any) -> None:
    """The document has this server's limits, and no trace of how they got there."""
    described = document["paths"]["/api/channels/{channel}/history"]["get"]
    parameters = {each["name"]: each["schema"] for each in described["parameters"]}
    limit = parameters["limit"]
    assert (limit["type"], limit["minimum"], limit["maximum"]) == ("integer", 1, 77)
    assert parameters["channel"]["maxLength"] == 33
    assert "x-limit" not in json.dumps(document)


def test_security(document: Any) -> None:
    """The security schemes are those that the server accepts; only the document itself needs none."""
    assert document["security"] == [{"bearer": []}, {"basic": []}]
    assert set(document["components"]["securitySchemes"]) == {"bearer", "basic"}
    unguarded = [path for path, methods in document["paths"].items() for each in methods.values() if "security" in each]
    assert unguarded == [PATH]
    assert json.loads(openAPI(Limits(), ()))["security"] == []


def test_schemathesis(tmp_path: Path) -> None:
    """A running server does what its document promises, and refuses what it forbids; checked by schemathesis."""
    keys = tmp_path / "keys"
    keys.touch(0o600)
    keys.write_text(f"shop: {KEY}\n")
    (tmp_path / "schemathesis.toml").write_text(SETTINGS)
    (tmp_path / "server.toml").write_text("[limits]\nauthFailures = 1000\n")  # it tries a wrong key with each operation
    with running(tmp_path, "--api-key-file", str(keys), "--config", str(tmp_path / "server.toml")) as server:
        url = f"http://127.0.0.1:{server.port('http')}{PATH}"
        command = [BIN / "schemathesis", "run", url, "--header", f"Authorization: Bearer {KEY}", "--no-color", "--seed", "1"]
        options = ["--max-examples", "10", "--phases", "coverage,fuzzing,stateful", "--continue-on-failure"]
        done = subprocess.run(
            [*command, *options],
            cwd=tmp_path,
            env=environment(tmp_path, PATH=os.environ["PATH"], NO_PROXY="*"),
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
        tested = re.search(r"Tested: (\d+)", done.stdout)
        assert tested is not None
        assert int(tested[1]) == len(OPERATIONS)
        assert "Traceback" not in server.output
