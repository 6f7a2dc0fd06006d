// A channels server in the page: what a browser sees of it, and nothing else. Its WebSocket and fetch speak the real protocol
// (reference/channels.md), so that the real client can work with it without a network. tests/browser/test_site.py compares both.
"use strict";
(() => {
const KEPT = 8; // messages of a channel; the real server keeps 1,000 for five minutes
const DELAY = 60; // ms that a connection takes to open, so that one sees it
const RETRY = 400; // ms, the base of the client's delays
const HEARTBEAT = 25; // s

class PageServer {
  #channels = new Map();
  #published = new Map(); // idempotency key -> answer
  #epochs = 0;
  subscribers = new Set();
  onpublish = () => {};

  constructor() {
    this.restart();
  }

  // Forget everything, as a server without a history file does; positions of before are of another epoch from now on.
  restart() {
    this.#channels.clear();
    this.#published.clear();
    this.epoch = `e${++this.#epochs}`;
    for (const each of [...this.subscribers]) each.end();
  }

  channel(name) {
    if (!this.#channels.has(name)) this.#channels.set(name, { last: 0, kept: [] });
    return this.#channels.get(name);
  }

  publish(channel, data, { key, idempotencyKey } = {}) {
    const done = this.#published.get(idempotencyKey);
    if (done) return done;
    const history = this.channel(channel);
    const message = { channel, id: `${this.epoch}:${++history.last}`, data };
    if (key !== undefined) message.key = key;
    history.kept = [...history.kept, message].slice(-KEPT);
    let recipients = 0;
    for (const each of [...this.subscribers]) recipients += each.take(message) ? 1 : 0;
    const answer = { channel, id: message.id, recipients };
    if (idempotencyKey !== undefined) this.#published.set(idempotencyKey, answer);
    this.onpublish(message);
    return answer;
  }

  // What follows a position: the table of `after` in the reference.
  resume(channel, after, most) {
    const { last, kept } = this.channel(channel);
    const first = last - kept.length;
    const found = (offset, recovered) => ({ id: `${this.epoch}:${offset}`, recovered, messages: kept.slice(offset - first) });
    if (after == null) return found(most ? Math.max(first, last - most) : last, false);
    if (after === "0") return found(first, true);
    const [epoch, offset] = [after.split(":")[0], Number(after.split(":")[1])];
    if (epoch !== this.epoch) return found(first, false);
    if (offset > last) return found(last, false);
    return offset < first ? found(first, false) : found(offset, true);
  }
}

// One browser's way to the server, which can be cut. `onframe(direction, text)` sees what goes over it.
class Line {
  #open = new Set();
  isCut = false;
  onframe = () => {};

  constructor(server) {
    const line = this;
    this.server = server;
    this.WebSocket = class extends PageSocket {
      constructor(url) {
        super(line, url);
      }
    };
    this.fetch = (url, init) => request(line, new URL(url), init);
  }

  cut() {
    this.isCut = true;
    for (const each of [...this.#open]) each.break();
  }

  mend() {
    this.isCut = false;
  }

  hold(connection) {
    this.#open.add(connection);
    this.server.subscribers.add(connection);
  }

  release(connection) {
    this.#open.delete(connection);
    this.server.subscribers.delete(connection);
  }
}

let connections = 0;

// What a client is subscribed to; `send` takes frames.
class Connection {
  channels = new Set();

  take(message) {
    if (!this.channels.has(message.channel)) return false;
    this.send({ type: "message", ...message });
    return true;
  }
}

class PageSocket {
  #line;
  #connection = Object.assign(new Connection(), {
    send: (frame) => this.#send(frame),
    end: () => this.#lose(1001, "server stops"),
    break: () => this.#lose(1006, ""),
  });

  constructor(line) {
    this.#line = line;
    setTimeout(() => {
      if (line.isCut) return this.#lose(1006, "");
      line.hold(this.#connection);
      this.onopen?.({});
      this.#send({ type: "welcome", version: 1, connection: `${++connections}`, retry: RETRY, ping: HEARTBEAT });
    }, DELAY);
  }

  #send(frame) {
    const data = JSON.stringify(frame);
    this.#line.onframe("in", data);
    this.onmessage?.({ data });
  }

  #lose(code, reason) {
    this.#line.release(this.#connection);
    if (code === 1006) this.onerror?.({});
    this.onclose?.({ code, reason });
  }

  close() {
    this.#line.release(this.#connection);
  }

  send(text) {
    this.#line.onframe("out", text);
    // The answer comes in a later turn, as over a network.
    queueMicrotask(() => this.#line.isCut || this.#answer(JSON.parse(text)));
  }

  #answer({ type, channel, after, last, data, key, idempotencyKey, ref }) {
    const { server } = this.#line;
    const { channels } = this.#connection;
    if (type === "ping") return this.#send({ type: "pong", ref });
    if (type === "publish") return this.#send({ type: "published", ...server.publish(channel, data, { key, idempotencyKey }), ref });
    if (type === "unsubscribe") {
      channels.delete(channel);
      return this.#send({ type: "unsubscribed", channel, ref });
    }
    if (type !== "subscribe") return this.#send({ type: "error", code: "bad-request", message: `unknown type ${type}`, ref });
    if (channels.has(channel)) return this.#send({ type: "error", code: "already-subscribed", message: `${channel} is already subscribed to`, channel, ref });
    const { id, recovered, messages } = server.resume(channel, after, last);
    channels.add(channel);
    this.#send({ type: "subscribed", channel, id, recovered, count: messages.length, ref });
    for (const each of messages) this.#send({ type: "message", ...each });
  }
}

// One HTTP request: an event stream, a poll, or a message to publish.
function request(line, url, { method = "GET", headers = {}, body, signal } = {}) {
  return new Promise((resolve, reject) => {
    const fail = () => reject(new TypeError("Failed to fetch"));
    signal?.addEventListener("abort", fail);
    setTimeout(() => {
      if (line.isCut || signal?.aborted) return fail();
      line.onframe("out", `${method} ${url.pathname}${url.search}`);
      if (method === "POST") return resolve(json(line, post(line, url, headers, body)));
      const channels = url.searchParams.getAll("channel");
      const starts = new Map(channels.map((each) => [each, line.server.resume(each, position(url, "after", channels, each), Number(position(url, "last", channels, each)))]));
      if (headers.Accept === "text/event-stream") resolve(stream(line, starts, signal));
      else poll(line, starts, Number(url.searchParams.get("wait")), signal).then((answer) => resolve(json(line, answer)), fail);
    }, DELAY);
  });
}

// The part of `?after=` (or `?last=`) that concerns one channel: one value, or `a=1,b=2`.
function position(url, name, channels, channel) {
  const given = url.searchParams.get(name);
  if (given === null || !given.includes("=")) return channels.length === 1 || name === "last" ? given : null;
  return given.split(",").map((each) => each.split("=")).find(([each]) => each === channel)?.[1] ?? null;
}

const cursor = (places) => places.size === 1 ? [...places.values()][0] : [...places].map(([name, id]) => `${name}=${id}`).join();

function json(line, answer) {
  const text = JSON.stringify(answer);
  line.onframe("in", text);
  return new Response(text, { headers: { "Content-Type": "application/json" } });
}

function post(line, url, headers, body) {
  const data = headers["Content-Type"] === "application/json" ? JSON.parse(body) : body;
  const key = url.searchParams.get("key") ?? undefined;
  return line.server.publish(url.searchParams.get("channel"), data, { key, idempotencyKey: headers["Idempotency-Key"] });
}

function stream(line, starts, signal) {
  const places = new Map([...starts].map(([channel, { id }]) => [channel, id]));
  const encoder = new TextEncoder();
  let out, beat;
  const over = (finish) => () => {
    line.release(connection);
    clearInterval(beat);
    try {
      finish();
    } catch {} // it has ended already
  };
  const connection = Object.assign(new Connection(), {
    channels: new Set(starts.keys()),
    send(frame) {
      if (frame.type === "message") places.set(frame.channel, frame.id);
      const text = `id: ${cursor(places)}\ndata: ${JSON.stringify(frame)}\n\n`;
      line.onframe("in", text);
      out.enqueue(encoder.encode(text));
    },
    end: over(() => out.close()),
    break: over(() => out.error(new TypeError("network error"))),
  });
  signal?.addEventListener("abort", connection.break);
  const body = new ReadableStream({ start(controller) {
    out = controller;
    line.hold(connection);
    out.enqueue(encoder.encode(`retry: ${RETRY}\n`));
    for (const [channel, { id, recovered, messages }] of starts) {
      connection.send({ type: "subscribed", channel, id, recovered, count: messages.length });
      for (const each of messages) connection.send({ type: "message", ...each });
    }
    beat = setInterval(() => out.enqueue(encoder.encode(":\n\n")), HEARTBEAT * 1000);
  } });
  return new Response(body, { headers: { "Content-Type": "text/event-stream; charset=utf-8" } });
}

function poll(line, starts, wait, signal) {
  return new Promise((resolve, reject) => {
    const places = new Map([...starts].map(([channel, { id }]) => [channel, id]));
    const recovered = [...starts.values()].every((each) => each.recovered);
    const answer = (messages) => {
      for (const { channel, id } of messages) places.set(channel, id);
      resolve({ id: cursor(places), recovered, messages });
    };
    const found = [...starts.values()].flatMap(({ messages }) => messages);
    if (found.length || !wait) return answer(found);
    const over = (finish) => () => {
      line.release(connection);
      clearTimeout(late);
      finish();
    };
    const late = setTimeout(() => connection.end(), wait * 1000);
    const connection = Object.assign(new Connection(), {
      channels: new Set(starts.keys()),
      send: ({ type, ...message }) => over(() => answer([message]))(),
      end: over(() => answer([])),
      break: over(reject),
    });
    signal?.addEventListener("abort", connection.break);
    line.hold(connection);
  });
}

Object.assign(globalThis, { PageServer, Line });
})();
