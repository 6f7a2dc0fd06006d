from __future__ import annotations

import json
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
import yaml
from twisted.internet.defer import Deferred, inlineCallbacks

from tests.browser.node import environment, installed
from tests.commands.support import command
from tests.live.support import PATIENCE
from twisted_ws import CloseFrame, WebSocketService, dispatches
from twisted_ws.channels.service import ChannelService
from twisted_ws.commands.asyncapi.document import About, Described, document
from twisted_ws.commands.asyncapi.schemas import replyOf
from twisted_ws.commands.asyncapi.yaml import asYAML

EXAMPLES = Path(__file__).parents[3] / "examples"
ABOUT = About("Test", "1.2.3", "wss://push.example/base")

# Reads documents from standard input, as JSON strings, and writes the errors and warnings of each.
_SCRIPT = """
const { Parser } = require(process.argv[1]);
const texts = JSON.parse(require("fs").readFileSync(0, "utf8"));
(async () => {
    const found = [];
    for (const text of texts) {
        const { document, diagnostics } = await new Parser().parse(text);
        found.push({
            problems: diagnostics.filter((each) => each.severity < 2).map((each) => `${each.path.join("/")}: ${each.message}`),
            channels: document ? document.channels().all().map((each) => each.address()) : null,
            operations: document ? document.operations().all().map((each) => each.id()) : null,
        });
    }
    console.log(JSON.stringify(found));
})();
"""


def parsed(*texts: str) -> list[dict[str, Any]]:
    """Return what the parser of the AsyncAPI initiative says of documents; none has a problem."""
    parser = installed("@asyncapi/parser", "3.6.6")
    done = subprocess.run(
        ["node", "-e", _SCRIPT, str(parser)],
        input=json.dumps(texts),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    assert [each["problems"] for each in found] == [[] for _ in texts]
    return found


def of(*services: tuple[str, object], rules: Any = None, **security: str) -> dict[str, Any]:
    """Return the document of services."""
    return document(ABOUT, [Described(path, each, security) for path, each in services], rules or {})


CONFIGURATION = """
authenticate = ["site"]
[authenticators.site]
type = "jwt"
secret-file = "secret"
[services."/orders"]
target = "orders:Orders"
[services."/rooms/{room}"]
target = "rooms:Rooms"
[services."/numbers/{id:int}"]
target = "divider:Divider"
[services."/ticker"]
target = "ticker:Ticker"
[services."/echo"]
target = "echo:Echo"
[services."/pings"]
target = "pings:Pings"
[services."/channels"]
target = "channels"
[channels."orders.*"]
subscribe = "granted"
[channels."users.{user}.*"]
subscribe = "owner"
publish = "owner"
[channels."*"]
subscribe = "nobody"
"""


def test_examples(tmp_path: Path) -> None:
    """The services of the examples make a document that the official parser accepts, as YAML and as JSON, which say the same."""
    for path in EXAMPLES.glob("*.py"):
        (tmp_path / path.name).write_text(path.read_text())
    (tmp_path / "secret").write_text("s" * 64)
    (tmp_path / "secret").chmod(0o600)
    (tmp_path / "push.toml").write_text(CONFIGURATION)
    options = ("asyncapi", "--config", "push.toml", "--title", "Shop: orders", "--url", "wss://push.example")
    plain, asJSON = command(tmp_path, *options), command(tmp_path, *options, "--json")
    assert (plain.code, plain.err, asJSON.code) == (0, "", 0)
    assert yaml.safe_load(plain.out) == json.loads(asJSON.out)
    (found, other) = parsed(plain.out.decode(), asJSON.out.decode())
    assert found == other
    assert {"/orders", "/rooms/{room}", "/numbers/{id}", "/channels", "orders.{rest}", "users.{user}.{rest}", "{rest}"} == {
        *found["channels"]
    } - {"/ticker", "/echo", "/pings"}
    assert {"channel-orders-subscribe", "channel-users-user-subscribe", "channel-users-user-publish"} <= {*found["operations"]}
    assert not any(each.startswith("channel-root") for each in found["operations"])
    made = json.loads(asJSON.out)
    assert made["info"]["title"] == "Shop: orders"
    assert made["servers"]["server"] == {"host": "push.example", "protocol": "wss"}
    order = made["components"]["messages"]["orders-order"]["payload"]["allOf"]
    assert order[0] == {"$ref": "#/components/schemas/Order"}
    assert order[1]["properties"]["event"] == {"enum": ["order", "Order"]}
    assert made["components"]["schemas"]["Order"]["properties"]["count"] == {
        "type": "integer",
        "minimum": 1,
        "maximum": 100,
        "default": 1,
    }
    assert made["operations"]["orders-onOrder"]["security"] == [{"$ref": "#/components/securitySchemes/site"}]
    assert made["components"]["securitySchemes"]["site"]["bearerFormat"] == "JWT"


# Names and types that mean something to somebody else: references, other languages, prototypes, controls.


class Node(msgspec.Struct, tag="nod/e~1"):
    """A type that has itself in it."""

    children: list[Node] = []
    pair: tuple[int, str] = (0, "")


class Größe(msgspec.Struct, tag="größe"):
    """Has fields that are words of JSON Schema and of references.

    Attributes:
        ref: a reference.
    """

    ref: Annotated[str, msgspec.Meta(description="\x1b[31m \u2028 ${{ }} #")] = msgspec.field(name="$ref", default="")
    properties: dict[str, int] = msgspec.field(name="properties", default_factory=dict)
    proto: int = msgspec.field(name="__proto__", default=0)
    discriminator: bool = False
    prefixItems: list[int] = []


@dataclass
class Item:
    it: int


def _other() -> type:
    @dataclass
    class Item:
        other: str

    return Item


Other: Any = _other()


class Hostile(WebSocketService):
    """Says: *nothing*, {{template}}, </script>, yes."""

    dispatcherKey = "$ref"
    dispatcherStreamId = "a/b~c"
    subProtocols = ["v1", "no"]

    @dispatches("a/b~c $ref #/x%2F")
    def first(self, caller: Any, message: Item) -> Item | None:
        """Take a # sign: and - more."""

    @dispatches("\x00\x1b\ud800\u2028")
    def second(self, caller: Any, message: Other) -> Other:
        """yes: no."""

    @dispatches("__proto__")
    def third(self, caller: Any, message: Node | Größe) -> AsyncIterator[Größe]:
        """# null."""
        raise NotImplementedError

    @dispatches(" ")
    def fourth(self, caller: Any, message: Any) -> str | CloseFrame:
        raise NotImplementedError

    def onПривет(self, caller: Any, message: dict[str, Any]) -> bytes:
        raise NotImplementedError


def test_hostileNames() -> None:
    """Whatever paths, events, fields, types and texts are called, the parser accepts the document, and nothing is lost."""
    rules = {
        "users.{user}": {"subscribe": "owner"},
        "~server": {"subscribe": "nobody", "publish": "nobody"},
        "a-b": {},
        "a.b": {},
    }
    services = [
        ("/", Hostile()),
        ("/$ref/~1/%", Hostile()),
        ("/ключ/{p:int}", Hostile()),
        ("/a-b", Hostile()),
        ("/a/b", ChannelService()),
        ("/no", ChannelService()),
        ("/__proto__", Hostile()),
    ]
    made = of(*services, rules=rules, **{"si/te~ü": "basic", "__proto__": "certificate", "other": "unknown"})
    text = asYAML(made)
    assert yaml.safe_load(text) == made
    assert not {*text} & {chr(code) for code in (*range(10), *range(11, 32), 0x7F, 0x85, 0x2028)}
    (found,) = parsed(text)
    paths = [each for each in found["channels"] if each.startswith("/")]
    assert paths == ["/", "/$ref/~1/%", "/ключ/{p}", "/a-b", "/a/b", "/no", "/__proto__"]
    assert len(found["channels"]) == len(services) + len(rules)
    names = {each["name"] for each in made["components"]["messages"].values()}
    assert {"a/b~c $ref #/x%2F", "\x00\x1b\ufffd\u2028", "__proto__", " ", "привет"} <= names
    schemas = made["components"]["schemas"]
    assert sorted(each["properties"].keys() for each in schemas.values() if each.get("title") == "Item") == [{"it"}, {"other"}]
    odd = next(each for each in schemas.values() if each["title"] == "Größe")
    assert set(odd["properties"]) == {"type", "properties", "discriminator", "prefixItems"}
    # What tools would take for something else than a name is a pattern that means the same.
    assert all(re.fullmatch(each, name) for each, name in zip(odd["patternProperties"], ("$ref", "__proto__"), strict=True))


class Answers:
    def nothing(self) -> None: ...
    def unknown(self): ...  # type: ignore[no-untyped-def]
    def anything(self) -> Any: ...
    def missing(self) -> Nowhere: ...  # type: ignore[name-defined]  # noqa: F821
    def close(self) -> CloseFrame | None: ...
    def text(self) -> str | None: ...
    async def later(self) -> Item: ...
    def deferred(self) -> Deferred[bytes]: ...
    def stream(self) -> Iterator[Item]: ...
    async def streamLater(self) -> AsyncIterator[str]: ...
    def list(self) -> list[str]: ...

    @inlineCallbacks
    def inline(self) -> Any: ...


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((name, None) for name in ("nothing", "unknown", "anything", "missing", "close", "inline")),
        *[("text", ("text", False)), ("later", ("json", False)), ("deferred", ("binary", False))],
        *[("stream", ("json", True)), ("streamLater", ("text", True)), ("list", ("json", False))],
    ],
)
def test_replies(name: str, expected: tuple[str, bool] | None) -> None:
    """What a handler says that it returns is its reply, later or in a stream; what is not sent is none."""
    reply = replyOf(getattr(Answers, name))
    assert (None if reply is None else (reply.content.kind, reply.isStream)) == expected


def test_mistakes(tmp_path: Path) -> None:
    """A service that cannot be loaded is one line and exit code 1; an option that is wrong is exit code 2."""
    done = command(tmp_path, "asyncapi", "--service", "/a=nothing:Here", "--service", "/b=demo")
    assert (done.code, done.out, done.err.count("\n")) == (1, b"", 1)
    assert "nothing" in done.err
    for url in ("http://host", "ws://", "ws://user@host", "ws://host/?x"):
        assert command(tmp_path, "asyncapi", "--url", url).code == 2


@pytest.mark.parametrize(
    "value",
    [
        *("yes", "No", "null", "~", "1e3", "0x10", "12:30", "2027-01-31", "- a", "a: b", "# a", "", " a", "a ", "a\nb", "*a"),
        *("{a", "?", "|", ">", "%", "@", "`", "'", '"', "\\", "a\tb", "\x85", "\ufeff", "😀", "on", "=", "<<", ".inf", "1.0.0"),
        *([], {}, [[]], [[1, [2]], {"a": [{"b": None}]}], {"a": {}}, {"yes": True, "1": 1.5, "": [""]}, [{"a": 1, "b": [2]}, 3]),
    ],
)
def test_yaml(value: Any) -> None:
    """What is written as YAML is read as the same by another's parser."""
    document = {"value": value, "list": [value, value]}
    assert yaml.safe_load(asYAML(document)) == document
