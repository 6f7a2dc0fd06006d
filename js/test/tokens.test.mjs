// A function for tokens: asked before each connection and before the end of one, and never in a loop.

import assert from "node:assert/strict";
import { afterEach, test } from "node:test";

import { Request, Socket, request, socket, start, stop, tick, turn, watched } from "./doubles.mjs";

afterEach(stop);

const EMPTY = { id: "e:0", recovered: false, messages: [] };
const jwt = (exp) => `h.${btoa(JSON.stringify({ exp }))}.s`;

// A client with a function for tokens, which notes why it was asked; its answers are `tokens`, and then the last of them again.
async function asking(tokens, options) {
  const reasons = [];
  const client = start({
    transports: ["websocket"],
    token: async ({ reason }) => {
      reasons.push(reason);
      const answer = tokens.length > 1 ? tokens.shift() : tokens[0];
      if (answer instanceof Error) throw answer;
      return answer;
    },
    ...options,
  });
  const [subscription, log] = watched(client, "a");
  await tick(0);
  await turn();
  return { client, reasons, subscription, log };
}

const requests = () => socket().sent.filter(({ type }) => type === "auth");

test("a WebSocket offers the token as a subprotocol, in base64 if it has other characters", async () => {
  await asking(["a.b-c"]);
  assert.deepEqual(socket().protocol, ["twisted-ws.v1", "twisted-ws.bearer.a.b-c"]);
  await asking(["a/b="]);
  assert.deepEqual(socket().protocol, ["twisted-ws.v1", "twisted-ws.bearer64.YS9iPQ"]);
});

test("requests have it in a header; a token that lives long enough is used again", async () => {
  const { reasons } = await asking([jwt(100), jwt(200)], { transports: ["poll"] });
  assert.equal(request().init.headers.Authorization, `Bearer ${jwt(100)}`);
  await request().answer(EMPTY);
  for (const id of ["e:1", "e:2", "e:3"]) {
    await tick(23000);
    await request().answer({ ...EMPTY, id, recovered: true });
    assert.deepEqual(reasons, ["connect"]);
  }
  await tick(2000);
  await request().answer({ ...EMPTY, id: "e:4", recovered: true });
  assert.equal(request().init.headers.Authorization, `Bearer ${jwt(200)}`);
  assert.deepEqual(reasons, ["connect", "connect"]);
});

test("it is renewed over the open connection, before it ends", async () => {
  const { reasons, client } = await asking(["one", "two", "three"]);
  socket().welcome({ user: "ann", expires: 600, ping: 100000 });
  socket().subscribed("a", "e:0");
  await tick(512000);
  assert.deepEqual(requests(), []);
  await tick(28000);
  const [{ token, ref }] = requests();
  assert.deepEqual([token, reasons], ["two", ["connect", "refresh"]]);
  socket().frame({ type: "auth", user: "ann", expires: 100, ref });
  await tick(80000);
  assert.deepEqual(requests().map((each) => each.token), ["two", "three"]);
  assert.equal(Socket.all.length, 1);
  assert.deepEqual(client.seen("error"), []);
});

test("a refused renewal is told, and the connection goes on to its end", async () => {
  const { client } = await asking(["one", "two"]);
  socket().welcome({ user: "ann", expires: 10 });
  await tick(8000);
  socket().frame({ type: "error", code: "unauthorized", message: "no", ref: requests()[0].ref });
  await turn();
  assert.deepEqual([client.state, client.seen("error").map(({ code }) => code)], ["open", ["unauthorized"]]);
});

test("after 4401 it comes back with a new token, and after a second one it ends", async () => {
  const { client, reasons } = await asking(["one", "two", "three"]);
  socket().welcome();
  await tick(6000);
  socket().lose(4401, "expired");
  await tick(1000);
  assert.deepEqual(socket().protocol[1], "twisted-ws.bearer.two");
  assert.deepEqual(reasons, ["connect", "expired"]);
  socket().welcome();
  socket().lose(4401, "expired");
  await tick(60000);
  assert.deepEqual([client.state, Socket.all.length], ["closed", 2]);
});

test("a connection that has lasted may end with its token again and again", async () => {
  const { client } = await asking(["one"]);
  for (let count = 1; count < 6; count++) {
    socket().welcome();
    await tick(6000);
    socket().lose(4401, "expired");
    await tick(1000);
    assert.equal(Socket.all.length, count + 1);
  }
  assert.notEqual(client.state, "closed");
});

test("the same for a 401", async () => {
  const { client, reasons, subscription } = await asking(["one", "two", "three"], { transports: ["sse", "poll"] });
  await request().answer({ error: "unauthorized", reason: "expired", message: "expired" }, 401);
  await tick(1000);
  assert.equal(request().init.headers.Authorization, "Bearer two");
  assert.deepEqual(reasons, ["connect", "expired"]);
  await request().answer({ error: "unauthorized", reason: "expired", message: "expired" }, 401);
  await tick(60000);
  assert.deepEqual([subscription.active, client.seen("error").at(-1).code, Request.all.length], [false, "unauthorized", 2]);
});

test("a publication that is on its way when the token ends is repeated with the new one", async () => {
  const { client } = await asking(["one", "two", "three"], { transports: ["poll"] });
  await request().answer(EMPTY);
  const waiting = request();
  const published = client.publish("a", 1);
  await turn();
  const post = request();
  assert.deepEqual([waiting.init.headers.Authorization, post.init.headers.Authorization], ["Bearer one", "Bearer one"]);
  await waiting.answer({ error: "unauthorized", reason: "expired", message: "expired" }, 401);
  await post.answer({ error: "unauthorized", reason: "expired", message: "expired" }, 401);
  await tick(1000);
  const again = Request.all.findLast(({ query }) => query.wait);
  assert.equal(again.init.headers.Authorization, "Bearer two");
  await again.answer(EMPTY);
  await tick(2000);
  const repeated = Request.all.findLast(({ init }) => init.method === "POST");
  assert.equal(repeated.init.headers.Authorization, "Bearer two");
  await repeated.answer({ channel: "a", id: "e:1", recipients: 1 });
  assert.equal((await published).id, "e:1");
});

test("one that is refused with the new token, too, fails", async () => {
  const { client } = await asking(["one", "two", "three"], { transports: ["sse"] });
  await request().open({ type: "subscribed", channel: "a", id: "e:0", recovered: false, count: 0 });
  const failed = assert.rejects(client.publish("a", 1), { code: "unauthorized" });
  for (const token of ["one", "two"]) {
    await tick(2000);
    assert.equal(request().init.headers.Authorization, `Bearer ${token}`);
    await request().answer({ error: "unauthorized", reason: "expired", message: "expired" }, 401);
  }
  await failed;
});

test("an event stream that has expired comes back with a new token", async () => {
  await asking([jwt(1000), jwt(2000)], { transports: ["sse"] });
  await request().open({ type: "subscribed", channel: "a", id: "e:0", recovered: false, count: 0 });
  await request().frames({ type: "expired" });
  await request().end();
  await tick(1000);
  assert.equal(request().init.headers.Authorization, `Bearer ${jwt(2000)}`);
  assert.equal(request().query.after, "a=e:0");
});

test("without a function, 4401 and 401 are the end", async () => {
  const client = start({ transports: ["websocket"] });
  watched(client, "a");
  await turn();
  assert.equal(socket().protocol, "twisted-ws.v1");
  socket().welcome({ user: "ann", expires: 60 });
  await tick(59000);
  assert.deepEqual(requests(), []);
  socket().lose(4401, "expired");
  assert.equal(client.state, "closed");
});

test("null ends the client: nobody is logged in", async () => {
  const { client } = await asking([null]);
  assert.deepEqual([client.state, client.seen("close")[0].code, Socket.all.length], ["closed", "unauthorized", 0]);
});

test("if it throws, it is asked again with the waits of a connection; the same if it takes too long", async () => {
  const { client, reasons } = await asking([new Error("no network"), new Error("no network"), "one"]);
  assert.deepEqual([Socket.all.length, client.state], [0, "waiting"]);
  await tick(500);
  await tick(1000);
  assert.deepEqual([reasons.length, Socket.all.length], [3, 1]);
  let count = 0;
  const slow = start({ transports: ["websocket"], token: () => { count++; return new Promise(() => {}); } });
  watched(slow, "a");
  await turn();
  await tick(8000);
  assert.deepEqual([count, slow.state], [1, "connecting"]);
  await tick(1000);
  assert.deepEqual([count, slow.state], [1, "waiting"]);
  await tick(500);
  assert.equal(count, 2);
});

test("one call at a time, however many ask", async () => {
  let count = 0;
  const client = start({ transports: ["poll"], token: () => { count++; return new Promise((done) => setTimeout(() => done("one"), 100)); } });
  watched(client, "a");
  client.publish("b", 1).catch(() => {});
  client.presence("a").catch(() => {});
  await tick(50);
  assert.deepEqual([count, Request.all.length], [1, 0]);
  await tick(110);
  assert.equal(count, 1);
  assert.ok(Request.all.length >= 2);
});
