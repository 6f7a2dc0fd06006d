// Doubles of the browser's WebSocket and fetch, and the client on top of them, with a clock that the tests advance.

import { mock } from "node:test";

import { TwistedWS } from "../twisted-ws.mjs";

export class Socket {
  static all = [];

  constructor(url, protocol) {
    Object.assign(this, { url, protocol, sent: [], closed: false });
    Socket.all.push(this);
  }

  send(text) {
    this.sent.push(JSON.parse(text));
  }

  close() {
    this.closed = true;
    if (!this.welcomed) this.fail(); // as one that is given up while it connects
  }

  // Actions of the server.

  frame(frame) {
    this.onmessage?.({ data: JSON.stringify(frame) });
  }

  welcome(more) {
    this.welcomed = true;
    this.frame({ type: "welcome", version: 1, connection: "1", retry: 1000, ping: 25, ...more });
  }

  // Answer the last request for a subscription to `channel`.
  subscribed(channel, id, more) {
    const { ref } = this.sent.findLast((each) => each.type === "subscribe" && each.channel === channel);
    this.frame({ type: "subscribed", channel, id, recovered: true, count: 0, ref, ...more });
  }

  lose(code = 1006, reason = "") {
    this.onclose?.({ code, reason });
  }

  // Node's package "ws" throws if nobody listens; some browsers send only this event.
  fail() {
    if (!this.onerror) throw new Error("an error event without a listener");
    this.onerror({});
  }
}

export class Request {
  static all = [];

  static fetch = (url, init) => new Promise((resolve, reject) => {
    if (init.signal?.aborted) return reject(new Error("aborted")); // nothing is sent
    const request = new Request(new URL(url), init, resolve, reject);
    init.signal?.addEventListener("abort", () => {
      request.aborted = true;
      request.stream?.error(new Error("aborted"));
      reject(new Error("aborted"));
    });
    Request.all.push(request);
  });

  constructor(url, init, resolve, reject) {
    Object.assign(this, { url, init, aborted: false, settled: false, stream: null });
    const settles = (settle) => (value) => {
      this.settled = true;
      settle(value);
    };
    this.resolve = settles(resolve);
    this.reject = settles(reject);
    this.query = Object.fromEntries(url.searchParams);
  }

  // Actions of the server.

  answer(body, status = 200, headers = {}) {
    const text = body === null ? null : JSON.stringify(body);
    this.resolve(new Response(text, { status, headers: { "Content-Type": "application/json", ...headers } }));
    return turn();
  }

  stay(type) {
    const body = new ReadableStream({ start: (controller) => { this.stream = controller; } });
    this.resolve(new Response(body, { headers: { "Content-Type": type } }));
    return turn();
  }

  open(...frames) {
    this.stay("text/event-stream; charset=utf-8");
    return this.frames(...frames);
  }

  frames(...frames) {
    return this.bytes(frames.map((each) => `data: ${JSON.stringify(each)}\n\n`).join(""));
  }

  async bytes(text) {
    if (text) this.stream.enqueue(typeof text === "string" ? new TextEncoder().encode(text) : text);
    await turn();
  }

  async end() {
    this.stream.close();
    await turn();
  }

  async fail() {
    this.reject(new TypeError("Failed to fetch"));
    await turn();
  }
}

// Run everything that is ready.
export const turn = () => new Promise((done) => setImmediate(() => setImmediate(done)));

// The clock: whatever is due runs in order, and nothing happens in between.

const real = { setTimeout: globalThis.setTimeout, clearTimeout: globalThis.clearTimeout, now: Date.now };
let now = 0;

// The running timers.
export const timers = new Map();

function stopClock() {
  let count = 0;
  timers.clear();
  globalThis.setTimeout = (work, milliseconds) => {
    // As in browsers and Node: a time that does not fit into 31 bits counts as 0.
    timers.set(++count, { work, at: now + (milliseconds >= 1 && milliseconds < 2 ** 31 ? milliseconds : 1) });
    return count;
  };
  globalThis.clearTimeout = (timer) => timers.delete(timer);
  Date.now = () => now;
}

export async function tick(milliseconds) {
  const end = now + milliseconds;
  for (;;) {
    const [due] = [...timers].filter(([, { at }]) => at <= end).sort(([, one], [, other]) => one.at - other.at);
    if (!due) break;
    timers.delete(due[0]);
    now = Math.max(now, due[1].at);
    due[1].work();
    await turn();
  }
  now = end;
  await turn();
}

export const socket = () => Socket.all.at(-1);
export const request = () => Request.all.at(-1);

let client = null;

export function start(options = {}) {
  stop();
  Socket.all.length = Request.all.length = 0;
  stopClock();
  mock.method(Math, "random", () => 0.5);
  client = new TwistedWS("http://host:8080/channels", { WebSocket: Socket, fetch: Request.fetch, ...options });
  client.log = [];
  for (const type of ["open", "close", "retry", "offline", "transport", "error", "state", "degraded", "restored"]) {
    client.on(type, (detail) => client.log.push([type, detail]));
  }
  client.seen = (type) => client.log.filter(([each]) => each === type).map(([, detail]) => detail);
  return client;
}

export function stop() {
  client?.close();
  client = null;
  Object.assign(globalThis, { setTimeout: real.setTimeout, clearTimeout: real.clearTimeout });
  Date.now = real.now;
  mock.restoreAll();
}

// Subscribe, and record every event in `log`.
export function watched(to, channel, options) {
  const log = [];
  const subscription = to.subscribe(channel, (message) => log.push(["message", message.id]), options);
  for (const type of ["subscribed", "recovered", "lost", "error", "join", "leave", "presence"]) {
    subscription.on(type, (detail) => log.push([type, detail?.code || detail?.id || detail]));
  }
  return [subscription, log];
}

// A client whose WebSocket is open.
export async function opened(options) {
  const made = start({ transports: ["websocket"], ...options });
  const [subscription, log] = watched(made, "a");
  await turn();
  socket().welcome();
  socket().subscribed("a", "e:0", { recovered: false });
  return { client: made, subscription, log };
}
