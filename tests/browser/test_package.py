from __future__ import annotations

import gzip
import json
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.browser.node import PACKAGE, environment, installed
from tests.live.support import running
from twisted_ws.web.scripts import CLIENT

ROOT = Path(__file__).parents[2]
TYPESCRIPT = "5.9.3"  # runs on every Node that the client does


def _run(*command: str | Path) -> str:
    done = subprocess.run(command, cwd=PACKAGE, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["twisted-ws.js", "twisted-ws.mjs"])
def test_size(name: str) -> None:
    """A page loads less than 10 kB."""
    assert len(gzip.compress(CLIENT[name], mtime=0)) < 10_000


@pytest.mark.parametrize("name", sorted(CLIENT))
def test_thePackageHasWhatIsServed(name: str) -> None:
    """The files of the npm package are those that a server serves (tools/js writes them)."""
    assert (PACKAGE / name).read_bytes() == CLIENT[name]


def test_thePackageIsWhole() -> None:
    """What npm would publish: the three files, with the version and the license of this package."""
    (packed,) = json.loads(_run("npm", "pack", "--dry-run", "--json", "--ignore-scripts"))
    assert sorted(each["path"] for each in packed["files"]) == sorted([*CLIENT, "LICENSE", "README.md", "package.json"])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (packed["name"], packed["version"]) == ("twisted-ws", project["version"])
    assert (PACKAGE / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_theClientByItself() -> None:
    """Its own tests pass: waits, transports, resume and publishing against stand-ins, with a clock that they turn."""
    output = _run("node", "--test", "--test-reporter=tap", *sorted((PACKAGE / "test").glob("*.test.mjs")))
    assert "\n# fail 0\n" in output
    assert "\n# pass 0\n" not in output


def test_theTypes() -> None:
    """A program that uses all of it compiles under tsc --strict, and mistakes do not."""
    # Of the types, those that TypeScript brings along are not checked.
    _run(installed("typescript", TYPESCRIPT) / "bin" / "tsc", "--project", "test", "--skipDefaultLibCheck")


def test_nodeHasItAsAModule(tmp_path: Path) -> None:
    """An ES module of Node imports it by its name, and the plain script for its effect."""
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / "twisted-ws").symlink_to(PACKAGE)
    program = tmp_path / "program.mjs"
    program.write_text(
        """
        import { TwistedWS, TwistedWSError } from "twisted-ws";
        import "twisted-ws/script";
        new TwistedWS("http://localhost/channels").close();
        console.log(TwistedWS.name, TwistedWSError.name, globalThis.TwistedWS.name, globalThis.TwistedWS === TwistedWS);
        """
    )
    assert _run("node", program) == "TwistedWS TwistedWSError TwistedWS false\n"


def test_nodeAgainstAServer(tmp_path: Path) -> None:
    """By each transport that this Node has, a program gets what it publishes; it ends when the client is closed."""
    program = tmp_path / "program.mjs"
    program.write_text(
        f"""
        import {{ TwistedWS }} from {json.dumps(str(PACKAGE / "twisted-ws.mjs"))};
        for (const transport of globalThis.WebSocket ? ["websocket", "sse", "poll"] : ["sse", "poll"]) {{
            const client = new TwistedWS(process.argv[2], {{ transports: [transport] }});
            const channel = `playground.${{transport}}`;
            const got = new Promise(done => client.subscribe(channel, ({{ data }}) => done(data), {{ after: "0" }}));
            const {{ id }} = await client.publish(channel, {{ by: client.transport ?? transport, sum: 1 }});
            console.log(JSON.stringify(await got), id.split(":")[1], (await client.presence(channel)).members.length);
            client.close();
        }}
        """
    )
    with running(tmp_path) as server:
        lines = _run("node", program, f"http://localhost:{server.port('ws')}/playground").splitlines()
    expected = [f'{{"by":"{transport}","sum":1}} 1 0' for transport in ("websocket", "sse", "poll")]
    assert lines in (expected, expected[1:])
