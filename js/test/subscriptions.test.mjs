// Tokens for subscriptions: asked for together, again when one has expired, and never in a loop. The newest messages, and the way back.

import assert from "node:assert/strict";
import { afterEach, test } from "node:test";

import { Request, Socket, request, socket, start, stop, tick, turn, watched } from "./doubles.mjs";

afterEach(stop);

const EXPIRED = { error: "forbidden", message: "The token has expired.", reason: "expired" };

// A client whose function for subscription tokens notes what it was asked; its answers are `answers`, and then the last again.
function asking(answers, options) {
  const asked = [];
  const client = start({
    transports: ["websocket"],
    subscriptionToken: async (channels) => {
      asked.push(channels);
      const answer = answers.length > 1 ? answers.shift() : answers[0];
      if (answer instanceof Error) throw answer;
      return answer;
    },
    ...options,
  });
  return { client, asked };
}

async function welcomed() {
  await turn();
  socket().welcome();
  await tick(10);
}

const subscribes = () => socket().sent.filter(({ type }) => type === "subscribe").map(({ channel, token }) => [channel, token]);
const refuse = (channel, more) => {
  const { ref } = socket().sent.findLast((each) => each.type === "subscribe" && each.channel === channel);
  socket().frame({ type: "error", code: "forbidden", message: "no", channel, ref, ...more });
};
const grant = (made) => made.init.headers["Channel-Token"];

test("what is subscribed within 10 ms is asked for in one call, while it connects", async () => {
  const { client, asked } = asking([{ a: "one", b: "two" }, "many"]);
  watched(client, "a");
  await tick(5);
  watched(client, "b");
  watched(client, "c.*");
  assert.deepEqual(asked, []);
  await tick(5);
  assert.deepEqual(asked, [["a", "b", "c.*"]]);
  await welcomed();
  assert.deepEqual(subscribes(), [["a", "one"], ["b", "two"], ["c.*", undefined]]);
  watched(client, "length");
  watched(client, "0");
  await tick(10);
  assert.deepEqual(asked[1], ["length", "0"]);
  assert.deepEqual(subscribes().slice(3), [["length", "many"], ["0", "many"]]);
});

test("after a reconnect the token is sent again, and not asked for", async () => {
  const { client, asked } = asking(["one"]);
  watched(client, "a");
  await welcomed();
  socket().subscribed("a", "e:1");
  socket().lose(1001);
  await tick(1000);
  await welcomed();
  assert.equal(Socket.all.length, 2);
  assert.deepEqual([subscribes(), asked.length], [[["a", "one"]], 1]);
});

test("websocket: when it has expired, another is asked for, and nothing is missed", async () => {
  const { client, asked } = asking(["one", "two", "three"]);
  const [, log] = watched(client, "a");
  watched(client, "b");
  await welcomed();
  for (const channel of ["a", "b"]) socket().subscribed(channel, "e:4", { recovered: false });
  for (const channel of ["a", "b"]) socket().frame({ type: "unsubscribed", channel, reason: "expired" });
  await tick(10);
  assert.deepEqual(asked, [["a", "b"], ["a", "b"]]);
  const again = socket().sent.filter(({ token }) => token === "two");
  assert.deepEqual(again.map(({ channel, after }) => [channel, after]), [["a", "e:4"], ["b", "e:4"]]);
  socket().subscribed("a", "e:4");
  socket().frame({ type: "unsubscribed", channel: "a", reason: "expired" }); // the next one, after a while
  await tick(10);
  assert.equal(socket().sent.at(-1).token, "three");
  socket().subscribed("a", "e:4");
  assert.deepEqual(log.map(([type]) => type), ["subscribed", "subscribed", "recovered", "subscribed", "recovered"]);
  assert.deepEqual(client.seen("error"), []);
});

test("websocket: a token that has expired is asked for once more, and is then an error; the others go on", async () => {
  const { client, asked } = asking(["old"]);
  const [subscription, log] = watched(client, "a");
  watched(client, "b");
  await welcomed();
  socket().subscribed("b", "e:0");
  for (let count = 0; count < 2; count++) {
    refuse("a", EXPIRED);
    await tick(10);
  }
  assert.deepEqual([asked.length, subscription.active, client.state], [2, false, "open"]);
  assert.deepEqual(log, [["error", "forbidden"]]);
  assert.equal(client.seen("error")[0].reason, "expired");
  await tick(60000);
  assert.equal(asked.length, 2);
});

test("a token that is refused for another reason is not asked for again", async () => {
  const { client, asked } = asking(["wrong"]);
  const [subscription] = watched(client, "a");
  await welcomed();
  refuse("a", { reason: "another-user" });
  await tick(10);
  assert.deepEqual([asked.length, subscription.active], [1, false]);
});

test("without a function, an expired subscription is an error", async () => {
  const client = start({ transports: ["websocket"] });
  const [subscription] = watched(client, "a");
  await welcomed();
  socket().subscribed("a", "e:0");
  socket().frame({ type: "unsubscribed", channel: "a", reason: "expired" });
  assert.deepEqual([subscription.active, client.seen("error").map(({ code }) => code)], [false, ["unsubscribed"]]);
});

test("if the function throws, takes too long or is wrong, it is asked again with the waits of a refusal", async () => {
  const { client, asked } = asking([new Error("busy"), new Promise(() => {}), "a b", "good"]);
  const [subscription] = watched(client, "a");
  await welcomed();
  await tick(1000);
  assert.equal(asked.length, 2);
  await tick(9000 + 2000);
  assert.equal(asked.length, 3);
  await tick(4000);
  assert.deepEqual([asked.length, subscription.active], [4, true]);
  assert.deepEqual(subscribes(), [["a", "good"]]);
  assert.deepEqual(client.seen("error").map(({ code, final }) => [code, final]), [["token", false], ["token", false], ["network", false]]);
});

test("who unsubscribes, or closes, meanwhile is subscribed to nothing", async () => {
  const { client } = asking(["one"]);
  const [subscription] = watched(client, "a");
  await turn();
  socket().welcome();
  subscription.unsubscribe();
  watched(client, "a");
  await tick(10);
  assert.deepEqual(subscribes(), [["a", "one"]]);
  watched(client, "b");
  client.close();
  await tick(100);
  assert.deepEqual(subscribes(), [["a", "one"]]);
});

test("HTTP: channels with one token share a request, with the token in a header; without one there is none", async () => {
  const { client } = asking([{ a: "one", b: "one", c: "two" }], { transports: ["poll"] });
  for (const channel of ["a", "b", "c", "d"]) watched(client, channel);
  await tick(10);
  const made = Request.all.map((each) => [each.url.searchParams.getAll("channel").join(), grant(each)]);
  assert.deepEqual(made, [["a,b", "one"], ["c", "two"], ["d", undefined]]);
});

test("sse: a channel whose token has expired goes on with another, from where it was", async () => {
  const { client, asked } = asking([{ a: "one" }, { a: "two" }], { transports: ["sse"] });
  const [, log] = watched(client, "a");
  watched(client, "b");
  await tick(10);
  const [first, second] = Request.all;
  await first.open({ type: "subscribed", channel: "a", id: "e:3", recovered: false, count: 0 });
  await second.open({ type: "subscribed", channel: "b", id: "e:5", recovered: false, count: 0 });
  await first.frames({ type: "unsubscribed", channel: "a", reason: "expired" });
  await tick(10);
  assert.deepEqual(asked, [["a", "b"], ["a"]]);
  const [again, other] = Request.all.slice(2);
  assert.deepEqual([grant(again), again.query.after, other.query.after], ["two", "a=e:3", "b=e:5"]);
  await again.open({ type: "subscribed", channel: "a", id: "e:3", recovered: true, count: 0 });
  assert.deepEqual(log.map(([type]) => type), ["subscribed", "subscribed", "recovered"]);
  assert.deepEqual([client.seen("error"), client.seen("close")], [[], []]);
});

for (const transport of ["sse", "poll"]) {
  test(`${transport}: a request with an expired token is made again with another, and once only`, async () => {
    const { client, asked } = asking(["old"], { transports: [transport] });
    const [subscription] = watched(client, "a");
    watched(client, "b");
    await tick(10);
    await request().answer(EXPIRED, 403);
    await tick(10);
    assert.deepEqual([asked, Request.all.length], [[["a", "b"], ["a", "b"]], 2]);
    assert.deepEqual(client.seen("error"), []);
    await request().answer(EXPIRED, 403);
    await tick(60000);
    assert.deepEqual([asked.length, subscription.active, Request.all.length], [2, false, 2]);
    assert.deepEqual(client.seen("error").map(({ code, channel }) => [code, channel]), [["forbidden", "a"], ["forbidden", "b"]]);
  });
}

test("poll: a channel that was refused for a while is asked for with its token", async () => {
  const { client } = asking([{ a: "one", b: "one" }], { transports: ["poll"] });
  watched(client, "a");
  watched(client, "b");
  await tick(10);
  await request().answer({ error: "unavailable", message: "later", channel: "a" }, 503);
  await request().answer({ id: "e:0", recovered: false, messages: [] });
  await tick(2000);
  assert.deepEqual([request().query.channel, grant(request())], ["a", "one"]);
});

test("publications and questions over HTTP have the token of their channel's subscription", async () => {
  const { client } = asking(["one"], { transports: ["poll"] });
  watched(client, "a");
  await tick(10);
  await request().answer({ id: "e:0", recovered: false, messages: [] });
  client.publish("a", 1);
  client.publish("b", 1).catch(() => {});
  client.presence("a").catch(() => {});
  client.history("a").catch(() => {});
  await turn();
  const made = Request.all.filter(({ query, init }) => init.method === "POST" || query.presence || query.last);
  assert.deepEqual(made.map((each) => [each.query.channel, grant(each)]), [["a", "one"], ["a", "one"], ["a", "one"]]);
  await made.find(({ init }) => init.method === "POST").answer({ channel: "a", id: "e:1", recipients: 1 });
  assert.deepEqual([request().query.channel, grant(request())], ["b", undefined]);
});

test("websocket: begins with the newest messages, and comes back where it was", async () => {
  const client = start({ transports: ["websocket"] });
  watched(client, "a", { last: 20 });
  watched(client, "b");
  await welcomed();
  const asked = () => socket().sent.filter(({ type }) => type === "subscribe").map(({ channel, last, after }) => [channel, last, after]);
  assert.deepEqual(asked(), [["a", 20, undefined], ["b", undefined, undefined]]);
  socket().subscribed("a", "e:5", { recovered: false, count: 2 });
  for (const id of ["e:6", "e:7"]) socket().frame({ type: "message", channel: "a", id, data: 1 });
  socket().lose();
  await tick(1000);
  await welcomed();
  assert.deepEqual(asked()[0], ["a", 20, "e:7"]);
});

for (const transport of ["sse", "poll"]) {
  test(`${transport}: the same, for each channel by itself`, async () => {
    const client = start({ transports: [transport] });
    const [, log] = watched(client, "a", { last: 20 });
    watched(client, "b");
    watched(client, "c", { last: 5, after: "e:2" });
    await turn();
    assert.deepEqual([request().query.last, request().query.after], ["a=20", "c=e:2"]);
    const message = (id) => ({ channel: "a", id, data: 1 });
    if (transport === "poll") await request().answer({ id: "a=e:7,b=e:0,c=e:2", recovered: true, messages: [message("e:6"), message("e:7")] });
    else await request().open({ type: "subscribed", channel: "a", id: "e:5", recovered: false, count: 2 }, ...["e:6", "e:7"].map((id) => ({ type: "message", ...message(id) })));
    assert.deepEqual(log, [["subscribed", "e:5"], ["message", "e:6"], ["message", "e:7"]]);
    watched(client, "d", { last: 1 });
    await turn();
    assert.deepEqual([request().query.last, request().query.after.includes("a=e:7")], ["d=1", true]);
  });
}

test("history: over a WebSocket", async () => {
  const client = start({ transports: ["websocket"] });
  watched(client, "a");
  await welcomed();
  const reading = client.history("a", { before: "e:9", limit: 2 });
  const { type, channel, before, limit, ref } = socket().sent.at(-1);
  assert.deepEqual([type, channel, before, limit], ["history", "a", "e:9", 2]);
  const messages = [{ channel: "a", id: "e:7", data: { x: 1 }, key: "k" }, { channel: "a", id: "e:8", base64: "AP8=" }];
  socket().frame({ type: "history", channel: "a", messages, next: "e:7", ref });
  const found = await reading;
  assert.equal(found.next, "e:7");
  assert.deepEqual(found.messages, [{ channel: "a", id: "e:7", data: { x: 1 }, key: "k" }, { channel: "a", id: "e:8", data: new Uint8Array([0, 255]) }]);
  const refused = client.history("a");
  assert.deepEqual([socket().sent.at(-1).before, socket().sent.at(-1).limit], [undefined, 100]);
  socket().frame({ type: "error", code: "forbidden", message: "no", ref: socket().sent.at(-1).ref });
  await assert.rejects(refused, { code: "forbidden" });
  const cut = client.history("a");
  socket().lose();
  await assert.rejects(cut, { code: "network" });
});

test("history: over HTTP, whether connected or not", async () => {
  const client = start({ transports: ["poll"] });
  const messages = ["e:7", "e:8"].map((id) => ({ channel: "a", id, data: id }));
  for (const [options, query, answer, next] of [
    [{ limit: 2 }, { channel: "a", last: "2" }, { id: "e:8", recovered: false, messages }, "e:7"],
    [{ limit: 3 }, { channel: "a", last: "3" }, { id: "e:8", recovered: false, messages }, null],
    [{ before: "e:9" }, { channel: "a", before: "e:9", limit: "100" }, { messages, next: "e:7" }, "e:7"],
    [{ before: "e:9", limit: 2 }, { channel: "a", before: "e:9", limit: "2" }, { messages, next: null }, null],
  ]) {
    const reading = client.history("a", options);
    await turn();
    assert.deepEqual(request().query, query);
    await request().answer(answer);
    assert.deepEqual(await reading, { messages, next });
  }
});

test("invalid arguments are TypeErrors", async () => {
  const client = start();
  for (const last of [0, -1, 1.5, "1", 1e9, NaN]) assert.throws(() => client.subscribe("a", null, { last }), TypeError);
  for (const options of [{ before: "0" }, { before: 7 }, { before: "" }, { limit: 0 }, { limit: 1.5 }]) await assert.rejects(client.history("a", options), TypeError);
  assert.throws(() => start({ subscriptionToken: "token" }), TypeError);
});
