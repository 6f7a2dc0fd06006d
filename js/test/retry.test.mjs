// When the client reconnects, when it does not, and that it leaves nothing behind.

import assert from "node:assert/strict";
import { afterEach, test } from "node:test";

import { TwistedWS } from "../twisted-ws.mjs";
import { Request, Socket, opened, request, socket, start, stop, tick, timers, turn, watched } from "./doubles.mjs";

afterEach(stop);

test("full jitter: each wait is random below a bound that doubles up to the cap", async () => {
  const client = start({ transports: ["sse"], base: 1000, cap: 8000 });
  client.subscribe("a");
  await turn();
  for (const delay of [500, 1000, 2000, 4000, 4000]) {
    await request().fail();
    assert.equal(client.seen("retry").at(-1).delay, delay);
    const before = Request.all.length;
    await tick(delay - 1);
    assert.equal(Request.all.length, before);
    await tick(1);
    assert.equal(Request.all.length, before + 1);
  }
});

test("the server's retry is the base: in its welcome, and in an event stream", async () => {
  const { client } = await opened();
  socket().welcome({ retry: 4000 });
  socket().lose();
  assert.equal(client.seen("retry")[0].delay, 2000);
  client.close();

  const other = start({ transports: ["sse"] });
  other.subscribe("a");
  await turn();
  await request().open();
  await request().bytes("retry: 6000\n\n");
  await request().frames({ type: "subscribed", channel: "a", id: "e:0", recovered: false, count: 0 });
  await request().end();
  assert.equal(other.seen("retry")[0].delay, 3000);
});

test("Retry-After is the minimum wait, in seconds or as a date, and ends the search for another transport", async () => {
  const client = start({ transports: ["sse", "poll"] });
  client.subscribe("a");
  await turn();
  await request().answer({ error: "unavailable", message: "The server is stopping." }, 503, { "Retry-After": "5" });
  assert.equal(Request.all.length, 1);
  assert.deepEqual(client.seen("retry").map(({ delay, error }) => [delay, error.code, error.status]), [[5500, "unavailable", 503]]);
  await tick(5500);
  await request().answer(null, 429, { "Retry-After": new Date(Date.now() + 10000).toUTCString() });
  assert.ok(Request.all.every(({ init }) => init.headers.Accept === "text/event-stream"));
  const { delay } = client.seen("retry")[1];
  assert.ok(delay > 10000 && delay <= 11000, `${delay}`);
});

test("a connection that has lived resets the count of failures, one that was lost at once does not", async () => {
  const { client } = await opened();
  for (const delay of [500, 1000, 2000]) {
    socket().lose();
    assert.equal(client.seen("retry").at(-1).delay, delay);
    await tick(delay);
    socket().welcome();
  }
  await tick(5000);
  socket().lose();
  assert.equal(client.seen("retry").at(-1).delay, 500);
});

for (const code of [1001, 1005, 1006, 1011, 1012, 1013, 4429]) {
  test(`reconnects after ${code}`, async () => {
    const { client } = await opened();
    socket().lose(code, "why");
    assert.equal(client.state, "waiting");
    assert.deepEqual(client.seen("close").map((each) => [each.closeCode, each.message, each.final]), [[code, "why", false]]);
    await tick(500);
    assert.equal(Socket.all.length, 2);
  });
}

for (const code of [1000, 1002, 1003, 1007, 1008, 3000, 4400, 4401, 4403, 4404]) {
  test(`does not reconnect after ${code}, and says why`, async () => {
    const { client, subscription, log } = await opened();
    const publishing = assert.rejects(client.publish("a", 1), { message: "why" });
    socket().lose(code, "why");
    assert.equal(client.state, "closed");
    assert.deepEqual(client.seen("close").map((each) => [each.closeCode, each.message, each.final]), [[code, "why", true]]);
    assert.deepEqual(log.at(-1), ["error", "lost"]);
    assert.equal(subscription.active, false);
    await publishing;
    await tick(1e6);
    assert.equal(Socket.all.length, 1);
    assert.throws(() => client.subscribe("b"), { code: "closed" });
  });
}

test("does not reconnect after 1009, unless a publication was too large", async () => {
  const { client } = await opened();
  socket().lose(1009);
  assert.equal(client.state, "closed");
});

for (const status of [400, 401, 403, 404, 413]) {
  for (const transport of ["sse", "poll"]) {
    test(`${transport}: never again after ${status}, and says why`, async () => {
      const client = start({ transports: [transport, "poll"] });
      const [subscription, log] = watched(client, "a");
      await turn();
      await request().answer({ error: "forbidden", message: "not your order" }, status);
      assert.deepEqual(log, [["error", "forbidden"]]);
      assert.deepEqual(client.seen("error").map((each) => [each.message, each.status, each.final]), [["not your order", status, true]]);
      assert.deepEqual([subscription.active, client.state], [false, "idle"]);
      await tick(1e6);
      assert.equal(Request.all.length, 1);
    });
  }
}

for (const transports of [["websocket"], ["sse"], ["poll"]]) {
  test(`${transports}: what is not a channels service is reported as such, and may become one later`, async () => {
    for (const body of ["<!DOCTYPE html>", "{}", "null"]) {
      const client = start({ transports });
      client.subscribe("a");
      await turn();
      if (transports[0] === "websocket") socket().lose();
      await turn();
      request().resolve(new Response(body, { headers: { "Content-Type": "text/html" } }));
      await turn();
      const [{ error }] = client.seen("retry");
      assert.deepEqual([error.message, error.final, client.state], ["This is not a channels service: check the url.", false, "waiting"]);
    }
  });
}

test("the client is not open after everything was refused", async () => {
  const client = start({ transports: ["sse"] });
  const [, log] = watched(client, "a");
  const refused = assert.rejects(client.publish("a", 1), { code: "not-found", status: 404 });
  await turn();
  await request().answer({ error: "not-found", message: "There is nothing here." }, 404);
  await turn();
  await request().answer({ error: "not-found", message: "There is nothing here." }, 404);
  await refused;
  assert.deepEqual([log, client.state], [[["error", "not-found"]], "idle"]);
  client.subscribe("a"); // and it is asked anew
  await turn();
  assert.deepEqual([client.state, Request.all.length], ["connecting", 3]);
});

test("a refused WebSocket is investigated, because a browser does not say why", async () => {
  const client = start({ transports: ["websocket"] });
  const [, log] = watched(client, "a");
  await turn();
  socket().lose();
  await turn();
  assert.deepEqual([request().query.channel, request().query.wait], ["a", "0"]);
  await request().answer({ id: "e:0", recovered: false, messages: [] });
  assert.equal(client.state, "waiting"); // the service would have it: something else is in the way
  await tick(500);
  socket().lose();
  await turn();
  await request().answer({ error: "unauthorized", message: "log in" }, 401);
  assert.deepEqual(log, [["error", "unauthorized"]]);
  await tick(1e6);
  assert.equal(Socket.all.length, 2);
});

test("the client pings as often as the server says", async () => {
  await opened();
  socket().welcome({ ping: 5 });
  await tick(5000);
  assert.equal(socket().sent.at(-1).type, "ping");
});

test("a silent WebSocket is pinged, and is dead if it does not answer", async () => {
  const { client } = await opened();
  await tick(24999);
  assert.equal(socket().sent.at(-1).type, "subscribe");
  await tick(1);
  assert.equal(socket().sent.at(-1).type, "ping");
  await tick(9999);
  socket().frame({ type: "pong" });
  await tick(25000);
  await tick(9999);
  assert.equal(client.state, "open");
  await tick(1);
  assert.equal(client.state, "waiting");
  assert.equal(client.seen("close")[0].code, "timeout");
  assert.ok(socket().closed);
  await tick(1000);
  assert.equal(Socket.all.length, 2);
});

test("an event stream without even a heartbeat is dead", async () => {
  const client = start({ transports: ["sse"] });
  client.subscribe("a");
  await turn();
  await request().open({ type: "subscribed", channel: "a", id: "e:0", recovered: false, count: 0 });
  await tick(34999);
  await request().bytes(":\n\n");
  await tick(34999);
  assert.equal(client.state, "open");
  await tick(1);
  assert.equal(client.state, "waiting");
  assert.ok(request().aborted);
});

test("a connection that does not answer in time is given up", async () => {
  for (const [transport, all] of [["websocket", Socket.all], ["sse", Request.all], ["poll", Request.all]]) {
    const client = start({ transports: [transport, "poll"], timeout: 3000 });
    client.subscribe("a");
    await turn();
    const [first] = all;
    await tick(3000);
    assert.ok(first.closed || first.aborted);
    assert.equal(Request.all.at(-1).query.wait, "0");
    stop();
  }
});

// The listeners to the browser's network state, for a test.
async function withNetwork(work) {
  const wakes = new EventTarget();
  globalThis.addEventListener = wakes.addEventListener.bind(wakes);
  globalThis.removeEventListener = wakes.removeEventListener.bind(wakes);
  try {
    await work((type) => wakes.dispatchEvent(new Event(type)));
  } finally {
    delete globalThis.addEventListener;
    delete globalThis.removeEventListener;
  }
}

test("it disconnects at once when offline, and reconnects at once when online", () => withNetwork(async (tell) => {
  const { client } = await opened({ base: 1000, cap: 8000 });
  tell("offline");
  assert.deepEqual([client.state, client.seen("offline").length, socket().closed], ["offline", 1, true]);
  assert.deepEqual(client.seen("close").map(({ code, final }) => [code, final]), [["network", false]]);
  tell("offline");
  const late = client.publish("a", "later");
  assert.deepEqual([client.state, client.seen("offline").length, Socket.all.length], ["offline", 1, 1]);
  tell("online");
  await turn();
  assert.equal(Socket.all.length, 2);
  socket().welcome();
  const { ref } = socket().sent.at(-1);
  socket().frame({ type: "published", channel: "a", id: "e:1", recipients: 1, ref });
  assert.equal((await late).id, "e:1");

  // It makes no sense to wait any longer then, or to go on with attempts made without a network.
  socket().lose();
  assert.equal(client.state, "waiting");
  tell("online");
  await turn();
  assert.deepEqual([client.state, Socket.all.length, timers.size], ["connecting", 3, 1]);
  tell("online");
  await turn();
  assert.deepEqual([client.state, Socket.all.length, timers.size], ["connecting", 4, 1]);
  socket().welcome();
  tell("online");
  await turn();
  assert.deepEqual([client.state, Socket.all.length], ["open", 4]);

  // But not while paused.
  client.pause();
  for (const type of ["offline", "online"]) tell(type);
  await turn();
  assert.deepEqual([client.state, Socket.all.length], ["paused", 4]);
  client.resume();
  await turn();
  assert.equal(Socket.all.length, 5);

  client.close();
  for (const type of ["offline", "online"]) tell(type);
  await turn();
  assert.deepEqual([client.state, Socket.all.length], ["closed", 5]);
}));

test("a browser that wrongly says that it is offline does not stop the client", async () => {
  const had = Object.getOwnPropertyDescriptor(globalThis, "navigator");
  Object.defineProperty(globalThis, "navigator", { value: { onLine: false }, configurable: true });
  try {
    const { client } = await opened({ base: 1000, cap: 8000 });
    assert.equal(client.state, "open");
    socket().lose();
    assert.deepEqual([client.state, client.seen("offline").length], ["offline", 2]);
    for (const [count, delay] of [500, 1000, 2000, 4000, 4000].entries()) {
      assert.equal(client.seen("retry").at(-1).delay, delay);
      await tick(delay);
      assert.equal(Socket.all.length, count + 2);
      assert.equal(client.state, "offline");
      socket().lose();
      await turn();
      await request().fail(); // by which it looks why
    }
    await tick(4000);
    socket().welcome();
    assert.deepEqual([client.state, client.seen("offline").length], ["open", 2]);
  } finally {
    if (had) Object.defineProperty(globalThis, "navigator", had);
    else delete globalThis.navigator;
  }
});

test("it reports what it does", async () => {
  const client = start({ transports: ["websocket"] });
  assert.deepEqual([client.state, client.transport], ["idle", null]);
  const subscription = client.subscribe("a");
  await turn();
  socket().welcome();
  socket().lose();
  await tick(500);
  socket().welcome();
  client.pause();
  subscription.unsubscribe();
  client.resume();
  assert.deepEqual(client.seen("state"), ["connecting", "open", "waiting", "connecting", "open", "paused", "idle"]);
  assert.equal(timers.size, 0);
});

test("a function that is asked for the address does not connect the client if it was paused meanwhile", async () => {
  start();
  let answer;
  const client = new TwistedWS(() => new Promise((done) => { answer = done; }), { WebSocket: Socket, fetch: Request.fetch });
  client.subscribe("a");
  client.pause();
  answer("http://host/channels");
  await turn();
  assert.equal(Socket.all.length, 0);
  client.close();
});

test("while paused, it stays disconnected, whatever happens, until it is resumed", async () => {
  const { client } = await opened();
  client.pause();
  client.pause();
  assert.equal(client.state, "paused");
  client.subscribe("b");
  await tick(1e6);
  assert.equal(Socket.all.length, 1);
  client.resume();
  client.resume();
  await turn();
  client.resume();
  await turn();
  assert.equal(Socket.all.length, 2);
  client.close();
  client.pause();
  client.resume();
  assert.deepEqual([client.state, socket().closed], ["closed", true]);
  await assert.rejects(client.presence("a"), { code: "closed" });
});

for (const [when, prepare] of Object.entries({
  "it is open": async () => (await opened()).client,
  "it waits": async () => {
    const { client } = await opened();
    socket().lose();
    return client;
  },
  "a publication waits to be tried again": async () => {
    const client = start({ transports: ["sse"] });
    client.subscribe("a");
    client.publish("a", 1).catch(() => {});
    await turn();
    await request().open({ type: "subscribed", channel: "a", id: "e:0", recovered: false, count: 0 });
    await request().fail();
    return client;
  },
  "it publishes": async () => {
    const client = start({ transports: ["poll"] });
    client.publish("a", 1).catch(() => {});
    await turn();
    return client;
  },
  "it polls": async () => {
    const client = start({ transports: ["poll"] });
    client.subscribe("a");
    await turn();
    return client;
  },
})) {
  test(`close leaves no timer when ${when}, and is reported once`, async () => {
    const client = await prepare();
    assert.notEqual(timers.size, 0);
    client.close();
    client.close();
    assert.equal(timers.size, 0);
    assert.ok(Request.all.every(({ aborted, settled }) => aborted || settled));
    const before = [Socket.all.length, Request.all.length];
    client.resume();
    await tick(1e7);
    assert.deepEqual([Socket.all.length, Request.all.length], before);
    assert.equal(timers.size, 0);
    assert.equal(client.seen("close").filter(({ code }) => code === "closed").length, 1);
  });
}

test("an invalid transport or address is an error at once", () => {
  assert.throws(() => new TwistedWS("http://host/", { transports: ["carrier-pigeon"] }), TypeError);
  assert.throws(() => new TwistedWS("http://host/", { transports: [] }), TypeError);
  assert.throws(() => new TwistedWS("/channels"), TypeError); // there is no page that it could be relative to
});

test("the address may be a function, asked before each connection", async () => {
  start();
  let count = 0;
  const client = new TwistedWS(async () => `ws://host/channels?token=${++count}`, { WebSocket: Socket, fetch: Request.fetch, transports: ["websocket", "sse"] });
  client.subscribe("a");
  await turn();
  assert.equal(socket().url, "ws://host/channels?token=1");
  socket().lose();
  await turn();
  assert.equal(request().url.search, "?token=2&channel=a&format=json");
  client.close();
});
