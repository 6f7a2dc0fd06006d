// A fault affects only its own channel, publication or transport; and nothing that a server says causes a storm of requests.

import assert from "node:assert/strict";
import { afterEach, test } from "node:test";

import { TwistedWS } from "../twisted-ws.mjs";
import { Request, Socket, opened, request, socket, start, stop, tick, timers, turn, watched } from "./doubles.mjs";

afterEach(stop);

const MINUTE = 60000;
const subscribed = (channel, id = "e:0", more) => ({ type: "subscribed", channel, id, recovered: false, count: 0, ...more });
const message = (channel, offset) => ({ type: "message", channel, id: `e:${offset}`, data: offset });
const channelsOf = ({ url }) => url.searchParams.getAll("channel");
const open = () => Request.all.filter(({ aborted, settled, stream }) => !aborted && (!settled || stream));

// Answer the request of an event stream or a poll so that its channels are subscribed.
function grant(each, transport, offset = 0) {
  const names = channelsOf(each);
  const recovered = "after" in each.query;
  if (transport === "sse") return each.open(...names.map((name) => subscribed(name, `e:${offset}`, { recovered })));
  const id = names.length === 1 ? `e:${offset}` : names.map((name) => `${name}=e:${offset}`).join();
  return each.answer({ id, recovered, messages: [] });
}

// Channels.

for (const transport of ["sse", "poll"]) {
  for (const [status, code] of [[429, "too-many-requests"], [503, "unavailable"], [500, "internal-error"]]) {
    test(`${transport}: one channel temporarily refused with ${status} does not delay the others`, async () => {
      const client = start({ transports: [transport] });
      const [, a] = watched(client, "a");
      const [b, log] = watched(client, "b");
      const [, c] = watched(client, "c");
      await turn();
      await request().answer({ error: code, message: "not now", channel: "b" }, status, { "Retry-After": "5" });
      assert.deepEqual(channelsOf(request()), ["a", "c"]);
      await grant(request(), transport);
      assert.deepEqual([a.at(-1), c.at(-1), log], [["subscribed", "e:0"], ["subscribed", "e:0"], [["error", code]]]);
      assert.deepEqual([b.active, client.seen("error")[0].final, client.seen("close"), client.seen("retry")], [true, false, [], []]);
      const others = request();

      // It is requested separately, and the others are not touched until it is accepted.
      await tick(5499);
      assert.equal(request(), others);
      await tick(1);
      assert.deepEqual([channelsOf(request()), request().query.wait], [["b"], "0"]);
      await request().answer({ error: code, message: "not now", channel: "b" }, status);
      await tick(999);
      assert.deepEqual(channelsOf(request()), ["b"]);
      assert.equal(request().settled, true);
      await tick(1);
      await request().answer({ id: "e:7", recovered: false, messages: [] });
      assert.ok(others.aborted);
      assert.deepEqual([channelsOf(request()), request().query.after], [["a", "b", "c"], "a=e:0,c=e:0"]);
      await grant(request(), transport, 8);
      assert.deepEqual(log, [["error", code], ["error", code], ["subscribed", "e:8"]]);
    });
  }

  test(`${transport}: the whole client waits for its only remaining channel`, async () => {
    const client = start({ transports: [transport] });
    client.subscribe("a");
    await turn();
    await request().answer({ error: "too-many-requests", message: "", channel: "a" }, 429);
    assert.deepEqual([client.state, client.seen("retry").length, client.seen("error")], ["waiting", 1, []]);
    await tick(500);
    await grant(request(), transport);
    assert.equal(client.state, "open");
  });

  test(`${transport}: the whole client waits after a whole request is refused`, async () => {
    const client = start({ transports: [transport] });
    for (const each of ["a", "b", "c"]) client.subscribe(each);
    await turn();
    await request().answer({ error: "unavailable", message: "The server is stopping." }, 503);
    assert.deepEqual([client.state, Request.all.length], ["waiting", 1]);
    await tick(500);
    assert.deepEqual([channelsOf(request()), Request.all.length], [["a", "b", "c"], 2]);
  });

  test(`${transport}: a waiting channel is dropped, unsubscribed and lost like any other`, async () => {
    const client = start({ transports: [transport] });
    client.subscribe("a");
    const b = client.subscribe("b");
    client.subscribe("c");
    await turn();
    for (const channel of ["b", "c"]) await request().answer({ error: "too-many-requests", message: "", channel }, 429);
    assert.deepEqual(channelsOf(request()), ["a"]);
    await grant(request(), transport);
    const stream = request();
    b.unsubscribe();
    await turn();
    assert.equal(request(), stream);
    client.pause();
    await tick(MINUTE);
    assert.deepEqual(Request.all.filter((each) => !each.aborted && !each.settled), []);
    client.resume();
    await turn();
    assert.deepEqual(channelsOf(request()), ["a", "c"]);
  });

  test(`${transport}: many channels are split into requests that fit; each channel is in one of them`, async () => {
    const client = start({ transports: [transport] });
    const names = Array.from({ length: 300 }, (_, number) => `${"long-".repeat(9)}${number}`);
    const logs = new Map(names.map((each) => [each, watched(client, each)[1]]));
    await turn();
    await tick(0);
    const all = open();
    assert.ok(all.length > 1 && all.length < 10, `${all.length}`);
    assert.deepEqual(all.flatMap(channelsOf).sort(), [...names].sort());
    for (const each of all) await grant(each, transport);
    assert.deepEqual([client.state, client.seen("open").length], ["open", 1]);
    for (const each of open()) {
      const messages = channelsOf(each).map((name) => message(name, 1));
      if (transport === "sse") await each.frames(...messages);
      else await each.answer({ id: channelsOf(each).map((name) => `${name}=e:1`).join(), recovered: true, messages });
    }
    assert.ok([...logs.values()].every((log) => log.length === 2 && log[1][1] === "e:1"));
    client.pause();
    client.resume();
    await turn();
    for (const each of Request.all) assert.ok(each.url.href.length < 7000, `${each.url.href.length}`);
    assert.deepEqual(open().flatMap(channelsOf).sort(), [...names].sort());
    assert.ok(open().every(({ query }) => query.after.includes("=e:1,")));

    // If one is lost, all are dropped, and all come back.
    const lost = open();
    await lost[1].fail();
    assert.deepEqual([client.state, lost.every(({ aborted, settled }) => aborted || settled)], ["waiting", true]);
    await tick(1000);
    assert.deepEqual(open().flatMap(channelsOf).sort(), [...names].sort());
  });

  for (const [status, error] of [[414, "target-too-long"], [431, "head-too-large"], [429, "too-many-channels"], [414, undefined]]) {
    test(`${transport}: a request for too many channels at once (${error || status}) is split, down to the one that is too long by itself`, async () => {
      const client = start({ transports: [transport] });
      const logs = ["a", "b", "c", "d", "x".repeat(50)].map((each) => watched(client, each)[1]);
      await turn();
      for (let steps = 0; steps < 20; steps++) {
        for (const each of open().filter(({ settled }) => !settled)) {
          if (each.aborted) continue;
          const names = channelsOf(each);
          if (names.length > 2 || names[0].length > 40) await each.answer(error ? { error, message: "" } : null, status);
          else if (each.query.wait !== "25") await grant(each, transport);
        }
      }
            assert.deepEqual(logs.map(([[type]]) => type), ["subscribed", "subscribed", "subscribed", "subscribed", "error"]);
      assert.deepEqual([client.seen("error").length, client.seen("error")[0].final, client.state], [1, true, "open"]);
      assert.deepEqual(open().flatMap(channelsOf).sort(), ["a", "b", "c", "d"]);
      assert.ok(Request.all.length < 25, `${Request.all.length}`);
    });
  }
}

test("a pattern and a matching channel in different requests each get a message once", async () => {
  const client = start({ transports: ["sse"] });
  const got = [];
  client.subscribe("a.*", ({ id }) => got.push(["pattern", id]));
  client.subscribe("a.b", ({ id }) => got.push(["channel", id]));
  await turn();
  await request().answer(null, 414);
  assert.deepEqual(open().map(channelsOf), [["a.*"], ["a.b"]]);
  const [first, second] = open();
  await first.open(subscribed("a.*", null));
  await second.open(subscribed("a.b"));
  await first.frames(message("a.b", 1));
  await second.frames(message("a.b", 1));
  assert.deepEqual(got, [["pattern", "e:1"], ["channel", "e:1"]]);
});

test("when the server ends all subscriptions of a request, the other requests go on", async () => {
  const client = start({ transports: ["sse"] });
  const [, a] = watched(client, "a");
  watched(client, "b");
  await turn();
  await request().answer(null, 414);
  const [first, second] = open();
  await first.open(subscribed("a"));
  await second.open(subscribed("b"));
  await first.frames({ type: "unsubscribed", channel: "a", reason: "be nice" });
  await first.end();
  assert.deepEqual([a.at(-1), client.seen("close"), client.state], [["error", "unsubscribed"], [], "open"]);
  assert.deepEqual(channelsOf(request()), ["b"]);
});

// No storm of requests, whatever the server says.

for (const [value, wait] of [
  ["9".repeat(12), 2 ** 31 - 1], ["9".repeat(400), 2 ** 31 - 1], [String(2 ** 31), 2 ** 31 - 1], [new Date(8.64e15).toUTCString(), 2 ** 31 - 1],
  ["later", 500], ["-5", 500], ["NaN", 500], ["Infinity", 500], ["1e3", 500], ["0", 500], ["Thu, 01 Jan 1970 00:00:00 GMT", 500],
]) {
  test(`Retry-After: ${value.slice(0, 30)} causes no storm`, async () => {
    const client = start({ transports: ["sse"] });
    client.subscribe("a");
    await turn();
    await request().answer({ error: "unavailable", message: "" }, 503, { "Retry-After": value });
    const { delay } = client.seen("retry")[0];
    assert.equal(delay, wait);
    await tick(delay - 1);
    assert.equal(Request.all.length, 1);
    await tick(1);
    assert.equal(Request.all.length, 2);
  });
}

test("a Retry-After date counts from the date of the response: the machine's clock may be wrong", async () => {
  const client = start({ transports: ["sse"] });
  client.subscribe("a");
  await turn();
  const headers = { Date: "Sun, 06 Nov 2050 08:49:37 GMT", "Retry-After": "Sun, 06 Nov 2050 08:49:47 GMT" };
  await request().answer({ error: "unavailable", message: "" }, 503, headers);
  assert.equal(client.seen("retry")[0].delay, 10500);
});

for (const value of [NaN, Infinity, -1, 0, "soon", null, {}, 2 ** 40, undefined]) {
  test(`a server that says ${typeof value} ${String(value)} where a time should be causes no storm`, async () => {
    const { client } = await opened({ base: 1000 });
    socket().lose();
    await tick(500);
    socket().onmessage({ data: `{"type":"welcome","retry":${JSON.stringify(value) ?? "null"},"ping":${JSON.stringify(value) ?? "null"}}` });
    await tick(20000);
    assert.deepEqual(socket().sent.filter(({ type }) => type === "ping"), []);
    socket().lose();
    assert.equal(client.seen("retry").at(-1).delay, 500);
    stop();

    const other = start({ transports: ["sse"] });
    other.subscribe("a");
    await turn();
    await request().open();
    await request().bytes(`retry: ${value}\n\n`);
    await request().end();
    assert.equal(other.seen("retry")[0].delay, 500);
  });
}

for (const options of [
  { base: 0 }, { base: NaN }, { base: -1 }, { base: "1000" }, { base: null }, { base: 2 ** 31 }, { base: Infinity }, { base: 1000n },
  { cap: 0 }, { cap: 99 }, { cap: Infinity }, { heartbeat: 0 }, { heartbeat: 999 }, { timeout: 0 }, { timeout: 2 ** 31 },
  { publishTimeout: 0 }, { publishTimeout: Infinity }, { upgrade: 0 }, { upgrade: "often" },
  { transports: [] }, { transports: "sse" }, { transports: null }, { transports: ["flash"] }, { transports: ["websocket"], WebSocket: null },
  { credentials: "yes" }, { WebSocket: "ws" }, { WebSocket: false }, { fetch: null }, { transport: ["sse"] },
]) {
  const [[name, value]] = Object.entries(options);
  test(`an invalid option is a TypeError: ${name} ${typeof value === "bigint" ? "1000n" : JSON.stringify(value)}`, () => {
    assert.throws(() => new TwistedWS("http://host/channels", options), TypeError);
  });
}

test("an undefined option has its default", async () => {
  const names = ["transports", "base", "cap", "heartbeat", "timeout", "publishTimeout", "upgrade", "credentials"];
  const client = start(Object.fromEntries(names.map((name) => [name, undefined])));
  client.subscribe("a");
  await turn();
  socket().welcome();
  await tick(24999);
  assert.equal(socket().sent.at(-1).type, "subscribe");
  await tick(10001);
  assert.equal(client.seen("close")[0].code, "timeout");
  assert.equal(client.seen("retry")[0].delay, 500);
});

test("where there is no WebSocket and nothing else may be used, the error names the option to give", () => {
  for (const WebSocket of [null, undefined]) {
    assert.throws(() => start({ transports: ["websocket"], WebSocket }), { name: "TypeError", message: "option WebSocket cannot be missing here" });
  }
});

test("there is no WebSocket if the option is null", async () => {
  const client = start({ WebSocket: null });
  client.subscribe("a");
  await turn();
  assert.equal(request().init.headers.Accept, "text/event-stream");
});

test("invalid addresses, channels, positions, keys and listeners are TypeErrors, and leave nothing behind", async () => {
  for (const url of ["ftp://host/", "mailto:a@b", "/channels", "", null, undefined, 5]) assert.throws(() => new TwistedWS(url), TypeError);
  const { client } = await opened();
  for (const channel of [undefined, null, 5, {}, "\ud800"]) {
    assert.throws(() => client.subscribe(channel), TypeError);
    await assert.rejects(client.publish(channel, 1), TypeError);
    await assert.rejects(client.presence(channel), TypeError);
  }
  for (const after of [5, 0, "", "e", "e:", "e:1,b", "e:x", "a=e:1", {}]) assert.throws(() => client.subscribe("b", null, { after }), TypeError);
  for (const presence of [1, null, "true"]) assert.throws(() => client.subscribe("b", null, { presence }), TypeError);
  for (const listener of [5, "x", {}, ""]) assert.throws(() => client.subscribe("b", listener), TypeError);
  assert.throws(() => client.on("open"), TypeError);
  for (const key of [null, 5, {}]) await assert.rejects(client.publish("a", 1, { key }), TypeError);
  for (const idempotencyKey of [null, 5, "", "a b", "é", "x".repeat(129)]) await assert.rejects(client.publish("a", 1, { idempotencyKey }), TypeError);
  assert.equal(timers.size, 1);
  client.subscribe("b", undefined, { after: undefined, presence: undefined });
  client.subscribe("c", null, { after: null });
  assert.deepEqual(socket().sent.slice(-2).map(({ channel, after }) => [channel, after]), [["b", undefined], ["c", undefined]]);
});

test("a poll answered at once with old data causes no loop", async () => {
  const client = start({ transports: ["poll"] });
  const [, log] = watched(client, "a");
  await turn();
  const cached = { id: "e:1", recovered: true, messages: [{ channel: "a", id: "e:1", data: 1 }] };
  for (let count = 0; count < 10 && client.state !== "waiting"; count++) await request().answer(cached);
  assert.equal(client.state, "waiting");
  assert.ok(Request.all.length <= 3, `${Request.all.length}`);
  assert.ok(log.length < 8);
});

// Transports.

test("after an outage, the better transport is tried again beside the one in use, less and less often", async () => {
  const client = start({ transports: ["websocket", "sse", "poll"], upgrade: MINUTE });
  const [subscription, log] = watched(client, "a");
  await turn();
  socket().lose();
  await turn();
  await request().open(subscribed("a"));
  const stream = request();
  for (const wait of [MINUTE, 2 * MINUTE, 4 * MINUTE]) {
    const before = Socket.all.length;
    for (let passed = 0; passed < wait; passed += 30000) {
      assert.equal(Socket.all.length, before);
      await tick(30000);
      await stream.bytes(":\n\n");
    }
    assert.equal(Socket.all.length, before + 1);
    socket().lose();
    await turn();
    assert.deepEqual([client.state, client.transport, stream.aborted], ["open", "sse", false]);
  }
  for (let passed = 0; passed < 8 * MINUTE; passed += 30000) {
    await tick(30000);
    await stream.bytes(":\n\n");
  }
  await stream.frames(message("a", 1)); // while it is tried
  assert.equal(subscription.id, "e:1");
  socket().welcome();
  assert.deepEqual([client.transport, client.state, stream.aborted, socket().sent[0].after], ["websocket", "open", true, "e:1"]);
  socket().subscribed("a", "e:1");
  socket().frame(message("a", 2));
  assert.deepEqual(log, [["subscribed", "e:0"], ["message", "e:1"], ["subscribed", "e:1"], ["recovered", "e:1"], ["message", "e:2"]]);
  assert.deepEqual([client.seen("transport"), client.seen("close"), client.seen("open").length], [["sse", "websocket"], [], 1]);
  await tick(20000);
  assert.equal(timers.size, 1);
});

test("a better transport that does not answer costs nothing but its connection", async () => {
  const client = start({ upgrade: MINUTE, timeout: 5000 });
  client.subscribe("a");
  await turn();
  socket().lose();
  await turn();
  await request().stay("text/html");
  await request().answer({ id: "e:0", recovered: false, messages: [] });
  const next = async () => {
    await tick(25000);
    await request().answer({ id: "e:0", recovered: true, messages: [] });
  };
  await next();
  await next();
  await tick(10000);
  assert.equal(Socket.all.length, 2);
  const poll = request();
  await tick(5000);
  assert.deepEqual([socket().closed, poll.aborted, client.transport], [true, false, "poll"]);
  // The next one is an event stream. It works, and takes over from the poll's current position.
  const stream = request();
  assert.equal(stream.init.headers.Accept, "text/event-stream");
  await poll.answer({ id: "e:1", recovered: true, messages: [{ channel: "a", id: "e:1", data: 1 }] });
  await stream.open(subscribed("a", "e:0", { recovered: true }), message("a", 1));
  assert.deepEqual([client.transport, client.state, stream.aborted], ["sse", "open", true]);
  assert.equal(request().query.after, "a=e:1");
  await request().open(subscribed("a", "e:1", { recovered: true }), message("a", 2));
  assert.deepEqual([client.seen("transport"), client.seen("close")], [["poll", "sse"], []]);
  client.close();
  assert.equal(timers.size, 0);
});

test("a transport that keeps reconnecting does not delay the search for a better one", async () => {
  const client = start({ transports: ["websocket", "sse"], upgrade: MINUTE });
  client.subscribe("a");
  await turn();
  socket().lose();
  await turn();
  for (let count = 0; count < 4; count++) {
    await request().open(subscribed("a", "e:0", { recovered: true }));
    await tick(19000);
    await request().end();
    await tick(500);
  }
  assert.ok(Socket.all.length > 1, `${Socket.all.length}`);
});

for (const [name, options] of [["websocket", {}], ["sse", { transports: ["sse", "poll"] }]]) {
  test(`${name}: a transport that opens and is cut at once, three times in a row, counts as failed`, async () => {
    const client = start(options);
    client.subscribe("a");
    for (const delay of [500, 1000, 2000]) {
      await turn();
      if (name === "websocket") {
        socket().welcome();
        socket().lose();
      } else {
        await request().open(subscribed("a"));
        await request().end();
      }
      assert.equal(client.state, "waiting");
      await tick(delay);
    }
    await turn();
    const other = name === "websocket" ? "sse" : "poll";
    await grant(request(), other);
    assert.deepEqual([client.transport, client.state, Socket.all.length], [other, "open", name === "websocket" ? 3 : 0]);
  });
}

test("if every transport is cut at once, they take turns", async () => {
  const client = start({ transports: ["websocket", "sse"], cap: 1000 });
  client.subscribe("a");
  const used = [];
  for (let count = 0; count < 12; count++) {
    await turn();
    const before = Request.all.at(-1);
    if (before && !before.aborted && !before.settled) {
      await before.open(subscribed("a"));
      await before.end();
    } else {
      socket().welcome();
      socket().lose();
    }
    used.push(client.transport);
    await tick(1000);
  }
  assert.deepEqual(used, ["websocket", "websocket", "websocket", "sse", "sse", "sse", "websocket", "websocket", "websocket", "sse", "sse", "sse"]);
});

test("a WebSocket that lived for a while before it was cut is used again", async () => {
  const { client } = await opened();
  for (let count = 0; count < 5; count++) {
    await tick(6000);
    socket().lose();
    await tick(500);
    socket().welcome();
    socket().subscribed("a", "e:0");
  }
  assert.deepEqual([client.transport, Request.all.length], ["websocket", 0]);
});

test("an error event counts as a failure: the next transport is tried at once, and nothing is thrown", async () => {
  const client = start();
  client.subscribe("a");
  await turn();
  socket().fail();
  await turn();
  assert.equal(request().init.headers.Accept, "text/event-stream");
  await grant(request(), "sse");
  assert.equal(client.state, "open");

  const other = start();
  other.subscribe("a");
  await turn();
  other.close(); // while it connects
  assert.equal(socket().closed, true);

  const { client: third } = await opened();
  socket().fail();
  assert.equal(third.state, "open"); // its close event says why
  socket().lose(1006);
  assert.equal(third.state, "waiting");
});

test("a WebSocket that is refused is reported as a failure that may pass, and tried again", async () => {
  const client = start({ transports: ["websocket"] });
  client.subscribe("a");
  await turn();
  socket().fail();
  await turn();
  await grant(request(), "poll"); // by which it looks why: the server is there
  const [{ error }] = client.seen("retry");
  assert.deepEqual([error.code, error.message, error.final], ["network", "The WebSocket did not open.", false]);
  await tick(500);
  assert.equal(Socket.all.length, 2);
});

// Publications.

test("a publication that the server cannot read fails with its own error, and no other publication fails", async () => {
  const { client } = await opened();
  const before = client.publish("a", 1);
  const deep = client.publish("a", 2);
  const after = client.publish("a", 3);
  const asked = client.presence("b");
  const [one, , three, presence] = socket().sent.slice(-4);
  const error = { type: "error", code: "bad-request", message: "It is nested too deeply." };
  socket().frame({ type: "published", channel: "a", id: "e:1", recipients: 1, ref: one.ref });
  const failed = assert.rejects(deep, { code: "bad-request", message: "It is nested too deeply.", final: true });
  socket().frame(error);
  socket().frame({ type: "published", channel: "a", id: "e:2", recipients: 1, ref: three.ref });
  socket().frame({ type: "presence", channel: "b", count: 1, members: [], ref: presence.ref });
  await failed;
  assert.deepEqual([(await before).id, (await after).id, (await asked).count], ["e:1", "e:2", 1]);
  socket().frame(error); // of nobody's
  socket().frame({ ...error, code: "not-subscribed", channel: "a" });
  assert.equal(client.state, "open");
});

test("lone surrogates are published as U+FFFD, as in any text that is sent", async () => {
  const { client } = await opened();
  const data = { "k\udfff": ["\ud800", "\\ud800", "a\ud800b", "😀", "\\", "\u2028\n\""] };
  client.publish("a", data, { key: "\ud800" }).catch(() => {});
  const frame = socket().sent.at(-1);
  assert.deepEqual(frame.data, { "k\ufffd": ["\ufffd", "\\ud800", "a\ufffdb", "😀", "\\", "\u2028\n\""] });
  assert.equal(frame.key, "\ufffd");
  stop();
  const other = start({ transports: ["poll"] });
  for (const each of [data, "\ud800"]) other.publish("a", each, { key: "\ud800" }).catch(() => {});
  await turn();
  assert.deepEqual([JSON.parse(request().init.body), request().query.key], [frame.data, "\ufffd"]);
  await request().answer({ channel: "a", id: "e:1", recipients: 0 });
  assert.equal(request().init.body, "\ufffd");
});

test("1009 fails the publication that is too large, and the others are sent again", async () => {
  const { client } = await opened();
  const small = [client.publish("a", "small"), client.publish("a", "größer".repeat(50))];
  const large = [client.publish("a", "x".repeat(2000)), client.publish("a", "é".repeat(1500)), client.publish("a", "é".repeat(1500))];
  const results = large.map((each) => assert.rejects(each, { code: "too-large", message: "too big", final: true }));
  socket().lose(1009, "too big");
  await Promise.all(results.slice(1));
  assert.equal(client.state, "waiting");
  await tick(500);
  socket().welcome();
  assert.deepEqual(socket().sent.slice(1).map(({ data }) => data.length), [5, 300, 2000]);
  socket().lose(1009, "too big");
  await results[0];
  await tick(1000);
  socket().welcome();
  const again = socket().sent.slice(1);
  assert.deepEqual(again.map(({ data }) => data.length), [5, 300]);
  for (const { ref } of again) socket().frame({ type: "published", channel: "a", id: "e:1", recipients: 1, ref });
  await Promise.all(small);
});

// A publication means the same in a frame and in a request: text, JSON or bytes.
for (const [name, data, expected] of [
  ["an empty text", "", ["text", ""]],
  ["a text", "é", ["text", "é"]],
  ["a date", new Date(0), ["text", "1970-01-01T00:00:00.000Z"]],
  ["a String", new String("s"), ["text", "s"]],
  ["nothing", undefined, ["json", null]],
  ["null", null, ["json", null]],
  ["zero", 0, ["json", 0]],
  ["false", false, ["json", false]],
  ["NaN", NaN, ["json", null]],
  ["an array", [1, undefined], ["json", [1, null]]],
  ["no bytes", new Uint8Array(), ["bytes", []]],
  ["no buffer", new ArrayBuffer(0), ["bytes", []]],
  ["bytes", Uint16Array.of(258).subarray(0), ["bytes", [2, 1]]],
  ["shared bytes", new Uint8Array(new SharedArrayBuffer(2)), ["bytes", [0, 0]]],
  ["a shared buffer", new SharedArrayBuffer(1), ["bytes", [0]]],
]) {
  test(`${name} means the same over each transport`, async () => {
    const { client } = await opened();
    client.publish("a", data, { idempotencyKey: "k" }).catch(() => {});
    const { base64, data: sent, idempotencyKey } = socket().sent.at(-1);
    const frame = base64 === undefined ? [typeof sent === "string" ? "text" : "json", sent] : ["bytes", [...Buffer.from(base64, "base64")]];
    assert.deepEqual([frame, idempotencyKey], [expected, "k"]);
    stop();
    const other = start({ transports: ["poll"] });
    other.publish("a", data, { idempotencyKey: "k" }).catch(() => {});
    await turn();
    const { body, headers } = request().init;
    const posted = {
      "text/plain": () => ["text", body],
      "application/json": () => ["json", JSON.parse(body)],
      "application/octet-stream": () => ["bytes", [...body]],
    }[headers["Content-Type"]]();
    assert.deepEqual([posted, headers["Idempotency-Key"]], [expected, "k"]);
    assert.ok(!(body instanceof Uint8Array) || body.buffer instanceof ArrayBuffer);
  });
}

test("a value that JSON cannot express is a TypeError over each transport", async () => {
  for (const transport of ["websocket", "sse"]) {
    const client = start({ transports: [transport] });
    for (const data of [() => {}, Symbol("s"), { toJSON() {} }, 1n]) await assert.rejects(client.publish("a", data), TypeError);
    assert.deepEqual([client.state, timers.size], ["idle", 0]);
    stop();
  }
});

test("a publication has the value at the time of the call, however often it is sent", async () => {
  for (const transport of ["websocket", "sse"]) {
    const client = start({ transports: [transport] });
    const list = [1];
    const bytes = Uint8Array.of(1);
    for (const each of [list, bytes]) client.publish("a", each).catch(() => {});
    list.push(2);
    bytes[0] = 2;
    await turn();
    if (transport === "websocket") {
      socket().welcome();
      assert.deepEqual(socket().sent.map(({ data, base64 }) => data || base64), [[1], "AQ=="]);
    } else {
      assert.equal(request().init.body, "[1]");
      await request().answer({ channel: "a", id: "e:1", recipients: 0 });
      assert.deepEqual(request().init.body, Uint8Array.of(1));
    }
    stop();
  }
});

test("HTTP: a temporarily refused publication delays its own channel, in order, and no other", async () => {
  const client = start({ transports: ["poll"] });
  const done = [];
  for (const [channel, data] of [["a", 1], ["a", 2], ["b", 3], ["b", 4]]) client.publish(channel, data).then(() => done.push(data), () => {});
  await turn();
  await request().answer({ error: "too-many-requests", message: "", channel: "a" }, 429, { "Retry-After": "2" });
  for (const data of [3, 4]) {
    assert.deepEqual([request().query.channel, request().init.body], ["b", `${data}`]);
    await request().answer({ channel: "b", id: "e:1", recipients: 0 });
  }
  assert.deepEqual(done, [3, 4]);
  const count = Request.all.length;
  await tick(2499);
  assert.equal(Request.all.length, count);
  await tick(1);
  for (const data of [1, 2]) {
    assert.deepEqual([request().query.channel, request().init.body], ["a", `${data}`]);
    await request().answer({ channel: "a", id: "e:1", recipients: 0 });
  }
  assert.deepEqual([done, timers.size], [[3, 4, 1, 2], 0]);
});

test("HTTP: presence requests and publications without an answer in time are given up", async () => {
  const client = start({ transports: ["poll"], timeout: 3000, publishTimeout: 3400 });
  const late = assert.rejects(client.presence("a"));
  const published = assert.rejects(client.publish("a", 1));
  await turn();
  await tick(3000);
  assert.ok(Request.all.every(({ aborted }) => aborted));
  await late;
  await tick(400);
  await published;
  client.close();
  assert.equal(timers.size, 0);
});

// Names.

test("presence, keys and addresses are sent unchanged", async () => {
  const client = start({ transports: ["poll"] });
  for (const channel of ["a#b", "a&b=c", "a b", "ä+"]) {
    const asked = assert.rejects(client.presence(channel), { code: "bad-channel" });
    await turn();
    assert.deepEqual(request().query, { channel, presence: "true" });
    await request().answer({ error: "bad-channel", message: "", channel }, 400);
    await asked;
  }
  client.publish("a#b", 1, { key: "k#&=+ é" }).catch(() => {});
  await turn();
  assert.deepEqual([request().query.channel, request().query.key], ["a#b", "k#&=+ é"]);
  stop();
  start();
  for (const [url, expected] of [
    ["http://host/c#part", "http://host/c?channel=a&presence=true"],
    ["wss://host/c?token=1#part", "https://host/c?token=1&channel=a&presence=true"],
  ]) {
    const other = new TwistedWS(url, { transports: ["poll"], fetch: Request.fetch });
    other.presence("a").catch(() => {});
    await turn();
    assert.equal(request().url.href, expected);
    other.close();
  }
  const third = new TwistedWS("http://host/c#part", { WebSocket: Socket, fetch: Request.fetch });
  third.subscribe("a");
  await turn();
  assert.equal(socket().url, "ws://host/c");
  third.close();
});
