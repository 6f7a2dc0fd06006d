// Each message of a subscription arrives once and in order, by every transport; each publication is published once.

import assert from "node:assert/strict";
import { afterEach, mock, test } from "node:test";

import { TwistedWSError } from "../twisted-ws.mjs";
import { Request, Socket, opened, request, socket, start, stop, tick, timers, turn, watched } from "./doubles.mjs";

afterEach(stop);

const subscribed = (channel, id, more) => ({ type: "subscribed", channel, id, recovered: false, count: 0, ...more });
const message = (channel, offset, data = offset) => ({ type: "message", channel, id: `e:${offset}`, data });

// Transports.

test("WebSocket, event stream, poll: when one fails, the next is tried, and one that worked is kept", async () => {
  const client = start();
  client.subscribe("a");
  await turn();
  assert.deepEqual([socket().url, socket().protocol], ["ws://host:8080/channels", "twisted-ws.v1"]);
  socket().lose();
  await turn();
  assert.equal(request().init.headers.Accept, "text/event-stream");
  await request().stay("text/html");
  assert.deepEqual(request().query, { channel: "a", wait: "0" });
  await request().answer({ id: "e:0", recovered: false, messages: [] });
  assert.deepEqual([client.transport, client.seen("transport"), client.seen("retry")], ["poll", ["poll"], []]);
  await request().fail();
  await tick(500);
  assert.deepEqual(request().query, { channel: "a", after: "a=e:0", wait: "0" });
  assert.equal(Socket.all.length, 1);
});

test("a transport that has worked is not kept for ever", async () => {
  const { client } = await opened({ transports: ["websocket", "sse"] });
  for (const delay of [500, 1000, 2000]) {
    socket().lose();
    assert.equal(Request.all.length, 0);
    await tick(delay);
  }
  socket().lose();
  await turn();
  assert.equal(Request.all.length, 1);
  await request().open(subscribed("a", "e:0", { recovered: true }));
  assert.equal(client.transport, "sse");
});

test("without a WebSocket here, the other transports are used", async () => {
  const client = start({ WebSocket: undefined });
  client.subscribe("a");
  await turn();
  assert.equal(request().init.headers.Accept, "text/event-stream");
});

test("the transport that worked is remembered for the next page, if there is storage", async () => {
  const kept = new Map();
  globalThis.sessionStorage = { getItem: (name) => kept.get(name) ?? null, setItem: (name, value) => kept.set(name, value) };
  try {
    start({ transports: ["websocket", "sse"] }).subscribe("a");
    await turn();
    socket().lose();
    await turn();
    await request().open(subscribed("a", "e:0"));
    assert.deepEqual([...kept], [["twisted-ws.v1 http://host:8080/channels", "sse"]]);
    start({ transports: ["websocket", "sse"] }).subscribe("a");
    await turn();
    assert.deepEqual([Socket.all.length, Request.all.length], [0, 1]);
  } finally {
    delete globalThis.sessionStorage;
  }
});

// Resume.

test("websocket: resumes after the last id; a loss is reported", async () => {
  const { log } = await opened();
  socket().frame(message("a", 1));
  socket().frame(message("a", 2));
  socket().lose();
  await tick(500);
  const [before] = Socket.all;
  before.frame(message("a", 3)); // too late: it comes by the new connection
  socket().welcome();
  assert.equal(socket().sent[0].after, "e:2");
  socket().frame(message("a", 2)); // before the answer nothing counts
  socket().subscribed("a", "e:2", { count: 1 });
  socket().frame(message("a", 3));
  socket().lose();
  await tick(1000);
  socket().welcome();
  socket().subscribed("a", "f:0", { recovered: false });
  socket().frame({ ...message("a", 1), id: "f:1" });
  assert.deepEqual(log, [
    ["subscribed", "e:0"], ["message", "e:1"], ["message", "e:2"],
    ["subscribed", "e:2"], ["recovered", "e:2"], ["message", "e:3"],
    ["subscribed", "f:0"], ["lost", "f:0"], ["message", "f:1"],
  ]);
});

test("websocket: a loss that the server reports without being asked is reported; an outage, too", async () => {
  const client = start({ transports: ["websocket"] });
  const [a, log] = watched(client, "a");
  await turn();
  socket().welcome();
  socket().subscribed("a", "e:1", { recovered: false });
  for (const type of ["degraded", "restored"]) socket().frame({ type });
  socket().frame(subscribed("a", "f:7"));
  socket().frame(subscribed("b", "f:7"));
  assert.deepEqual(log, [["subscribed", "e:1"], ["subscribed", "f:7"], ["lost", "f:7"]]);
  assert.deepEqual([a.id, a.recovered, client.seen("degraded").length, client.seen("restored").length], ["f:7", false, 1, 1]);
});

test("event stream: resumes after the last id of each channel; pieces of any size; a loss is reported", async () => {
  const client = start({ transports: ["sse"] });
  const [, a] = watched(client, "a");
  const [, b] = watched(client, "b", { after: "e:7" });
  await turn();
  assert.deepEqual(request().url.search, "?channel=a&channel=b&after=b=e:7&format=json");
  await request().open(subscribed("a", "e:0"), subscribed("b", "e:7", { recovered: true }));
  const text = new TextEncoder().encode(`id: x\r\ndata: ${JSON.stringify(message("a", 1, "größer"))}\r\n\r\n:\n\n`);
  for (const each of text) await request().bytes(Uint8Array.of(each));
  await request().frames(message("b", 8));
  await request().bytes(`data: ${JSON.stringify(message("b", 9)).slice(0, -1)}`); // cut in the middle
  await request().end();
  await tick(500);
  assert.equal(request().query.after, "a=e:1,b=e:8");
  await request().open(subscribed("a", "f:0"), subscribed("b", "e:8", { recovered: true }), message("b", 9));
  assert.deepEqual(a, [["subscribed", "e:0"], ["message", "e:1"], ["subscribed", "f:0"], ["lost", "f:0"]]);
  assert.deepEqual(b, [
    ["subscribed", "e:7"], ["recovered", "e:7"], ["message", "e:8"], ["subscribed", "e:8"], ["recovered", "e:8"], ["message", "e:9"],
  ]);
});

test("poll: requests its position at once, then waits; resumes after the last id; a loss is reported for its channel", async () => {
  const client = start({ transports: ["poll"] });
  const [, a] = watched(client, "a");
  const [, b] = watched(client, "b", { after: "0" });
  await turn();
  assert.deepEqual([request().query.wait, request().query.after], ["0", "b=0"]);
  const { type, ...first } = message("b", 1);
  await request().answer({ id: "a=e:5,b=e:1", recovered: true, messages: [first] });
  assert.deepEqual([request().query.wait, request().query.after], ["25", "a=e:5,b=e:1"]);
  await request().fail();
  await tick(500);
  assert.deepEqual([request().query.wait, request().query.after], ["0", "a=e:5,b=e:1"]);
  await request().answer({ id: "a=e:9,b=e:2", recovered: false, messages: [{ ...message("a", 9) }, { ...message("b", 2) }] });
  await tick(20000);
  await request().answer({ id: "a=e:9,b=e:2", recovered: true, messages: [] });
  await tick(1);
  await request().answer({ id: "a=f:0,b=e:2", recovered: false, messages: [] });
  assert.deepEqual(a, [
    ["subscribed", "e:5"], ["subscribed", "e:8"], ["lost", "e:8"], ["message", "e:9"], ["subscribed", "f:0"], ["lost", "f:0"],
  ]);
  assert.deepEqual(b, [
    ["subscribed", "e:0"], ["recovered", "e:0"], ["message", "e:1"], ["subscribed", "e:1"], ["recovered", "e:1"], ["message", "e:2"],
  ]);
  assert.equal(type, "message");
});

test("poll: empty responses that come at once do not cause a loop without a pause", async () => {
  const client = start({ transports: ["poll"] });
  client.subscribe("a");
  await turn();
  await request().answer({ id: "e:0", recovered: false, messages: [] });
  await request().answer({ id: "e:0", recovered: true, messages: [] });
  assert.equal(client.state, "waiting");
});

// A page may go offline at any moment: messages in flight then come again, once.
for (const transport of ["websocket", "sse", "poll"]) {
  for (const when of ["in the middle of what comes", "between what was sent and what was read"]) {
    test(`${transport}: paused ${when}`, async () => {
      const client = start({ transports: [transport] });
      const got = [];
      client.subscribe("a", ({ data }) => {
        got.push(data);
        if (data === 2 && when.includes("middle")) client.pause();
      });
      const send = async (offset, last) => {
        const messages = [];
        for (let each = offset + 1; each <= last; each++) messages.push(message("a", each));
        if (transport === "poll") return request().answer({ id: `e:${last}`, recovered: true, messages: messages.map(({ type, ...rest }) => rest) });
        if (transport === "sse") return request().open(subscribed("a", `e:${offset}`, { recovered: true }), ...messages);
        socket().welcome();
        socket().subscribed("a", `e:${offset}`);
        for (const each of messages) socket().frame(each);
        return turn();
      };
      await turn();
      const sent = send(0, 4);
      if (when.includes("between")) client.pause();
      await sent;
      assert.equal(client.state, "paused");
      const seen = got.length;
      assert.ok(transport === "websocket" || seen === (when.includes("middle") ? 2 : 0), `${got}`);
      client.resume();
      await turn();
      await send(seen, 4);
      assert.deepEqual(got, [1, 2, 3, 4]);
    });
  }
}

test("event stream: data that was read but not handled before a pause comes again", async () => {
  const client = start({ transports: ["sse"] });
  const [, log] = watched(client, "a");
  await turn();
  await request().open(subscribed("a", "e:0"));
  const sent = request().frames(message("a", 1));
  client.pause();
  await sent;
  client.resume();
  await turn();
  await request().open(subscribed("a", "e:0", { recovered: true }), message("a", 1));
  assert.deepEqual(log.map(([type]) => type), ["subscribed", "subscribed", "recovered", "message"]);
});

// Subscriptions.

for (const transport of ["sse", "poll"]) {
  test(`${transport}: a subscription more or less is a new request, from the same position`, async () => {
    const client = start({ transports: [transport] });
    const [a, log] = watched(client, "a");
    await turn();
    const answer = (...frames) => transport === "sse" ? request().open(...frames)
      : request().answer({ id: frames.map(({ channel, id }) => `${channel}=${id}`).join().replace(/^a=([^,]*)$/, "$1"), recovered: false, messages: [] });
    await answer(subscribed("a", "e:3"));
    const before = request();
    client.subscribe("b");
    client.subscribe("c");
    await turn();
    assert.ok(before.aborted);
    assert.deepEqual([request().url.searchParams.getAll("channel"), request().query.after], [["a", "b", "c"], "a=e:3"]);
    client.subscribe("d"); // while it is asked
    await turn();
    await answer(...["a", "b", "c", "d"].map((each) => subscribed(each, "e:3", { recovered: each === "a" })));
    a.unsubscribe();
    a.unsubscribe();
    await turn();
    assert.deepEqual(request().url.searchParams.getAll("channel"), ["b", "c", "d"]);
    assert.deepEqual(log, [["subscribed", "e:3"], ["subscribed", "e:3"], ["recovered", "e:3"]]);
    assert.deepEqual([client.seen("close"), client.seen("open").length], [[], 1]);
  });
}

test("websocket: after unsubscribing and subscribing again at once, the new subscription gets nothing of the old one", async () => {
  const client = start({ transports: ["websocket"] });
  const subscription = client.subscribe("a");
  await turn();
  socket().welcome();
  subscription.unsubscribe();
  subscription.unsubscribe();
  const [, log] = watched(client, "a");
  const [first, second, third] = socket().sent;
  assert.deepEqual([first.type, second.type, third.type], ["subscribe", "unsubscribe", "subscribe"]);
  socket().frame({ ...subscribed("a", "e:0"), ref: first.ref });
  socket().frame(message("a", 1));
  socket().frame({ type: "unsubscribed", channel: "a" });
  socket().subscribed("a", "e:1");
  socket().frame(message("a", 2));
  assert.deepEqual(log, [["subscribed", "e:1"], ["message", "e:2"]]);
});

test("a channel has one subscription", async () => {
  const { client } = await opened();
  assert.throws(() => client.subscribe("a"), /already/);
});

test("a refusal on a WebSocket is reported and final; a temporary one is tried again", async () => {
  const { client } = await opened();
  const [b, log] = watched(client, "b");
  const { ref } = socket().sent.at(-1);
  const asked = () => socket().sent.filter(({ channel }) => channel === "b").length;
  socket().frame({ type: "error", code: "unavailable", message: "full", channel: "b", ref });
  assert.deepEqual([b.active, asked()], [true, 1]);
  await tick(500);
  assert.equal(asked(), 2);
  const again = socket().sent.at(-1);
  socket().frame({ type: "error", code: "forbidden", message: "no", channel: "b", ref: again.ref });
  assert.deepEqual(log, [["error", "unavailable"], ["error", "forbidden"]]);
  assert.deepEqual(client.seen("error").map(({ code, channel, final }) => [code, channel, final]), [["unavailable", "b", false], ["forbidden", "b", true]]);
  await tick(20000);
  assert.deepEqual([b.active, client.state, asked()], [false, "open", 2]);
});

for (const transport of ["sse", "poll"]) {
  test(`${transport}: one refused channel does not affect the others`, async () => {
    const client = start({ transports: [transport] });
    const [, a] = watched(client, "a");
    const [, b] = watched(client, "b");
    await turn();
    await request().answer({ error: "forbidden", message: "not b", channel: "b" }, 403);
    assert.deepEqual([request().url.searchParams.getAll("channel"), a, b], [["a"], [], [["error", "forbidden"]]]);
    assert.deepEqual(client.seen("error").map(({ code, message, channel, status, final }) => [code, message, channel, status, final]), [["forbidden", "not b", "b", 403, true]]);
  });
}

test("when a whole request is refused, all of its channels have failed", async () => {
  const client = start({ transports: ["sse"] });
  const logs = ["a", "b"].map((each) => watched(client, each)[1]);
  await turn();
  await request().answer(null, 451);
  assert.deepEqual(logs, [[["error", "http-451"]], [["error", "http-451"]]]);
  assert.deepEqual(client.seen("error").map(({ channel }) => channel), ["a", "b"]);
  assert.equal(client.state, "idle");
});

test("a subscription that the server ends is reported, and not made again", async () => {
  for (const transport of ["websocket", "sse"]) {
    const client = start({ transports: [transport] });
    const [a, log] = watched(client, "a");
    await turn();
    const ended = { type: "unsubscribed", channel: "a", reason: "be nice" };
    if (transport === "websocket") {
      socket().welcome();
      socket().subscribed("a", "e:0");
      socket().frame(ended);
    } else {
      await request().open(subscribed("a", "e:0"), ended);
      await request().end();
    }
    assert.deepEqual([a.active, log.at(-1)], [false, ["error", "unsubscribed"]]);
    await tick(1e5);
    assert.equal(Request.all.length, transport === "sse" ? 1 : 0);
    stop();
  }
});

test("a pattern gets what it matches; after a reconnect it says that it cannot know what was missed", async () => {
  const { client, log: a } = await opened();
  const [, all] = watched(client, "*");
  const [pattern, orders] = watched(client, "orders.*");
  for (const each of ["*", "orders.*"]) socket().subscribed(each, null, { recovered: false });
  for (const each of ["a", "orders.42", "orders", "ordersx"]) socket().frame(message(each, 1));
  assert.deepEqual(all.length, 5);
  assert.deepEqual(orders, [["subscribed", null], ["message", "e:1"]].map(([type, id]) => [type, id || subscribedDetail("orders.*")]));
  assert.deepEqual(a.at(-1), ["message", "e:1"]);
  pattern.unsubscribe();
  socket().frame(message("orders.43", 1));
  assert.equal(orders.length, 2);
  socket().lose();
  await tick(500);
  socket().welcome();
  assert.equal("after" in socket().sent[1], false);
  socket().subscribed("*", null, { recovered: false });
  assert.equal(all.at(-1)[0], "lost");
});

const subscribedDetail = (channel) => ({ channel, id: null, recovered: false, count: 0, after: null });

test("poll: patterns have no position, and each response begins anew", async () => {
  const client = start({ transports: ["poll"] });
  const [, log] = watched(client, "orders.*");
  await turn();
  for (const offset of [1, 2]) {
    await request().answer({ id: null, recovered: false, messages: [{ ...message("orders.42", offset) }] });
    assert.equal("after" in request().query, false);
  }
  assert.deepEqual(log.map(([type]) => type), ["subscribed", "message", "subscribed", "lost", "message"]);
});

test("binary messages are bytes, and a key is passed on", async () => {
  const { subscription } = await opened();
  const got = [];
  subscription.on("message", ({ data, key }) => got.push([data, key]));
  socket().frame({ type: "message", channel: "a", id: "e:1", base64: "AP8=" });
  socket().frame({ type: "message", channel: "a", id: "e:2", data: { x: 1 }, key: "k" });
  assert.deepEqual(got, [[Uint8Array.of(0, 255), undefined], [{ x: 1 }, "k"]]);
});

test("an exception in a listener is reported, and does not stop the others; a removed listener is not called", async () => {
  const { subscription, log } = await opened();
  const reported = [];
  mock.method(globalThis, "queueMicrotask", (work) => reported.push(work));
  subscription.on("message", () => { throw new Error("oh"); });
  const off = subscription.on("message", ({ id }) => log.push(["second", id]));
  socket().frame(message("a", 1));
  assert.equal(reported.length, 1);
  assert.throws(reported[0], { message: "oh" }); // which a browser reports as uncaught
  off();
  socket().frame(message("a", 2));
  assert.deepEqual(log.slice(1), [["message", "e:1"], ["second", "e:1"], ["message", "e:2"]]);
});

test("a message that is not a frame is a broadcast; unknown frames are ignored", async () => {
  const { client } = await opened();
  const broadcasts = [];
  client.on("broadcast", (text) => broadcasts.push(text));
  socket().frame({ type: "news", channel: "a" });
  socket().frame({ type: "error", code: "not-subscribed", message: "", channel: "a", ref: 99 });
  assert.deepEqual([client.state, client.seen("error")], ["open", []]);
  for (const data of ["Hello!", "[1]", "null", "2"]) socket().onmessage({ data });
  assert.deepEqual([client.state, broadcasts], ["open", ["Hello!", "[1]", "null", "2"]]);
});

test("a broadcast is a broadcast, even if it looks like a channel message", async () => {
  const { client, log } = await opened();
  const broadcasts = [];
  client.on("broadcast", (data) => broadcasts.push(data));
  const forged = { ...message("a", 1), type: "message" };
  socket().frame({ type: "broadcast", data: forged });
  socket().frame({ type: "broadcast", data: JSON.stringify(forged) });
  socket().frame({ type: "broadcast", base64: "AP8=" });
  assert.deepEqual(broadcasts, [forged, JSON.stringify(forged), Uint8Array.of(0, 255)]);
  assert.deepEqual(log, [["subscribed", "e:0"]]);
});

// Presence.

test("presence: requested on a WebSocket, and its changes are reported", async () => {
  const { client } = await opened();
  const [, log] = watched(client, "b", { presence: true });
  assert.equal(socket().sent.at(-1).presence, true);
  socket().subscribed("b", "e:0", { presence: { count: 1, members: [] } });
  socket().frame({ type: "join", channel: "b", member: { user: "ann" } });
  socket().frame({ type: "leave", channel: "b", member: { user: "ann" } });
  assert.deepEqual(log.slice(1), [["presence", { count: 1, members: [] }], ["join", { user: "ann" }], ["leave", { user: "ann" }]]);

  const asked = client.presence("b");
  const refused = assert.rejects(client.presence("c"), { code: "forbidden" });
  const cut = assert.rejects(client.presence("d"), { code: "network" });
  const [b, c] = socket().sent.slice(-3);
  socket().frame({ type: "presence", channel: "b", count: 2, members: [], ref: b.ref });
  socket().frame({ type: "error", code: "forbidden", message: "", channel: "c", ref: c.ref });
  socket().lose();
  assert.deepEqual(await asked, { count: 2, members: [] });
  await refused;
  await cut;
});

test("presence: by polling, for one channel and for several", async () => {
  const client = start({ transports: ["poll"] });
  const [, a] = watched(client, "a", { presence: true });
  await turn();
  assert.equal(request().query.presence, "true");
  await request().answer({ id: "e:0", recovered: false, messages: [], presence: { count: 1, members: [] } });
  assert.deepEqual(a.at(-1), ["presence", { count: 1, members: [] }]);
  client.subscribe("b");
  await turn();
  await request().answer({ id: "a=e:0,b=e:0", recovered: true, messages: [], presence: { a: { count: 2 }, b: { count: 3 } } });
  assert.deepEqual(a.at(-1), ["presence", { count: 2 }]);
  const asked = client.presence("c");
  await turn();
  assert.deepEqual(request().query, { channel: "c", presence: "true" });
  await request().answer({ id: "e:0", recovered: false, messages: [], presence: { count: 4, members: [] } });
  assert.deepEqual(await asked, { count: 4, members: [] });
});

// Publishing.

test("websocket: an unanswered publication is sent again on the next connection, with the same key", async () => {
  const { client } = await opened();
  const published = client.publish("a", { n: 1 }, { key: "k" });
  const raw = client.publish("a", Uint8Array.of(0, 255).subarray(1));
  const buffer = client.publish("a", Uint8Array.of(1, 2).buffer, { idempotencyKey: "mine" });
  const nothing = client.publish("a");
  const frames = socket().sent.slice(-4);
  assert.deepEqual(frames.map(({ data, base64 }) => [data, base64]), [[{ n: 1 }, undefined], [undefined, "/w=="], [undefined, "AQI="], [null, undefined]]);
  assert.deepEqual([frames[0].key, frames[2].idempotencyKey], ["k", "mine"]);
  assert.equal(new Set(frames.map((each) => each.idempotencyKey)).size, 4);
  socket().frame({ type: "published", channel: "a", id: "e:1", recipients: 1, ref: frames[0].ref });
  const running = timers.size;
  assert.deepEqual(await published, { channel: "a", id: "e:1", recipients: 1 });
  assert.equal(running, 1 + 3); // the heartbeat, and those that are not answered
  socket().lose();
  await tick(500);
  socket().welcome();
  assert.deepEqual(socket().sent.slice(1), frames.slice(1)); // after the subscription: who publishes gets its own
  for (const { ref } of frames) socket().frame({ type: "published", channel: "a", id: "e:2", recipients: 1, ref });
  await Promise.all([raw, buffer, nothing]);
});

test("websocket: a refused publication says why; a temporarily refused one is tried again", async () => {
  const { client } = await opened();
  const refused = assert.rejects(client.publish("a", 1), (error) => error instanceof TwistedWSError && error.code === "forbidden" && error.message === "no");
  const failed = assert.rejects(client.publish("a", 1), { code: "internal-error" });
  const later = client.publish("a", 2);
  const [first, second, third] = socket().sent.slice(-3);
  const count = socket().sent.length;
  socket().frame({ type: "error", code: "forbidden", message: "no", channel: "a", ref: first.ref });
  socket().frame({ type: "error", code: "internal-error", message: "", channel: "a", ref: second.ref });
  socket().frame({ type: "error", code: "unavailable", message: "", channel: "a", ref: third.ref });
  await refused;
  await failed;
  await tick(500);
  assert.deepEqual(socket().sent.slice(count), [third]);
  socket().frame({ type: "published", channel: "a", id: "e:2", recipients: 0, ref: third.ref });
  assert.equal((await later).id, "e:2");
});

test("websocket: a publication that is too large fails, and the client goes on", async () => {
  const { client } = await opened();
  const refused = assert.rejects(client.publish("a", "x".repeat(2000)), { code: "too-large", message: "too big", final: true });
  socket().lose(1009, "too big");
  await refused;
  assert.equal(client.state, "waiting");
});

test("a value that JSON cannot express is rejected at once, and leaves nothing behind", async () => {
  const { client } = await opened();
  const circle = {};
  circle.circle = circle;
  for (const data of [circle, 1n]) await assert.rejects(client.publish("a", data), TypeError);
  assert.equal(socket().sent.at(-1).type, "subscribe");
  socket().lose();
  await tick(500);
  socket().welcome();
  assert.deepEqual(socket().sent.map(({ type }) => type), ["subscribe"]);
});

test("HTTP: publications are sent one after another, in order, by type; again with the same key if there was no answer", async () => {
  const client = start({ transports: ["sse"] });
  const results = [client.publish("a", "text", { key: "k&" }), client.publish("b", { n: 1 }), client.publish("c", Uint8Array.of(9)), client.publish("d", "")];
  const expected = [["a", "text/plain", "text"], ["b", "application/json", '{"n":1}'], ["c", "application/octet-stream", Uint8Array.of(9)], ["d", "text/plain", ""]];
  for (const [channel, type, body] of expected) {
    await turn();
    assert.deepEqual([request().init.method, request().query.channel, request().init.headers["Content-Type"], request().init.body], ["POST", channel, type, body]);
    const key = request().init.headers["Idempotency-Key"];
    await request().fail();
    await tick(500);
    assert.equal(request().init.headers["Idempotency-Key"], key);
    await request().answer({ error: "unavailable", message: "" }, 503, { "Retry-After": "1" });
    await tick(2000);
    await request().answer({ channel, id: "e:1", recipients: 0 });
  }
  assert.deepEqual((await Promise.all(results)).map(({ channel }) => channel), ["a", "b", "c", "d"]);
  assert.equal(Request.all[0].query.key, "k&");
  assert.equal(Request.all.length, 12);
  assert.equal(timers.size, 0);
});

test("HTTP: a refused publication says why, and the next goes on", async () => {
  const client = start({ transports: ["poll"] });
  const refused = assert.rejects(client.publish("a", 1), { code: "forbidden", status: 403 });
  const broken = assert.rejects(client.publish("a", 2), { code: "internal-error", status: 500 });
  const published = client.publish("a", 3);
  await turn();
  await request().answer({ error: "forbidden", message: "no" }, 403);
  await request().answer({ error: "internal-error", message: "" }, 500);
  await request().answer({ channel: "a", id: "e:1", recipients: 0 });
  await Promise.all([refused, broken, published]);
});

test("a publication is given up at last, with the last reason", async () => {
  const client = start({ transports: ["websocket"], publishTimeout: 60000 });
  const late = assert.rejects(client.publish("a", 1), { code: "timeout" });
  await tick(60000);
  await late;
  assert.equal(Request.all.length, 0);
  client.close();
  const other = start({ transports: ["sse"] });
  const failed = assert.rejects(other.publish("a", 1), { code: "network" });
  await turn();
  await request().fail();
  await tick(60000);
  await failed;
  const closed = assert.rejects(other.publish("a", 1), { code: "closed" });
  other.close();
  await closed;
  await assert.rejects(other.publish("a", 1), { code: "closed" });
});

test("a publication goes on after a pause", async () => {
  const client = start({ transports: ["sse"] });
  const published = client.publish("a", 1);
  await turn();
  client.pause();
  assert.ok(request().aborted);
  await tick(20000);
  assert.equal(Request.all.length, 1);
  client.resume();
  await turn();
  assert.equal(Request.all.length, 2);
  await request().answer({ channel: "a", id: "e:1", recipients: 0 });
  await published;
  client.subscribe("a");
  await turn();
  assert.equal(request().query.format, "json");
});
